"""Detect concepts: where in a text, and how strongly, the unsteered model's activations point along their directions.

`Watch` scores whatever passes through a model's blocks, be it a batch of texts here or an answer as it is written
(`lm_core.llm.reading`). A text is read as what it would be to the model: an answer in its chat template, or, for
detectors of the last prompt token, what the user says. Activations of whole sets are kept in a bounded cache.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lm_core.concepts import NEUTRAL_PROMPT, Example
from lm_core.device import on_release
from lm_core.llm.activations import collect, left_pad, on_blocks
from lm_core.llm.detector import WINDOW, Detector
from lm_core.llm.model import LONGEST_PROMPT, LanguageModel
from lm_core.ranking import FALSE_POSITIVE_RATE, trailing_mean

ROWS_A_BATCH, TOKENS_A_BATCH = 16, 8192
MARGIN = 8  # tokens: text that was cut in the middle may be tokenised a little differently
CACHE_BYTES = 512 * 2**20  # about 7,000 texts of 30 blocks of width 576


class Watch:
    """Projects what a model's blocks put out on several detectors' directions, and scores it.

    Hand `see` to `on_blocks` (or call it from what does): after every forward pass `take` has that pass's figures.

    Args:
        false_positive_rate: at most this share of held-out texts without the concept ring its alarm.
    """

    def __init__(
        self, detectors: Sequence[Detector], device: torch.device, false_positive_rate: float = FALSE_POSITIVE_RATE
    ):
        self.detectors, self.false_positive_rate = list(detectors), false_positive_rate
        self.probes = torch.cat([one.vectors for one in detectors], 1).to(device)  # layer, Σp, d_model
        self.centres = torch.cat([one.centre for one in detectors], 1).to(device)
        self.passing: dict[int, Tensor] = {}

    def see(self, layer: int, resid: Tensor) -> None:
        """Note one block's output [batch, pos, d_model]."""
        self.passing[layer] = resid.float() @ self.probes[layer].T - self.centres[layer]

    def projections(self) -> list[Tensor]:
        """Return each detector's projections [batch, pos, layer, p] of the last pass."""
        whole = torch.stack([self.passing[layer] for layer in range(len(self.probes))], -2)
        return list(whole.split([one.vectors.shape[1] for one in self.detectors], -1))

    def take(self) -> tuple[Tensor, Tensor]:
        """Return the last pass's heat [concept, batch, pos, layer] and strip [concept, batch, pos]."""
        pairs = list(zip(self.detectors, self.projections(), strict=True))
        return torch.stack([one.heat(p) for one, p in pairs]), torch.stack([one.score(p) for one, p in pairs])

    def alarm_thresholds(self) -> list[float]:
        """Return each detector's threshold for the mean score of the last eight tokens."""
        return [one.alarm_threshold(self.false_positive_rate) for one in self.detectors]

    def alarms(self, strip: np.ndarray) -> np.ndarray:
        """Tell at which tokens [concept, token] each alarm rings in a text's whole strip [concept, token]."""
        return trailing_mean(strip, WINDOW) > np.array(self.alarm_thresholds())[:, None]


@dataclass(frozen=True, eq=False)
class Row:
    """One text as the model reads it: its tokens are `ids[first : first + len(pieces)]`.

    Attributes:
        pieces: what each token adds to the text; "" while a letter of several tokens is incomplete.
        cut: how many tokens of the text were left out, for the context is full.
        mean: whether the text's score is that of its tokens' mean (an answer) or of the last token read (a prompt).
    """

    ids: list[int]
    first: int
    pieces: list[str]
    cut: int
    mean: bool


@dataclass(frozen=True, eq=False)
class Reading:
    """One text by one detector: heat [token, layer] in residual norms, strip [token], the text's score."""

    heat: Tensor
    strip: Tensor
    score: float


def context(lm: LanguageModel) -> int:
    """Return how many tokens are read at most."""
    return min(LONGEST_PROMPT, getattr(lm.model.config, "max_position_embeddings", None) or LONGEST_PROMPT)


def answer_row(lm: LanguageModel, text: str, prompt: str = NEUTRAL_PROMPT) -> Row:
    """Return a text as the answer to a prompt, for detectors of the site "response"; cut at its end."""
    return _row(lm, lm.prompt_ids(prompt), text, [], mean=True)


def prompt_row(lm: LanguageModel, text: str) -> Row:
    """Return a text as what the user says, for detectors of the site "last"; cut at its end."""
    before, after = _frame(lm)
    return _row(lm, before, text, after, mean=False)


def row_at(lm: LanguageModel, text: str, site: str, prompt: str | None = None) -> Row:
    """Return a text as detectors of a site read it; `prompt` is what it answers, if known."""
    return prompt_row(lm, text) if site == "last" else answer_row(lm, text, prompt or NEUTRAL_PROMPT)


def _row(lm: LanguageModel, before: list[int], text: str, after: list[int], mean: bool) -> Row:
    ids = tokens_of(lm, text)
    room = max(context(lm) - len(before) - len(after), 1)
    kept = ids[:room]
    return Row([*before, *kept, *after], len(before), pieces_of(lm, kept), len(ids) - len(kept), mean)


def tokens_of(lm: LanguageModel, text: str) -> list[int]:
    """Return a text's tokens, without special ones around it."""
    return lm.tokenizer(text, add_special_tokens=False)["input_ids"]


