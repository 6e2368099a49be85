"""Indexes of patches: what they leave out is bounded, what they find is the exact posterior, their files are safe."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core import __main__ as command_line
from lm_core.artifacts import load_dataset
from lm_core.diffusion.schedule import alpha_bar
from lm_core.errors import JobCancelled, ParameterError
from lm_core.score import cells, index, index_files, lanes, sliding
from lm_core.score.fast import FastEngine
from lm_core.score.index import Index
from tests.test_fast import assert_same, distance, error_of, exact, noise, noised, pictures, scaled

pytestmark = pytest.mark.usefixtures("single_threaded_torch")

KINDS = ("random", "sparse", "equal", "constant", "one bright pixel", "equal but for a bit")
ROOT = Path(__file__).parents[1]


def quiet(share: float) -> None:
    """Report to nobody."""


class Indexed(FastEngine):
    """A fast engine with an index in memory, which it asks as long as it takes."""

    index_share = float("inf")

    def __init__(self, images: np.ndarray, machine: str, patch_size: int, tolerance: float = 0.008) -> None:
        super().__init__(images, machine, tolerance=tolerance, threads=2)
        self.index = index.build(images, machine, patch_size, self.centre, threads=2, on_share=quiet)

    def find_index(self, patch_size: int) -> Index | None:
        return self.index


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LM_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return load_dataset("mnist").images


@st.composite
def questions(draw):
    """Images of a kind, a noisy one at some level, a machine, and a patch size that fits."""
    sides = draw(st.tuples(st.integers(3, 11), st.integers(3, 11)))
    shape = (draw(st.integers(1, 60)), draw(st.sampled_from((1, 3))), *sides)
    seed, level = draw(st.integers(0, 2**16)), draw(st.sampled_from((1e-4, 0.3, 0.7, 0.97, 0.9999)))
    images = pictures(draw(st.sampled_from(KINDS)), shape, seed)
    clean = scaled(images[seed % len(images)])[None]
    x = {
        "noised": noised(clean, level, seed),
        "clean": torch.from_numpy((level**0.5 * clean).astype(np.float32)),
        "noise": noise(*clean.shape, seed=seed),
        "huge": 1e3 * noise(*clean.shape, seed=seed),
        "grey": torch.full(clean.shape, seed / 2**15 - 1),
    }[draw(st.sampled_from(("noised", "clean", "noise", "huge", "grey")))]
    patch_size = draw(st.sampled_from((3, 5) if min(sides) >= 5 else (3,)))
    return images, x, level, patch_size, draw(st.sampled_from(index.MACHINES)), draw(st.sampled_from((0, 0.004, 0.1)))


@given(asked=questions())
@settings(max_examples=100, deadline=None, derandomize=True, report_multiple_bugs=False)
def test_the_bound_holds_with_what_the_index_left_out(asked):
    images, x, level, patch_size, machine, tolerance = asked
    got = Indexed(images, machine, patch_size, tolerance).denoise(x, level, patch_size)
    bound, deviation = error_of(got)
    off = distance(got, exact(images, machine, x, level, patch_size))
    assert (off <= bound + 1e-6)[deviation == 0].all(), (off - bound)[deviation == 0].max()
    assert not deviation[..., patch_size // 2 : -(patch_size // 2), patch_size // 2 : -(patch_size // 2)].any()
    assert (got.top_weight >= 0).all() and (got.top_weight.sum(-1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("machine", index.MACHINES)
@pytest.mark.parametrize("patch_size", [3, 5])
@pytest.mark.parametrize("kind", ["sparse", "random"])
def test_with_nothing_left_out_it_is_the_exact_posterior(machine, patch_size, kind):
    """Candidates shown included: heaviest patches, their places and weights."""
    images = pictures(kind, (50, 3, 9, 11))
    for level in (0.02, 0.6, 0.97):
        x = noised(scaled(images[:2]), level)
        assert_same(
            Indexed(images, machine, patch_size, 0).denoise(x, level, patch_size),
            exact(images, machine, x, level, patch_size),
        )


@pytest.mark.parametrize("patch_size", [3, 5])
def test_it_finds_for_digits_what_the_exact_engine_finds(digits, patch_size):
    images = digits[:250]
    engine, calls = Indexed(images, "bbels", patch_size), 0
    for step in (0.05, 0.25):
        level = float(alpha_bar(step))
        x = noised(scaled(digits[1000:1001]), level)
        got, wanted = engine.denoise(x, level, patch_size), exact(images, "bbels", x, level, patch_size)
        bound, deviation = error_of(got)
        known = deviation == 0
        assert (distance(got, wanted) <= bound + 1e-6)[known].all() and known.sum() >= (33 - patch_size) ** 2
        torch.testing.assert_close(got.top_weight[known].double(), wanted.top_weight[known], rtol=0, atol=2e-3)
        first = (wanted.top_weight[..., 0] - wanted.top_weight[..., 1] > 0.01) & known
        assert torch.equal(got.top_image[first][:, 0], wanted.top_image[first][:, 0])
        calls += int(first.sum())
    assert calls > 100


def test_most_patches_are_left_out_unseen(digits):
    """Of the digits' 5×5 patches a window at low noise is compared with a few percent."""
    engine = Indexed(digits[:2000], "bbels", 5)
    level = float(alpha_bar(0.1))
    x = noised(scaled(digits[3000:3001]), level)[0].numpy() - np.float32(level**0.5 * engine.zero)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (5, 5)).reshape(-1, 25)
    budget = 0.1 * engine.index.blocks * 25
    answer = index.ask(engine.index, windows, level, 30.0, budget, engine.pool, 2, quiet)
    assert answer.solved.mean() > 0.5


