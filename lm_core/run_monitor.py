"""Watch for concepts: in one text, in many, and in an answer while it is written. Torch loads on first use."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core.concept_detectors import AGGREGATE, METHOD, Watched, find_detector
from lm_core.device import choose_device
from lm_core.errors import ParameterError
from lm_core.progress import Check, Progress, go_on, quiet
from lm_core.ranking import FALSE_POSITIVE_RATE, trailing_mean
from lm_core.steer_params import DEFAULT_MODEL, MAX_CONCEPTS

if TYPE_CHECKING:
    from lm_core.llm.detect import Reading, Watch
    from lm_core.llm.detector import Detector
    from lm_core.llm.model import LanguageModel

MOST_TEXTS = 10_000


@dataclass(frozen=True, eq=False)
class MonitorResult:
    """What detectors say of one text.

    Attributes:
        concepts: names; pieces: [token] as the text reads; blocks: [block] numbers.
        heat: [concept, token, block] projections less their centre, in residual norms.
        strip: [concept, token] scores; levels: their mean over the last eight tokens, what an alarm goes by.
        scores: [concept] of the text.
        threshold: [concept] that at most `false_positive_rate` of the tokens without the concept pass;
            alarm_threshold: that at most that share of such texts' levels ever passes; text_threshold: of their scores.
        cut: tokens at the end that were not read.
    """

    concepts: list[str]
    pieces: list[str]
    blocks: list[int]
    heat: np.ndarray
    strip: np.ndarray
    levels: np.ndarray
    scores: np.ndarray
    threshold: np.ndarray
    alarm_threshold: np.ndarray
    text_threshold: np.ndarray
    false_positive_rate: float
    cut: int
    seconds: float


# -- texts ------------------------------------------------------------------------------------------------------------


def monitor(
    text: str,
    watched: Sequence[Watched],
    *,
    prompt: str | None = None,
    method: str = METHOD,
    aggregate: str = AGGREGATE,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> MonitorResult:
    """Look for concepts in every token of a text.

    Args:
        watched: up to six: ids of concepts, of evaluation sets ("set:toxic"), or concepts of the user's own.
        prompt: what the text is the answer to; a neutral request if None.

    Raises:
        ParameterError: an empty text, nothing or too much to watch for, or an unknown name.
    """
    from lm_core.llm.detect import read, row_at

    _check_watched(watched)
    _check_texts([text])
    began = time.monotonic()
    lm = _open(model, device, on_progress)
    found = _detectors(watched, lm, method, aggregate, 0.9, on_progress, check)
    on_progress(0.9, "reading the text", None)
    check()
    rows = {site: row_at(lm, text, site, prompt) for site in dict.fromkeys(one.site for one in found)}
    readings: dict[int, Reading] = {}
    for site, row in rows.items():  # one pass for all detectors of a site
        here = [i for i, one in enumerate(found) if one.site == site]
        readings |= zip(here, read(lm, [row], [found[i] for i in here])[0], strict=True)
    length = min(len(row.pieces) for row in rows.values())
    pieces = next(iter(rows.values())).pieces[:length]
    ordered = [readings[i] for i in range(len(found))]
    strip = np.stack([one.strip[:length].numpy() for one in ordered])
    return MonitorResult(
        concepts=[one.concept for one in found],
        pieces=pieces,
        blocks=list(range(1, lm.n_layers)),
        heat=np.stack([one.heat[:length, 1:].numpy() for one in ordered]),
        strip=strip,
        levels=trailing_mean(strip, _window()),
        scores=np.array([one.score for one in ordered]),
        threshold=np.array([one.token_threshold(false_positive_rate) for one in found]),
        alarm_threshold=np.array([one.alarm_threshold(false_positive_rate) for one in found]),
        text_threshold=np.array([one.threshold(false_positive_rate) for one in found]),
        false_positive_rate=false_positive_rate,
        cut=max(row.cut + len(row.pieces) - length for row in rows.values()),
        seconds=round(time.monotonic() - began, 3),
    )


def batch(
    texts: Sequence[str],
    watched: Watched,
    *,
    tokens: bool = True,
    method: str = METHOD,
    aggregate: str = AGGREGATE,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> dict[str, Any]:
    """Score many texts for one concept; empty ones are left out.

    Returns:
        JSON-ready facts, and texts [{text, score, alarm, cut, tokens [{piece, score}] if wanted}]: alarm tells whether
        the score is above the threshold that at most `false_positive_rate` of texts without the concept pass.
    """
    from lm_core.llm.detect import read, row_at

    kept = [text for text in texts if text.strip()]
    _check_texts(kept)
    began = time.monotonic()
    lm = _open(model, device, on_progress)
    (one,) = _detectors([watched], lm, method, aggregate, 0.4, on_progress, check)

    def tell(share: float) -> None:
        check()
        on_progress(0.4 + 0.6 * share, f"{round(share * len(kept)):,} of {len(kept):,} texts", None)

    rows = [row_at(lm, text, one.site) for text in kept]
    threshold, scored = one.threshold(false_positive_rate), []
    for text, row, (reading,) in zip(kept, rows, read(lm, rows, [one], tell, heat=False), strict=True):
        facts = {"text": text, "score": round(reading.score, 5), "alarm": reading.score > threshold, "cut": row.cut}
        if tokens:
            pairs = zip(row.pieces, reading.strip.tolist(), strict=True)
            facts["tokens"] = [{"piece": piece, "score": round(score, 5)} for piece, score in pairs]
        scored.append(facts)
    about = {"concept": one.concept, "method": method, "aggregate": aggregate, "site": one.site, "model": lm.name}
    about |= {"blocks": list(one.blocks), "unit": _unit(aggregate), "threshold": round(threshold, 5)}
    about |= {"false_positive_rate": false_positive_rate, "alarms": sum(each["alarm"] for each in scored)}
    about |= {"left_out_empty": len(texts) - len(kept), "cut_texts": sum(each["cut"] > 0 for each in scored)}
    return about | {"seconds": round(time.monotonic() - began, 2), "texts": scored}


def _unit(aggregate: str) -> str:
    return "log-odds of the concept" if aggregate == "logistic" else "−1 without to 1 with the concept"


def _window() -> int:
    from lm_core.llm.detector import WINDOW

    return WINDOW


def _check_watched(watched: Sequence[Watched]) -> None:
    if not 1 <= len(watched) <= MAX_CONCEPTS:
        raise ParameterError(f"{len(watched)} concepts are watched for; choose 1 to {MAX_CONCEPTS}.")


def _check_texts(texts: Sequence[str]) -> None:
    if not any(text.strip() for text in texts):
        raise ParameterError("The text is empty; give at least one line with words.")
    if len(texts) > MOST_TEXTS:
        raise ParameterError(f"There are {len(texts):,} texts; give at most {MOST_TEXTS:,} at a time.")


def _open(model: str, device: str, on_progress: Progress) -> "LanguageModel":
    from lm_core.llm.model import open_model

    on_progress(0.0, "loading the model", None)
    return open_model(model, choose_device(device))


def _detectors(
    watched: Sequence[Watched],
    lm: "LanguageModel",
    method: str,
    aggregate: str,
    upto: float,
    on_progress: Progress,
    check: Check,
    answers: bool = False,
) -> list["Detector"]:
    """Return the detectors; progress goes from 0 to `upto`."""
    found = []
    for count, one in enumerate(watched):

        def tell(share: float, message: str, partial: Any, count: int = count) -> None:
            on_progress(upto * (count + share) / len(watched), message, partial)

        found.append(find_detector(one, lm, method, aggregate, tell, check, answers))
    return found


# -- while a text is written ------------------------------------------------------------------------------------------


def live(
    watched: Sequence[Watched],
    lm: "LanguageModel",
    *,
    method: str = METHOD,
    aggregate: str = AGGREGATE,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> "Watch":
    """Return what watches an answer in the making, from the hooks of whoever reads it (`lm_core.llm.reading`).

    A set's detector is fitted to its texts as answers, even where they are what a user says.

    Raises:
        ParameterError: nothing or too much to watch for, or an unknown name.
    """
    from lm_core.llm.detect import Watch

    _check_watched(watched)
    found = _detectors(watched, lm, method, aggregate, 1.0, on_progress, check, answers=True)
    return Watch(found, lm.device, false_positive_rate)