def pieces_of(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text, which is all of them joined.

    A token that ends within a letter of several bytes adds nothing; the one that completes the letter adds it.
    """
    pieces, known, start, done = [], "", 0, 0
    for end in range(1, len(ids) + 1):
        whole = lm.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        complete = not whole.endswith("\ufffd") or end == len(ids)
        pieces.append(whole[len(known) :] if complete else "")
        if complete:  # the next one is decoded after the last one: some tokenizers drop a text's first space
            start, done = done, end
            known = lm.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
    return pieces


def _frame(lm: LanguageModel) -> tuple[list[int], list[int]]:
    """Return the tokens that the chat template puts before and after what a user says."""
    one, other = lm.prompt_ids("a"), lm.prompt_ids("5")
    shortest, same = min(len(one), len(other)), [a == b for a, b in zip(one, other, strict=False)]
    before = same.index(False) if False in same else shortest
    after = 0
    while after < shortest - before and one[-1 - after] == other[-1 - after]:
        after += 1
    return one[:before], one[len(one) - after :]


@torch.inference_mode()
def read(
    lm: LanguageModel,
    rows: Sequence[Row],
    detectors: Sequence[Detector],
    check: Callable[[float], None] = lambda share: None,
    heat: bool = True,
) -> list[list[Reading]]:
    """Read texts with several detectors in one pass each, in batches sorted by length.

    Args:
        check: called with the share done before every batch; may raise to cancel.
        heat: False leaves it empty, for many texts.

    Returns:
        Readings [text][detector].
    """
    watch, found = Watch(detectors, lm.device), [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    done = 0
    while done < len(order):
        check(done / len(order))
        part = order[done : done + ROWS_A_BATCH]
        part = part[: max(1, TOKENS_A_BATCH // len(rows[part[-1]].ids))]
        ids, mask, positions = left_pad([rows[i].ids for i in part], lm.pad_id, lm.device)
        with on_blocks(lm, watch.see):
            lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
        projections = watch.projections()
        for place, i in enumerate(part):
            found[i] = [_reading(rows[i], *pair, place, heat) for pair in zip(detectors, projections, strict=True)]
        done += len(part)
    return found


def _reading(row: Row, detector: Detector, projections: Tensor, place: int, heat: bool) -> Reading:
    start = projections.shape[1] - len(row.ids) + row.first  # rows end at the right
    own = projections[place, start : start + len(row.pieces)]
    strip = detector.score(own)
    score = detector.score(own.mean(0)) if row.mean else detector.score(projections[place, -1])
    return Reading(detector.heat(own if heat else own[:0]).cpu(), strip.cpu(), float(score))


# -- activations of sets ----------------------------------------------------------------------------------------------


def shorten(lm: LanguageModel, example: Example, reserve: int = 0) -> Example:
    """Return an example that fits into the context: an answer is cut at its end, a prompt in its middle.

    Args:
        reserve: tokens to leave free beside the chat template's.
    """
    prompt, response = tokens_of(lm, example.prompt), tokens_of(lm, example.response or "")
    room = context(lm) - sum(map(len, _frame(lm))) - len(tokens_of(lm, example.start)) - reserve - MARGIN
    room = max(room, 2 * MARGIN)
    if len(prompt) + len(response) <= room:
        return example
    answered = min(len(response), max(room // 2, room - len(prompt)))
    kept = room - answered
    if len(prompt) > kept:
        ends = lm.tokenizer.decode(prompt[: kept - kept // 2]), lm.tokenizer.decode(prompt[len(prompt) - kept // 2 :])
        example = replace(example, prompt=ends[0].rstrip("\ufffd") + ends[1].lstrip("\ufffd"))
    if len(response) > answered:
        example = replace(example, response=lm.tokenizer.decode(response[:answered]).rstrip("\ufffd"))
    return example


class ActivationCache:
    """Activations by model and text, the least recently used dropped first; a second concept reads nothing anew."""

    def __init__(self, limit: int = CACHE_BYTES):
        self.limit, self.size = limit, 0
        self.kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self.lock = threading.Lock()

    def collect(
        self, lm: LanguageModel, examples: Sequence[Example], check: Callable[[float], None] = lambda share: None
    ) -> tuple[Tensor, Tensor]:
        """Return activations [example, layer, d_model] and norms [example, layer] as `activations.collect` does."""
        keys = [self._key(lm, one) for one in examples]
        with self.lock:
            known = {key: self.kept[key] for key in keys if key in self.kept}
        new = {key: one for key, one in zip(keys, examples, strict=True) if key not in known}
        if new or not examples:
            activations, norms = collect(lm, list(new.values()), check)
            known |= dict(zip(new, zip(activations, norms, strict=True), strict=True))
        self._keep({key: known[key] for key in keys})
        return torch.stack([known[key][0] for key in keys]), torch.stack([known[key][1] for key in keys])

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self.kept.clear()
            self.size = 0

    def _key(self, lm: LanguageModel, example: Example) -> str:
        parts = (lm.sha256, str(lm.device), example.prompt, example.response, example.start)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def _keep(self, found: dict[str, tuple[Tensor, Tensor]]) -> None:
        with self.lock:
            for key, pair in found.items():
                if key not in self.kept:
                    self.kept[key] = pair[0].clone(), pair[1].clone()  # not a view of the whole batch
                    self.size += _bytes(pair)
                self.kept.move_to_end(key)
            while self.size > self.limit and self.kept:
                self.size -= _bytes(self.kept.popitem(last=False)[1])


def _bytes(pair: tuple[Tensor, Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in pair)


cache = ActivationCache()
on_release(cache.clear)