def test_without_room_to_search_the_images_are_compared_as_before(digits):
    """But for windows that background alone decides, which need no search."""
    images, level = digits[:200], 0.97
    x = noised(scaled(digits[1000:1001]), level)
    engine = Indexed(images, "bbels", 3)
    engine.index_share = 0.0
    got, plain = engine.denoise(x, level, 3), FastEngine(images, "bbels").denoise(x, level, 3)
    assert (distance(got, plain) <= error_of(got)[0] + error_of(plain)[0])[error_of(plain)[1] == 0].all()
    assert (got.mean == plain.mean).double().mean() > 0.5


def test_windows_at_the_border_alone_ask_no_index():
    """Every interior one is answered at first: all is blank there."""
    images = np.zeros((1100, 1, 6, 6), np.uint8)
    images[:, :, 0] = np.random.default_rng(0).integers(0, 256, (1100, 1, 6))
    images[0, 0, 4, 4] = 1
    x = noised(scaled(images[:1]), 0.9)
    got = Indexed(images, "bbels", 5).denoise(x, 0.9, 5)
    assert (distance(got, exact(images, "bbels", x, 0.9, 5)) <= sum(error_of(got)) * 4 + 1e-6).all()


def stored(images: np.ndarray, patch_size: int = 3) -> Path:
    return FastEngine(images, "bbels", threads=2).make_index(images, patch_size, quiet)[0]


def test_the_engine_uses_a_file_that_is_there(digits):
    images, level = digits[:300], 0.99
    path = stored(images)
    engine = FastEngine(images, "bbels")
    found = engine.find_index(3)
    assert found is not None and engine.find_index(5) is None
    assert FastEngine(images, "bbels", indexed=False).find_index(3) is None
    built = Indexed(images, "bbels", 3).index
    for name in index_files.ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(built, name))
    x = noised(scaled(digits[1000:1001]), level)
    with_index = engine.denoise(x, level, 3)
    path.unlink()
    without = engine.denoise(x, level, 3)
    allowed = sum(bound + 6 * deviation for bound, deviation in (error_of(with_index), error_of(without)))
    assert (distance(with_index, without) <= allowed).all()


def altered(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    if how == "truncated":
        return content[:middle]
    if how == "empty":
        return b""
    if how == "stale":
        line = content[: index_files.HEADER].rstrip(b" ").rpartition(b"\n")[0]
        line = json.dumps(json.loads(line) | {"version": 0}).encode()
        header = (line + b"\n" + hashlib.sha256(line).hexdigest().encode()).ljust(index_files.HEADER)
        return header + content[index_files.HEADER :]
    place = {"flipped header": 20, "flipped middle": middle, "flipped end": len(content) - 60}[how]
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("how", ["truncated", "empty", "stale", "flipped header", "flipped middle", "flipped end"])
def test_a_file_that_cannot_be_trusted_is_named_ignored_and_built_again(digits, caplog, how):
    images = digits[:60]
    path = stored(images)
    good = path.read_bytes()
    path.write_bytes(altered(good, how))
    assert FastEngine(images, "bbels").find_index(3) is None
    assert len(caplog.messages) == 1 and path.name in caplog.text and "lm_core index" in caplog.text
    assert stored(images).read_bytes() == good
    assert FastEngine(images, "bbels").find_index(3) is not None


def test_other_images_have_another_index(digits):
    stored(digits[:60])
    assert FastEngine(digits[:61], "bbels").find_index(3) is None
    assert FastEngine(digits[1:61], "bbels").find_index(3) is None
    assert FastEngine(digits[:60], "els").find_index(3) is None


BUILD = """
import sys
from lm_core.artifacts import load_dataset
from lm_core.score.fast import FastEngine
images = load_dataset("mnist").images[:int(sys.argv[1])]
def say(share):
    print(share, flush=True)
print(FastEngine(images, "bbels", threads=1).make_index(images, 3, say)[1], flush=True)
"""


def builder(count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(count)], cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True
    )


