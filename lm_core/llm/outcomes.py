"""What steering does to many texts: write them in bulk, judge them, and say whether they are still fluent.

A condition is a prompt, a seed and what steers it. Conditions are written 48 at a time, whatever they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_core import judges
from lm_core.concepts import Concept
from lm_core.llm.activations import left_pad, steered
from lm_core.llm.generate import Sampling, write
from lm_core.llm.model import LanguageModel
from lm_core.llm.reading import surprise

BATCH = 48
DEFAULT_SAMPLING = Sampling()
DIGITS = ("1", "2", "3", "4", "5")


@dataclass(frozen=True, eq=False)
class Condition:
    """One text to be written.

    Attributes:
        prompt: what the model reads; plain: the same without being asked for the concept, for judge and fluency.
        shift: [layer, d_model] added to the blocks' outputs, None for unsteered.
    """

    prompt: str
    plain: str
    seed: int = 0
    shift: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """A text and its fluency: nll in nats a token under the unsteered model."""

    text: str
    tokens: int
    nll: float
    distinct2: float
    longest_repeat: int
    collapsed: bool


def outcomes(
    lm: LanguageModel,
    conditions: Sequence[Condition],
    *,
    tokens: int,
    sampling: Sampling = DEFAULT_SAMPLING,
    check: Callable[[float], None] = lambda share: None,
) -> list[Outcome]:
    """Write and measure a text for every condition.

    Args:
        check: called with the share done before every batch; may raise to cancel.
    """
    found: list[Outcome] = []
    for first in range(0, len(conditions), BATCH):
        check(first / len(conditions))
        part = conditions[first : first + BATCH]
        prompts = [lm.prompt_ids(one.prompt) for one in part]
        table = stack_shifts(lm, [one.shift for one in part])
        texts = write(lm, prompts, [one.seed for one in part], sampling, tokens, lambda table=table: table)
        nlls = surprise(lm, [lm.prompt_ids(one.plain) for one in part], texts)
        found += [measure(lm, text, nll) for text, nll in zip(texts, nlls, strict=True)]
    return found


def stack_shifts(lm: LanguageModel, shifts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the rows' shifts as one [layer, batch, d_model], None if nothing steers."""
    if all(shift is None for shift in shifts):
        return None
    nothing = torch.zeros(lm.n_layers, lm.d_model)
    return torch.stack([nothing if shift is None else shift.cpu() for shift in shifts], 1).to(lm.device)


def measure(lm: LanguageModel, tokens: Sequence[int], nll: float) -> Outcome:
    """Return the fluency of a text."""
    return Outcome(
        text=lm.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
        tokens=len(tokens),
        nll=nll,
        distinct2=judges.distinct2(tokens),
        longest_repeat=judges.longest_repeat(tokens),
        collapsed=judges.collapsed(tokens, nll),
    )


@torch.inference_mode()
def ratings(lm: LanguageModel, conditions: Sequence[Condition], start: str = "") -> tuple[list[float], list[float]]:
    """Return each prompt's expected rating, from the probabilities of the digits 1 to 5 as the answer's next token.

    Args:
        start: how the answer begins, for example "Rating: ".

    Returns:
        Expected digits, and the probability that the token is one of the five digits at all.
    """
    begun = lm.tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
    digits = [lm.tokenizer(digit, add_special_tokens=False)["input_ids"][-1] for digit in DIGITS]
    values = torch.arange(1.0, 6.0)
    expected, masses = [], []
    for first in range(0, len(conditions), BATCH):
        part = conditions[first : first + BATCH]
        ids, mask, positions = left_pad([lm.prompt_ids(one.prompt) + begun for one in part], lm.pad_id, lm.device)
        table = stack_shifts(lm, [one.shift for one in part])
        with steered(lm, lambda table=table: table):
            out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
        shares = out.logits[:, -1].float().softmax(-1)[:, digits].cpu()
        masses += shares.sum(1).tolist()
        expected += (shares / shares.sum(1, keepdim=True) @ values).tolist()
    return expected, masses


@dataclass(frozen=True, eq=False)
class Verdicts:
    """How much of a concept is in each condition's text, and whether the text is fluent, [condition] each."""

    judge: np.ndarray
    fluent: np.ndarray
    found: list[Outcome]

    def part(self, rows: Sequence[int]) -> "Verdicts":
        """Return some rows."""
        return Verdicts(self.judge[rows], self.fluent[rows], [self.found[i] for i in rows] if self.found else [])


def verdicts(
    lm: LanguageModel,
    concept: Concept,
    conditions: Sequence[Condition],
    *,
    tokens: int,
    check: Callable[[float], None] = lambda share: None,
) -> Verdicts:
    """Write and judge every condition; a rating is read off the logits, fluent where most of them is on digits."""
    if concept.is_rating:
        expected, masses = ratings(lm, conditions, concept.answer_start)
        return Verdicts(np.array(expected), np.array(masses) > 0.5, [])
    found = outcomes(lm, conditions, tokens=tokens, check=check)
    return Verdicts(judged(concept, conditions, found), np.array([not one.collapsed for one in found]), found)


def judged(concept: Concept, conditions: Sequence[Condition], found: Sequence[Outcome]) -> np.ndarray:
    """Return the concept's judge of every text, [condition]."""
    judge = judges.judge(concept.judge)
    return np.array([judge(one.plain, out.text) for one, out in zip(conditions, found, strict=True)])


def bootstrap_interval(
    differences: np.ndarray, groups: np.ndarray, *, share: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of a mean, resampling whole groups (the prompts) with replacement.

    Args:
        differences: [n]; groups: [n] the prompt of each.
    """
    means = np.array([differences[groups == group].mean() for group in np.unique(groups)])
    picks = np.random.default_rng(seed).integers(len(means), size=(draws, len(means)))
    low, high = np.quantile(means[picks].mean(1), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
