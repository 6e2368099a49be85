"""Benchmarks of detection: figures of the table, and what reading and fitting cost beside the plain model."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lm_core.concepts import Example
from lm_core.detection_results import shipped_results
from lm_core.steer_params import DEFAULT_MODEL

SMALL_SET, SMALL_GROUPS = "toxic", 12  # a fresh run on the first groups of one set: 96 texts
PROMPTS, TOKENS = 400, 60
WORDS = "the river was slow and brown in that month while we walked along its left bank and talked of old boats "


def detection() -> dict[str, Any]:
    """AUROC (or correlation) by set and method, all blocks aggregated: the shipped figures, and a small run made now.

    `sets` are read from assets/results/detection-SET.json, each with the command that made it. `fresh` is measured here
    on a part of one set, too small to equal its shipped row.
    """
    from dataclasses import replace

    from lm_core.device import choose_device
    from lm_core.evaluation import load_set
    from lm_core.llm.model import open_model
    from lm_core.run_detection import measure

    shipped = shipped_results()
    whole = load_set(SMALL_SET)
    first = list(dict.fromkeys(item.group for item in whole.items))[:SMALL_GROUPS]
    part = replace(whole, items=tuple(item for item in whole.items if item.group in first))
    found = measure(open_model(DEFAULT_MODEL, choose_device("auto")), part)
    return {
        "source": "sets: shipped in assets/results/detection-SET.json; fresh: measured now",
        "sets": {name: by_method(facts) for name, facts in shipped.items()},
        "commands": {name: facts["command"] for name, facts in shipped.items()},
        "seconds_when_shipped": {name: facts["seconds"]["all"] for name, facts in shipped.items()},
        "fresh": {
            "set": f"{SMALL_SET}, its first {SMALL_GROUPS} groups",
            "items": len(part.items),
            "methods": by_method(found),
            "says": found["says"],
            "seconds": found["seconds"],
        },
    }


def by_method(facts: dict[str, Any]) -> dict[str, float]:
    """Return each method's best block and logistic aggregate, what validation chose, and the references."""
    found = {
        row["method"] + {"best": ", best block", "logistic": ""}[row["aggregate"]]: row["value"]
        for row in facts["rows"]
        if row["aggregate"] in ("best", "logistic")
    }
    found["chosen by validation"] = facts["chosen"]["value"]
    return found | {row["name"]: row["value"] for row in facts["references"]}


def activations() -> dict[str, Any]:
    """Seconds to read 400 prompts of 60 tokens in all blocks over the plain forward pass; an all-block RFM fit to them.

    The two ways take turns, batch by batch, so that a busy machine slows both alike; the ratio is the median of the
    batches' own. Reading includes the tokenizer, the plain pass doesn't.
    """
    import torch

    from lm_core.device import choose_device
    from lm_core.llm.activations import BATCH, collect, left_pad
    from lm_core.llm.model import open_model

    lm = open_model(DEFAULT_MODEL, choose_device("auto"))
    examples = prompts(lm)
    rows = [lm.prompt_ids(one.prompt) for one in examples]

    @torch.no_grad()
    def plain(part: slice) -> None:
        ids, mask, places = left_pad(rows[part], lm.pad_id, lm.device)
        lm.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1)

    ways: list[Callable[[slice], Any]] = [plain, lambda part: collect(lm, examples[part])]
    seconds = np.zeros((2, PROMPTS // BATCH))
    for way in ways:
        way(slice(0, BATCH))
    for batch in range(seconds.shape[1]):
        for which in (0, 1) if batch % 2 else (1, 0):
            began = time.perf_counter()
            ways[which](slice(batch * BATCH, (batch + 1) * BATCH))
            seconds[which, batch] = time.perf_counter() - began
    return {
        "prompts": PROMPTS,
        "tokens": sorted({len(row) for row in rows}),
        "threads": torch.get_num_threads(),
        "dtype": str(lm.model.dtype),
        "plain_seconds": round(seconds[0].sum(), 2),
        "reading_seconds": round(seconds[1].sum(), 2),
        "ratio": round(float(np.median(seconds[1] / seconds[0])), 3),
        "again_seconds": _again(lm, examples[:BATCH]),
        "rfm_fit_seconds": _fit_seconds(lm.n_layers, lm.d_model),
    }


def prompts(lm: Any) -> list[Example]:
    """Return 400 different prompts of 60 tokens each, the chat template's included."""
    words, found = WORDS.split(), []
    for n in range(PROMPTS):
        text = f"{n}"
        while len(lm.prompt_ids(text)) < TOKENS:
            text += " " + words[(n + len(text.split())) % len(words)]
        found.append(Example(text, None, 1.0 if n % 2 else -1.0))
    return found


def _again(lm: Any, examples: list[Example]) -> float:
    """Return the seconds that the cache takes to give a batch's activations to a second concept."""
    from lm_core.llm.detect import ActivationCache

    kept = ActivationCache()
    kept.collect(lm, examples)
    began = time.perf_counter()
    kept.collect(lm, examples)
    return round(time.perf_counter() - began, 3)


def _fit_seconds(layers: int, width: int) -> float:
    """Return the seconds of an all-block RFM detector of 400 examples with a concept in each block."""
    import torch

    from lm_core.llm.detectors import fit_detector

    source, labels = torch.Generator().manual_seed(0), torch.where(torch.arange(PROMPTS) % 2 == 0, 1.0, -1.0)
    rows = torch.randn(PROMPTS, layers, width, generator=source)
    rows[..., 0] += labels[:, None]
    began = time.perf_counter()
    fit_detector(rows, labels, "rfm", "rfm", generator=source)
    return round(time.perf_counter() - began, 2)
