"""Choose and report the device; say how much memory a computation may take there, and free it; one lock per device.

Torch is imported inside the functions, so that importing this module probes nothing.
"""

import contextlib
import ctypes
import gc
import os
import platform
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from lm_core.errors import ParameterError, ResourceError

if TYPE_CHECKING:
    import torch

MIB = 2**20
SMALLEST_BUDGET = 64 * MIB
CPU_BUDGET = 512 * MIB  # a chunk beyond the caches gains nothing on a CPU, and many sessions may share the machine


@dataclass(frozen=True)
class DeviceFacts:
    """What a page or `doctor` says about a device.

    Attributes:
        name: of the processor or card; kind: "cpu", "cuda" or "mps".
        memory_total, memory_free: bytes, of the card or of the machine.
        threads: CPU threads that torch uses.
        dtype: what networks train fastest in, "bfloat16" or "float32"; score machines always compute in float32.
    """

    name: str
    kind: str
    memory_total: int
    memory_free: int
    threads: int
    dtype: str


def choose_device(name: str = "auto") -> "torch.device":
    """Return the device of that name; "auto" takes the first of cuda, mps, cpu that is there.

    Raises:
        ParameterError: the name is unknown or this machine has no such device; none is put in its place.
    """
    import torch

    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in there:
        raise ParameterError(f"device is {name!r}; this machine has {', '.join(there)} (or auto for the first).")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Return the names of this machine's devices, the fastest kind first."""
    import torch

    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return cards + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def describe(device: "torch.device") -> DeviceFacts:
    """Return name, memory, threads and training dtype of a device."""
    import torch

    memory = psutil.virtual_memory()
    total, free, name = memory.total, memory.available, processor_name()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        total = int(torch.mps.recommended_max_memory())
        free = min(free, total - int(torch.mps.driver_allocated_memory()))
    return DeviceFacts(
        name=name,
        kind=device.type,
        memory_total=int(total),
        memory_free=int(free),
        threads=torch.get_num_threads(),
        dtype="bfloat16" if bfloat16_is_fast(device) else "float32",
    )


def bfloat16_is_fast(device: "torch.device") -> bool:
    """Tell whether the device multiplies bfloat16 in hardware; elsewhere autocast is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def memory_budget_bytes(device: "torch.device") -> int:
    """Return how much memory one computation's buffers may take: a part of what is free now.

    A quarter of the free memory and at most 512 MiB on a CPU, half of the free memory on a card.

    Raises:
        ResourceError: not even 64 MiB are free.
    """
    free = describe(device).memory_free
    budget = min(free // 4, CPU_BUDGET) if device.type == "cpu" else free // 2
    if free < SMALLEST_BUDGET:
        raise ResourceError(
            f"Only {free // MIB} MiB of memory are free on {device}; close other programs, or free memory on the "
            "Machine page."
        )
    return max(budget, min(free, SMALLEST_BUDGET))


def processor_name() -> str:
    """Return the CPU's trade name where the system tells it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or os.name


_forget: list[Callable[[], None]] = []


def on_release(forget: Callable[[], None]) -> None:
    """Have `release_memory` call this: a module's own way to drop what it can load or compute again."""
    _forget.append(forget)


def process_memory_bytes() -> int:
    """Return how much of the machine's memory this process holds."""
    return psutil.Process().memory_info().rss


def release_memory() -> int:
    """Drop every cache registered with `on_release` and hand free memory back to the system and the card.

    Returns:
        Bytes of the machine's memory that this process holds less than before.
    """
    before = process_memory_bytes()
    for forget in _forget:
        forget()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed until it is told
        ctypes.CDLL(None).malloc_trim(0)
    return max(before - process_memory_bytes(), 0)


_registry = threading.Lock()
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def device_lock(device: "torch.device | str") -> threading.Lock:
    """Return the one lock of a device, for whoever computes there outside its job queue."""
    name = "cuda:0" if str(device) == "cuda" else str(device)
    with _registry:
        return _locks[name]
