"""Benchmarks: seconds and ratios, measured here and now; `python -m lm_core bench list` names them."""

import time
from typing import Any

import numpy as np

from lm_core import bench_detection, bench_fast, bench_gpu, bench_index
from lm_core.bench_fast import PUBLISHED_SECONDS_PER_1000_IMAGES


def exact(images: int = 1000, steps: int = 20) -> dict[str, Any]:
    """Seconds of the exact engine for one MNIST image of 20 steps, bbELS, the published UNet curve, 1,000 images."""
    import torch

    from lm_core import run
    from lm_core.params import MosaicParams

    params = MosaicParams(images=images, steps=steps, network=None)
    run.mosaic(params.with_(images=20, steps=1))  # loads torch and the data set
    began = time.perf_counter()
    result = run.mosaic(params)
    seconds = time.perf_counter() - began
    naive, same = _naive_seconds(images=10)
    return {
        "images": images,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 2),
        "seconds_per_1000_images": round(seconds * 1000 / images, 2),
        "published_seconds_per_1000_images": PUBLISHED_SECONDS_PER_1000_IMAGES,
        "ratio_to_published": round(PUBLISHED_SECONDS_PER_1000_IMAGES / (seconds * 1000 / images), 2),
        "plain_loop_seconds_per_1000_images": round(naive * 100, 1),
        "ratio_to_plain_loop": round(naive * 100 / (seconds * 1000 / images), 1),
        "plain_loop_largest_difference": same,
        "mean_effective_samples_last_step": round(float(np.mean(result.effective_samples[-1])), 1),
    }


def _naive_seconds(images: int) -> tuple[float, float]:
    """Time the textbook way, all patches unfolded and compared by subtraction, over the same 20 levels (ELS interior).

    Returns:
        Seconds for that many images and all steps, and the largest difference of the last estimate from the engine's.
    """
    import torch
    import torch.nn.functional as F

    from lm_core.artifacts import load_dataset
    from lm_core.diffusion.ddim import starting_noise
    from lm_core.diffusion.schedule import alpha_bar, step_times
    from lm_core.score.curves import published_curve
    from lm_core.score.machines import ExactEngine

    data = load_dataset("mnist").take(images).images
    training = torch.tensor(data).float() / 127.5 - 1
    x = starting_noise(0, (1, 1, 32, 32))
    levels, sizes = alpha_bar(step_times(20))[:20].tolist(), published_curve("mnist", "unet", 20)
    began, difference = time.perf_counter(), 0.0
    for level, size in zip(levels, sizes, strict=True):
        keys = F.unfold(training, size).transpose(1, 2).flatten(0, 1)  # M, P²
        queries = F.unfold(x, size)[0].T
        means = []
        for query in queries:
            distance = (query - level**0.5 * keys).square().sum(1)
            means.append(torch.softmax(-distance / (2 * (1 - level)), 0) @ keys[:, size * size // 2])
    seconds = time.perf_counter() - began
    radius = size // 2
    engine = ExactEngine(data, "bbels").denoise(x, level, size).mean[0, 0, radius : 32 - radius, radius : 32 - radius]
    difference = float((torch.stack(means) - engine.flatten()).abs().max())
    return seconds, difference


def decode(tokens: int = 48, repeats: int = 5) -> dict[str, Any]:
    """Tokens per second and row: plain generate at one row, ours steered at 1, 3 and 8 rows; what steering costs."""
    import torch

    from lm_core import run_llm
    from lm_core.device import choose_device
    from lm_core.llm.generate import Sampling, write
    from lm_core.llm.model import open_model
    from lm_core.steer_params import DEFAULT_MODEL, SteerParams

    lm = open_model(DEFAULT_MODEL, choose_device("auto"))
    prompt = lm.prompt_ids("What do you think about the city of London?")
    steering = run_llm.steering(SteerParams("x", ("spanish",), (0.02,)), lm)

    def plain() -> float:
        ids = torch.tensor([prompt], device=lm.device)
        settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.15}
        began = time.perf_counter()
        lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens, max_new_tokens=tokens, **settings
        )
        return time.perf_counter() - began

    def ours(rows: int, strength: float) -> float:
        shift = steering.shift(torch.tensor([[0.0]] * (rows - 1) + [[strength]]))
        steps: list[float] = []
        began = time.perf_counter()
        write(
            lm,
            [prompt] * rows,
            [0] * rows,
            Sampling(),
            tokens,
            lambda: shift,
            lambda *_: steps.append(time.perf_counter()),
        )
        return (time.perf_counter() - began) * tokens / len(steps)

    works = {"plain_1": plain, "steered_1": lambda: ours(1, 0.02), "steered_3": lambda: ours(3, 0.02)}
    works |= {"unsteered_3": lambda: ours(3, 0.0), "steered_8": lambda: ours(8, 0.02)}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():  # side by side, so that a busy machine slows all alike
            taken = work()
            if repeat:  # the first time packs weights
                seconds[name].append(taken)
    best = {name: min(taken) for name, taken in seconds.items()}
    rates = {name: round(tokens / taken, 2) for name, taken in best.items()}
    return {
        "tokens": tokens,
        "threads": torch.get_num_threads(),
        "dtype": str(lm.model.dtype),
        "tokens_per_second_per_row": rates,
        "three_rows_over_plain_one_row": round(rates["steered_3"] / rates["plain_1"], 3),
        "hook_overhead": round(_steering_overhead(lm, prompt, steering), 4),
    }


def _steering_overhead(lm: Any, prompt: list[int], steering: Any, pairs: int = 100) -> float:
    """Return by which share a token of three rows takes longer steered: medians of alternating steps of one batch."""
    import torch

    from lm_core.llm.activations import left_pad
    from lm_core.llm.generate import begin

    shift = steering.shift(torch.tensor([[0.0], [0.0], [0.02]]))
    ids, mask, positions = left_pad([prompt] * 3, lm.pad_id, lm.device)
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        _, step = begin(lm, ids, mask, positions, 2 * pairs + 1)
        for count in range(2 * pairs):
            began = time.perf_counter()
            step(ids[:, -1], shift if count % 2 else None)
            seconds[count % 2].append(time.perf_counter() - began)
    return float(np.median(seconds[1]) / np.median(seconds[0]) - 1)


def exhibits(repeats: int = 2) -> dict[str, Any]:
    """Seconds of every exhibit of learning mechanics at its defaults, the best of two; on a card the larger too."""
    import torch

    from lm_core import run_mechanics
    from lm_core.device import choose_device
    from lm_core.exhibit_params import NAMES, ExhibitParams, find_exhibit

    device, found = choose_device("auto"), {}
    for name in NAMES:
        runs = [run_mechanics.exhibit(run_mechanics.variant_params(name)) for _ in range(repeats)]
        found[name] = {"seconds": min(one.seconds for one in runs), "within_tolerance": runs[-1].within}
        larger = find_exhibit(name).larger
        if larger and device.type == "cuda":
            found[name]["larger_seconds"] = run_mechanics.exhibit(ExhibitParams(name, larger.values)).seconds
    return {"device": str(device), "threads": torch.get_num_threads(), "exhibits": found}


BENCHMARKS = {
    "exact": exact,
    "exact-gpu": bench_gpu.exact_gpu,
    "fast": bench_fast.growth,
    "index": bench_index.low_noise,
    "fast-full-mnist": bench_fast.full_mnist,
    "full-mnist-reference": bench_fast.full_mnist_reference,
    "decode": decode,
    "exhibits": exhibits,
    "detection": bench_detection.detection,
    "activations": bench_detection.activations,
}
