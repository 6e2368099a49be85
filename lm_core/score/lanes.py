"""A numba type for LANES float32 numbers that are computed with at once, one register or a few of them.

LLVM vectorises plain loops only where it can prove that arrays don't overlap, and kernels that slide windows over
images are beyond it. With this type the arithmetic is written once per vector: `+ − ×` between vectors and scalars,
loads and stores, and the few functions below become the machine's vector instructions, whatever their width.
Kernels that use it take flat arrays, index them with `at` (no wrap-around) and allocate nothing, so that they may be
compiled without reference counting: `@njit(**KERNEL)`.
"""

import operator
import struct
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core.typing import templates
from numba.extending import models

# Their declared types describe the decorators, not what they make of a function.
intrinsic: Any = extending.intrinsic
register_model: Any = extending.register_model
lower_builtin: Any = extending.lower_builtin
infer_global: Any = templates.infer_global

LANES = 32
KERNEL: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy", "_nrt": False, "cache": True}

# Sums may be reordered and infinities don't occur: the smallest logit is a finite −3e38.
FAST = ("contract", "reassoc", "nnan", "ninf", "nsz", "arcp")
FLOAT, INT = ir.FloatType(), ir.IntType(32)
VECTOR, INTEGERS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)

# 2^r on [0, 1) by a polynomial of degree five, relative error below 2e-7; highest power first.
EXP2 = (1.8775767e-3, 8.9893397e-3, 5.5826318e-2, 2.4015361e-1, 6.9315308e-1, 9.9999994e-1)
LOWEST_EXPONENT = -60.0  # 2^-60 and its square are normal numbers; denormal ones are a hundred times slower


class Lanes(types.Type):
    """LANES float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


def _constant(x: float) -> ir.Constant:
    exact = struct.unpack("f", struct.pack("f", x))[0]
    return ir.Constant(VECTOR, [exact] * LANES)


def _splat(builder: Any, value: Any) -> Any:
    empty = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(INTEGERS, [0] * LANES))


def _define(operation: Any, instruction: str) -> None:
    """Give vectors a binary operator, also with a scalar on either side."""

    @infer_global(operation)
    class Typing(templates.AbstractTemplate):  # pyright: ignore[reportUnusedClass]
        def generic(self, args: Any, kws: Any) -> Any:
            if lanes in args and all(arg == lanes or isinstance(arg, types.Float) for arg in args):
                return templates.signature(lanes, *[arg if arg == lanes else types.float32 for arg in args])
            return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left, right = (arg if kind == lanes else _splat(builder, arg) for arg, kind in zip(args, sig.args, strict=True))
        return getattr(builder, instruction)(left, right, flags=FAST)

    for sig in ((lanes, lanes), (lanes, types.float32), (types.float32, lanes)):
        lower_builtin(operation, *sig)(lower)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


def _pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])


def _call(builder: Any, name: str, result: Any, args: list) -> Any:
    function = builder.module.declare_intrinsic(name, (), ir.FunctionType(result, [arg.type for arg in args]))
    return builder.call(function, args, fastmath=FAST)


@intrinsic
def at(typing: Any, array: Any, index: Any) -> Any:
    """array[index] of a flat array, index from 0."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, sig.args[0], *args))

    return array.dtype(array, types.intp), generate


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The LANES numbers of a flat float32 or uint8 array from an index on."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _pointer(context, builder, sig.args[0], *args)
        if array.dtype == types.uint8:
            bytes_ = ir.PointerType(ir.VectorType(ir.IntType(8), LANES))
            return builder.uitofp(builder.load(builder.bitcast(place, bytes_), align=1), VECTOR)
        return builder.load(builder.bitcast(place, ir.PointerType(VECTOR)), align=4)

    return lanes(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Put LANES numbers into a flat float32 array from an index on."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _pointer(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(place, ir.PointerType(VECTOR)), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def accumulate(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Add both halves of a vector to the LANES // 2 numbers of a flat float32 array from an index on.

    Where only the total of all lanes matters, half of the memory is read and written.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        unknown, half = ir.Constant(VECTOR, ir.Undefined), LANES // 2
        halves = [
            builder.shuffle_vector(args[2], unknown, ir.Constant(ir.VectorType(INT, half), list(range(first, last))))
            for first, last in ((0, half), (half, LANES))
        ]
        place = _pointer(context, builder, sig.args[0], args[0], args[1])
        place = builder.bitcast(place, ir.PointerType(ir.VectorType(FLOAT, half)))
        grown = builder.fadd(builder.load(place, align=4), builder.fadd(*halves, flags=FAST), flags=FAST)
        builder.store(grown, place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One number in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return lanes(types.float32), generate


@intrinsic
def any_above(typing: Any, vector: Any, value: Any) -> Any:
    """Whether any lane exceeds a number."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        above = builder.fcmp_ordered(">", args[0], _splat(builder, args[1]), flags=("nnan",))
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(above, bits), ir.Constant(bits, 0))

    return types.boolean(lanes, types.float32), generate


@intrinsic
def where_zero(typing: Any, test: Any, yes: Any, no: Any) -> Any:
    """Lane by lane: yes where test is zero, else no."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = builder.fcmp_ordered("==", args[0], _constant(0.0))
        return builder.select(zero, args[1], args[2])

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def highest(typing: Any, vector: Any) -> Any:
    """The largest lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.vector.reduce.fmax.v{LANES}f32", FLOAT, args)

    return types.float32(lanes), generate


@intrinsic
def positive(typing: Any, vector: Any) -> Any:
    """Each lane, or zero where it is negative."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.maxnum.v{LANES}f32", VECTOR, [args[0], _constant(0.0)])

    return lanes(lanes), generate


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """The sum of the lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", FLOAT, [ir.Constant(FLOAT, 0.0), *args])

    return types.float32(lanes), generate


@intrinsic
def exp2(typing: Any, vector: Any) -> Any:
    """2 to the power of each lane, lanes below LOWEST_EXPONENT taken as that; relative error below 4e-7."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x = _call(builder, f"llvm.maxnum.v{LANES}f32", VECTOR, [args[0], _constant(LOWEST_EXPONENT)])
        whole = _call(builder, f"llvm.floor.v{LANES}f32", VECTOR, [x])
        rest = builder.fsub(x, whole)
        result = _constant(EXP2[0])
        for factor in EXP2[1:]:
            result = builder.fadd(builder.fmul(result, rest, flags=FAST), _constant(factor), flags=FAST)
        exponent = builder.add(builder.fptosi(whole, INTEGERS), ir.Constant(INTEGERS, [127] * LANES))
        bits = builder.shl(exponent, ir.Constant(INTEGERS, [23] * LANES))
        return builder.fmul(result, builder.bitcast(bits, VECTOR), flags=FAST)

    return lanes(lanes), generate
