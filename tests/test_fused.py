"""The fused kernel against float64, here by Triton's interpreter; on a machine with a card, on the card."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_core.errors import ParameterError
from lm_core.score.candidates import Area
from lm_core.score.machines import ExactEngine, can_fuse

ROOT = Path(__file__).resolve().parents[1]
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no build for this platform")


@pytest.fixture(autouse=True)
def interpreted():
    """Triton reads this when it is imported, which nothing but the kernel does."""
    assert CUDA or os.environ["TRITON_INTERPRET"] == "1"  # conftest.py


def some_images(count: int, channels: int, side: int = 8) -> np.ndarray:
    images = np.random.default_rng(count).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    images[0] = 128
    images[:, :, :3] = 0  # blank patches are counted, not compared
    return images


def noisy(images: np.ndarray, level: float, batch: int = 2) -> torch.Tensor:
    clean = torch.tensor(images[1 : 1 + batch]).double() / 127.5 - 1
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (level**0.5 * clean + (1 - level) ** 0.5 * noise).float()


def fused(images: np.ndarray, machine: str, **options) -> ExactEngine:
    return ExactEngine(images, machine, device=DEVICE, fused=True, **options)


@pytest.mark.parametrize(
    ("machine", "channels", "patch_size", "level"),
    [("els", 1, 5, 0.5), ("els", 3, 3, 0.9), ("bbels", 1, 3, 0.999), ("bbels", 3, 5, 0.1), ("bbels", 1, 7, 0.5)],
)
def test_fused_equals_float64(machine, channels, patch_size, level):
    images = some_images(5, channels)
    x = noisy(images, level)
    engine = fused(images, machine)
    assert issubclass(engine.area, Area) and engine.area is not Area
    found = engine.denoise(x, level, patch_size)
    exact = ExactEngine(images, machine, dtype=torch.float64).denoise(x.double(), level, patch_size)
    assert float((found.mean.cpu() - exact.mean).abs().max()) < 2e-5
    torch.testing.assert_close(found.effective_samples.cpu().double(), exact.effective_samples, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.top_weight.cpu().double(), exact.top_weight, rtol=0, atol=1e-5)
    apart = (exact.top_weight[..., :-1] - exact.top_weight[..., 1:]) > 1e-4  # elsewhere rounding may swap two
    apart = torch.cat([apart, torch.zeros_like(apart[..., :1])], -1) & torch.cat([apart[..., :1], apart], -1)
    for name in ("top_image", "top_y", "top_x"):
        assert bool((getattr(found, name).cpu() == getattr(exact, name))[apart].all())
    assert int(apart.sum()) > 20


@pytest.mark.parametrize("programs", [1, 100])
def test_of_equal_candidates_the_first_is_the_heavier(programs, monkeypatch):
    """Twelve copies of one image: every candidate ties with eleven others, and eight are kept, in their order."""
    from lm_core.score import fused as kernel

    monkeypatch.setattr(kernel, "PROGRAMS_PER_PROCESSOR", programs)  # 100 make as many splits as there are tiles
    images = np.repeat(some_images(2, 1)[1:], 12, axis=0)
    found = fused(images, "els").denoise(noisy(images, 0.9999), 0.9999, 5)
    compared = found.top_weight[..., 0] > 0.08  # the best patch of every copy weighs a twelfth
    assert int(compared.sum()) > 50
    assert bool((found.top_image[compared] == torch.arange(8, device=found.top_image.device)).all())


def test_splits_and_chunks_change_nothing(monkeypatch):
    from lm_core.score import fused as kernel

    images = some_images(6, 1)
    x = noisy(images, 0.7)
    whole = fused(images, "els").denoise(x, 0.7, 3)
    monkeypatch.setattr(kernel, "PROGRAMS_PER_PROCESSOR", 24)  # 128 rows are two blocks: twelve splits wanted, 8 tiles
    asked: list[tuple[int, int]] = []
    plain = kernel.posterior

    def watched(queries, keys, offsets, bar, splits, precision):
        asked.append((splits, -(-len(keys.starts) // kernel.BLOCK["TILE"])))
        return plain(queries, keys, offsets, bar, splits, precision)

    monkeypatch.setattr(kernel, "posterior", watched)
    split = fused(images, "els", chunk_bytes=16_000).denoise(x, 0.7, 3)
    assert len(asked) > 1
    assert any(splits > tiles > 1 for splits, tiles in asked), asked  # some split has nothing to do
    torch.testing.assert_close(split.mean, whole.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(split.effective_samples, whole.effective_samples, rtol=1e-5, atol=0)
    assert bool((split.top_image == whole.top_image).all()) and bool((split.top_x == whole.top_x).all())


def test_few_candidates_leave_the_rest_of_the_top_empty():
    """An area of four candidates: one image of 8 × 8, compared by bbELS with P = 7."""
    images = some_images(3, 1)[1:2]
    found = fused(images, "bbels").denoise(noisy(some_images(3, 1), 0.5, 1), 0.5, 7)
    assert found.top_image[0, 4, 4].tolist()[4:] == [-1] * 4  # 2 × 2 interior places of one image
    torch.testing.assert_close(found.top_weight.sum(-1), torch.ones_like(found.top_weight[..., 0]), rtol=0, atol=1e-5)


def test_without_a_card_nothing_is_fused():
    assert not can_fuse(torch.device("cpu"), torch.float32)
    assert ExactEngine(some_images(2, 1), "els").area is Area
    with pytest.raises(ParameterError, match="float32"):
        fused(some_images(2, 1), "els", dtype=torch.float64)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lm_core.score import fused
block = dict(fused.BLOCK)
options = {"num_warps": block.pop("num_warps")}
for channels, precision in ((1, "ieee"), (3, "ieee"), (3, "tf32x3")):
    constants = block | {"CHANNELS": channels, "SUMS": 4 if channels == 1 else 8, "K": 8, "PRECISION": precision}
    kinds = {"sums_ptr": "*fp64", "start_ptr": "*i32", "offset_ptr": "*i32", "index_ptr": "*i32"}
    kinds |= dict.fromkeys(("rows", "length", "candidates", "per_split"), "i32") | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "*fp32") for name in fused.attend.arg_names}
    source = ASTSource(fn=fused.attend, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    print(len(made.asm["cubin"]), made.metadata.shared)
"""


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_the_kernel_compiles_for_cards(capability):
    """To machine code, by the assembler that Triton brings: for a T4, an A100 and an H100; 48 kB is what all have."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = COMPILE.replace("CAPABILITY", str(capability))
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    sizes = [tuple(map(int, line.split())) for line in run.stdout.split("\n") if line]
    assert len(sizes) == 3
    for size, shared in sizes:
        assert size > 1000 and shared <= 48 * 1024


@pytest.mark.skipif(CUDA, reason="this machine has a card")
def test_the_benchmark_without_a_card_says_what_it_needs():
    from lm_core.bench_gpu import exact_gpu
    from lm_core.errors import ResourceError

    with pytest.raises(ResourceError, match="needs a CUDA card"):
        exact_gpu()