def test_a_build_that_is_killed_leaves_nothing_that_is_taken_for_whole(digits, cache):
    process = builder(1000)
    assert process.stdout is not None
    for line in process.stdout:
        if float(line) > 0.9:  # it writes
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert FastEngine(digits[:1000], "bbels").find_index(3) is None
    stored(digits[:60])
    assert not list((cache / "indexes").glob("*.tmp"))


def test_of_two_processes_that_build_the_same_one_builds(digits, cache):
    processes = [builder(400) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].split()[-1] for process in processes]
    assert sorted(said) == ["False", "True"]
    assert len(list((cache / "indexes").glob("*.index"))) == 1
    assert FastEngine(digits[:400], "bbels").find_index(3) is not None


def test_the_least_recently_used_index_makes_room(digits, monkeypatch):
    third = stored(digits[120:180])
    size = third.stat().st_size
    third.unlink()
    first, second = stored(digits[:60]), stored(digits[60:120])
    os.utime(second, ns=(1, second.stat().st_mtime_ns))
    os.utime(first, ns=(2, first.stat().st_mtime_ns))
    assert FastEngine(digits[60:120], "bbels").find_index(3) is not None  # used now
    room = second.stat().st_size + size + 1000
    monkeypatch.setattr(index_files, "LIMIT_BYTES", room)
    assert stored(digits[120:180]) == third
    assert not first.exists() and second.exists() and third.exists()
    assert sum(path.stat().st_size for path in third.parent.glob("*.index")) <= room


def test_an_index_that_could_never_fit_is_refused(digits, monkeypatch):
    monkeypatch.setattr(index_files, "LIMIT_BYTES", 10_000)
    with pytest.raises(ParameterError, match="fewer images"):
        stored(digits[:60])


@pytest.mark.parametrize("patch_size, dtype", [(33, np.uint8), (3, np.float32)])
def test_what_can_have_no_index_is_refused(digits, patch_size, dtype):
    with pytest.raises(ParameterError, match="no index"):
        stored(digits[:5].astype(dtype), patch_size)


@pytest.mark.parametrize("at_share", [0.05, 0.3, 0.6, 0.91])
def test_a_build_stops_promptly_when_cancelled_and_leaves_nothing(digits, cache, at_share):
    stored(digits[:60])  # compiles
    asked = [0.0]

    def cancel(share: float) -> None:
        asked[0] = asked[0] or (time.monotonic() if share >= at_share else 0.0)
        if asked[0]:
            raise JobCancelled("cancelled")

    before, last = set((cache / "indexes").iterdir()), time.monotonic()
    with pytest.raises(JobCancelled):
        FastEngine(digits[:1500], "bbels", threads=2).make_index(digits[:1500], 5, cancel)
    assert time.monotonic() - max(last, asked[0]) < 0.5
    assert set((cache / "indexes").iterdir()) == before


def test_the_command_builds_once_and_says_so(cache, capsys):
    arguments = ["index", "--dataset", "mnist", "--images", "50", "--sizes", "3", "--json"]
    facts = []
    for _ in range(2):
        assert command_line.main(arguments) == 0
        facts.append(json.loads(capsys.readouterr().out)["indexes"]["3"])
    assert facts[0]["built"] and not facts[1]["built"] and facts[0]["file"] == facts[1]["file"]
    assert (cache / "indexes" / facts[0]["file"]).stat().st_size == facts[0]["bytes"]


def test_stored_kernels_are_renewed_when_those_they_build_on_change():
    content = b"".join(Path(module.__file__).read_bytes() for module in (lanes, sliding))
    digest = hashlib.sha256(content).hexdigest()[:16]
    assert digest == cells.BUILT_ON, f'put BUILT_ON = "{digest}" into cells.py'
