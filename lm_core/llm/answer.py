"""Write one prompt's three answers as a batch, tell a log what happens, and read them as they grow."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_core import judges
from lm_core.concepts import Concept, facts, unit_of
from lm_core.errors import JobCancelled
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
    ):
        self.params, self.lm, self.dial, self.writing = params, lm, dial, writing
        self.steering, self.concepts, self.blocks = steering, concepts, blocks
        self.plain, self.asked = lm.prompt_ids(params.prompt), lm.prompt_ids(asked)
        self.judges = {one.id: judges.judge(one.judge) for one in concepts if one.judge and not one.is_rating}
        self.tokens: list[list[int]] = [[] for _ in ROWS]
        self.pieces: list[list[str]] = [[] for _ in ROWS]
        self.strengths: list[tuple[float, ...]] = []
        self.in_force: tuple[float, ...] = ()
        self.reader = Reader(lm, self.plain, len(ROWS), steering.directions, steering.inside, steering.norms)
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
            prompts = [self.plain, self.asked, self.plain]
            write(self.lm, prompts, [params.seed] * 3, sampling, params.tokens, self._shift, on_token)
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
        """Return what the dial says now: nothing for the first two rows."""
        self.in_force = self.dial.get()
        table = torch.zeros(len(ROWS), len(self.in_force))
        table[-1] = torch.tensor(self.in_force)
        return self.steering.shift(table)

    def _start(self) -> dict[str, Any]:
        concepts = []
        for one, blocks in zip(self.concepts, self.blocks, strict=True):
            known = facts(one.id, self.params.model, self.params.method, self.params.site)
            about = {"id": one.id, "name": one.name, "unit": unit_of(one), "blocks": blocks}
            concepts.append(about | {"band": known and known.band})
        return {
            "type": "start",
            "rows": [{"name": name, "title": title} for name, title in ROWS.items()],
            "concepts": concepts,
            "seed": self.params.seed,
            "prompt_pieces": [self.lm.tokenizer.decode([token]) for token in self.plain],
        }

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
        rows = [
            self._metrics(row) | {"projections": self._named([each[start:] for each in self.reader.projections[row]])}
            for row in range(len(ROWS))
        ]
        event: dict[str, Any] = {"type": "reading", "from": start, "upto": self.read, "rows": rows}
        if start == 0:
            event["prompt_projections"] = self._named(self.reader.prompt_projections)
        self.writing.append(event)

    def _named(self, values: Sequence[Sequence[float]]) -> dict[str, list[float | None]]:
        def told(value: float) -> float | None:
            return round(value, 4) if math.isfinite(value) else None

        pairs = zip(self.params.concepts, values, strict=True)
        return {name: [told(value) for value in each] for name, each in pairs}

    def _metrics(self, row: int) -> dict[str, Any]:
        text = "".join(self.pieces[row])
        judged = {name: round(judge(self.params.prompt, text), 3) for name, judge in self.judges.items()}
        return metrics(self.tokens[row], self.reader.nll(row), judged)

    def _pace(self) -> float:
        steps = max(map(len, self.tokens))
        return (steps - 1) / max(time.monotonic() - self.first, 1e-9) if steps > 1 else 0.0

    def _result(self) -> SteerResult:
        rows = [
            Row(name, title, "".join(self.pieces[i]).strip(), len(self.tokens[i]), self._metrics(i))
            for i, (name, title) in enumerate(ROWS.items())
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


def metrics(tokens: Sequence[int], nll: float | None, judged: dict[str, float]) -> dict[str, Any]:
    """Return a text's figures as pages show them; `collapsed` by the criteria that calibration uses."""
    return {
        "judge": judged,
        "nll": None if nll is None or not math.isfinite(nll) else round(nll, 3),
        "distinct2": round(judges.distinct2(tokens), 3),
        "longest_repeat": judges.longest_repeat(tokens),
        "collapsed": judges.collapsed(tokens, nll),
    }
