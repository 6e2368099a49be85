"""Write one prompt's three answers as a batch, tell a log what happens, and read them as they grow."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_core import judges
from lm_core.concepts import Concept, facts, unit_of
from lm_core.errors import JobCancelled
from lm_core.llm.detect import Watch
from lm_core.llm.directions import Steering
from lm_core.llm.generate import Sampling, write
from lm_core.llm.model import LanguageModel
from lm_core.llm.reading import Reader
from lm_core.steer_params import SteerParams
from lm_core.steer_results import Row, SteerResult
from lm_core.writing import Dial, Writing

READ_EVERY = 16  # tokens between two readings
ROWS = {"unsteered": "Unsteered", "prompted": "Asked for in words", "steered": "Steered"}


class Answer:
    """Three answers in the making: unsteered, asked for in words, steered by what the dial says at every token.

    Args:
        asked: the prompt that asks for the concepts in words.
        steering: of the parameters' concepts; blocks: first and last steered block of each.
        rows: names of those to write, of `ROWS`.
        watch: detectors that read along; watched: their ids.
    """

    def __init__(
        self,
        params: SteerParams,
        asked: str,
        lm: LanguageModel,
        concepts: Sequence[Concept],
        steering: Steering,
        blocks: Sequence[tuple[int, int]],
        dial: Dial,
        writing: Writing,
        rows: Sequence[str],
        watch: Watch | None,
        watched: Sequence[str],
    ):
        self.params, self.lm, self.dial, self.writing = params, lm, dial, writing
        self.steering, self.concepts, self.blocks = steering, concepts, blocks
        self.rows, self.watch, self.watched = list(rows), watch, list(watched)
        self.plain, self.asked = lm.prompt_ids(params.prompt), lm.prompt_ids(asked)
        self.judges = {one.id: judges.judge(one.judge) for one in concepts if one.judge and not one.is_rating}
        self.tokens: list[list[int]] = [[] for _ in self.rows]
        self.pieces: list[list[str]] = [[] for _ in self.rows]
        self.strengths: list[tuple[float, ...]] = []
        self.in_force: tuple[float, ...] = ()
        self.reader = Reader(
            lm, self.plain, len(self.rows), steering.directions, steering.inside, steering.norms, watch
        )
        self.read = 0
        self.began = self.first = time.monotonic()

    def write(self, on_progress: Callable[[float, str], None], check: Callable[[], None]) -> SteerResult:
        """Write until all rows have ended, the limit is reached, or `check` raises; then the text so far stays."""
        params, state = self.params, "failed"
        self.writing.append(self._start())
        sampling = Sampling(params.temperature, params.top_p, params.repetition_penalty)

        def on_token(step: int, ids: list[int | None]) -> None:
            check()
            self._note(step, ids)
            on_progress((step + 1) / params.tokens, f"token {step + 1} of {params.tokens}")

        try:
            prompts = [self.asked if name == "prompted" else self.plain for name in self.rows]
            write(self.lm, prompts, [params.seed] * len(prompts), sampling, params.tokens, self._shift, on_token)
            self._reading()
            state = "length" if max(map(len, self.tokens)) >= params.tokens else "done"
        except JobCancelled:
            state = "stopped"
            self._reading()
            raise
        finally:
            self.writing.append({"type": "end", "state": state, "tokens_per_second": round(self._pace(), 2)})
        return self._result()

    def _shift(self) -> Tensor | None:
        """Return what the dial says now: nothing but for the steered row."""
        self.in_force = self.dial.get()
        table = torch.zeros(len(self.rows), len(self.in_force))
        if "steered" in self.rows:
            table[self.rows.index("steered")] = torch.tensor(self.in_force)
        return self.steering.shift(table)

    def _start(self) -> dict[str, Any]:
        concepts = []
        for one, blocks in zip(self.concepts, self.blocks, strict=True):
            known = facts(one.id, self.params.model, self.params.method, self.params.site)
            about = {"id": one.id, "name": one.name, "unit": unit_of(one), "blocks": blocks}
            concepts.append(about | {"band": known and known.band})
        return {
            "type": "start",
            "rows": [{"name": name, "title": ROWS[name]} for name in self.rows],
            "concepts": concepts,
            "watched": self._watched(),
            "seed": self.params.seed,
            "prompt_pieces": [self.lm.tokenizer.decode([token]) for token in self.plain],
        }

    def _watched(self) -> list[dict[str, Any]]:
        """Return what is watched for: id, name, and the threshold of the mean score of the last eight tokens."""
        if self.watch is None:
            return []
        three = zip(self.watched, self.watch.detectors, self.watch.alarm_thresholds(), strict=True)
        return [{"id": name, "name": one.concept, "threshold": round(value, 4)} for name, one, value in three]

    def _note(self, step: int, ids: list[int | None]) -> None:
        if step == 0:
            self.first = time.monotonic()
        pieces = [None if token is None else self._piece(row, token) for row, token in enumerate(ids)]
        self.strengths.append(self.in_force)
        self.writing.append({"type": "token", "step": step, "pieces": pieces, "strengths": list(self.in_force)})
        if (step + 1) % READ_EVERY == 0:
            self._reading()

    def _piece(self, row: int, token: int) -> str:
        """Return what a token adds to its row's text; nothing while a letter of several bytes is incomplete."""
        self.tokens[row].append(token)
        whole = self.lm.tokenizer.decode(self.tokens[row])
        known = sum(map(len, self.pieces[row]))
        self.pieces[row].append("" if whole.endswith("\ufffd") else whole[known:])
        return self.pieces[row][-1]

    def _reading(self) -> None:
        """Have the unsteered model read what is new, and tell the log."""
        start, new = self.read, [tokens[self.read :] for tokens in self.tokens]
        if not any(new):
            return
        self.reader.feed(new)
        self.read += max(map(len, new))
        concepts = self.params.concepts
        rows = [
            self._metrics(row)
            | {"projections": _named(concepts, self.reader.projections[row], start)}
            | {"scores": _named(self.watched, self.reader.scores[row], start)}
            for row in range(len(self.rows))
        ]
        event: dict[str, Any] = {"type": "reading", "from": start, "upto": self.read, "rows": rows}
        if start == 0:
            event["prompt_projections"] = _named(concepts, self.reader.prompt_projections)
        self.writing.append(event)

    def _metrics(self, row: int) -> dict[str, Any]:
        text = "".join(self.pieces[row])
        judged = {name: round(judge(self.params.prompt, text), 3) for name, judge in self.judges.items()}
        return metrics(self.tokens[row], self.reader.nll(row), judged) | self._alarms(row)

    def _alarms(self, row: int) -> dict[str, Any]:
        """Return, if anything is watched for, at which token each alarm first rings, counted from 0; None: not yet."""
        if self.watch is None or not self.tokens[row]:
            return {}
        rings = self.watch.alarms(np.array(self.reader.scores[row]))
        return {
            "alarms": {
                name: int(each.argmax()) if each.any() else None for name, each in zip(self.watched, rings, strict=True)
            }
        }

    def _pace(self) -> float:
        steps = max(map(len, self.tokens))
        return (steps - 1) / max(time.monotonic() - self.first, 1e-9) if steps > 1 else 0.0

    def _result(self) -> SteerResult:
        rows = [
            Row(name, ROWS[name], "".join(self.pieces[i]).strip(), len(self.tokens[i]), self._metrics(i))
            for i, name in enumerate(self.rows)
        ]
        return SteerResult(
            params=self.params,
            rows=rows,
            pieces=self.pieces,
            strengths=self.strengths,
            seconds=round(time.monotonic() - self.began, 3),
            first_token_seconds=round(self.first - self.began, 3),
            tokens_per_second=round(self._pace(), 2),
        )


def _named(names: Sequence[str], values: Sequence[Sequence[float]], start: int = 0) -> dict[str, list[float | None]]:
    """Return the figures of tokens from number `start` on by name; None for one that is no number."""

    def told(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return {name: [told(value) for value in each[start:]] for name, each in zip(names, values, strict=True)}


def metrics(tokens: Sequence[int], nll: float | None, judged: dict[str, float]) -> dict[str, Any]:
    """Return a text's figures as pages show them; `collapsed` by the criteria that calibration uses."""
    return {
        "judge": judged,
        "nll": None if nll is None or not math.isfinite(nll) else round(nll, 3),
        "distinct2": round(judges.distinct2(tokens), 3),
        "longest_repeat": judges.longest_repeat(tokens),
        "collapsed": judges.collapsed(tokens, nll),
    }
