"""Write several answers as one batch, steered row by row, one token at a time."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm_core.llm import llama_step
from lm_core.llm.activations import left_pad, steered
from lm_core.llm.model import LanguageModel

TOP_K = 200  # candidates for a token; a nucleus of .9 rarely has more
ROW_COUNTS = (4, 8, 48)  # rows are padded to one of these, so that weights are packed for few sizes
PACKED_KEPT = 2

Shift = Callable[[], Tensor | None]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; see `SteerParams`."""

    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.15


class Sampler:
    """Draws the next token of every row.

    Rows with the same seed get the same noise at every step (Gumbel-max: the token with the largest logit plus noise),
    so equal logits give equal tokens and close ones mostly do.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], vocabulary: int, device: torch.device):
        self.sampling, self.seeds = sampling, list(seeds)
        self.sources = {seed: torch.Generator().manual_seed(seed) for seed in sorted(set(seeds))}
        self.seen = torch.zeros(len(self.seeds), vocabulary, dtype=torch.bool, device=device)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the next ids [batch] for logits [batch, vocabulary]."""
        logits = logits.float()
        if self.sampling.repetition_penalty != 1:
            penalty = self.sampling.repetition_penalty
            punished = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self.seen, punished, logits)
        best, ids = logits.topk(min(TOP_K, logits.shape[1]))
        if self.sampling.temperature > 0:
            best = best / self.sampling.temperature
            shares = best.softmax(-1)
            best = best.masked_fill(shares.cumsum(-1) - shares >= self.sampling.top_p, -torch.inf)
            best = best + self._noise(logits.shape[1], logits.device).gather(1, ids)
        chosen = ids.gather(1, best.argmax(-1, keepdim=True))
        self.seen.scatter_(1, chosen, True)
        return chosen[:, 0]

    def _noise(self, vocabulary: int, device: torch.device) -> Tensor:
        drawn = {
            seed: -torch.empty(vocabulary).exponential_(generator=source).log() for seed, source in self.sources.items()
        }
        return torch.stack([drawn[seed] for seed in self.seeds]).to(device)


class ModelStep:
    """One token at a time through any model of transformers; hooks steer it, during its own pass only."""

    def __init__(self, lm: LanguageModel, cache: Any, mask: Tensor):
        self.lm, self.cache, self.mask = lm, cache, mask

    def __call__(self, ids: Tensor, shift: Tensor | None) -> Tensor:
        """Return the next token's logits [batch, vocabulary]."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], 1)
        place = self.mask.sum(1, keepdim=True) - 1
        with steered(self.lm, lambda: shift):
            out = self.lm.model(
                input_ids=ids[:, None],
                attention_mask=self.mask,
                position_ids=place,
                past_key_values=self.cache,
                use_cache=True,
            )
        return out.logits[:, -1]


_packing = threading.Lock()


def _packed(lm: LanguageModel, rows: int) -> llama_step.LlamaWeights:
    """Return the model's weights packed for at least so many rows; the last few packings go with the model."""
    rows = next((count for count in ROW_COUNTS if count >= rows), rows)
    with _packing:
        for kept in lm.packed:
            if kept.rows == rows:
                return kept
        lm.packed[:] = [*lm.packed, llama_step.LlamaWeights(lm, rows)][-PACKED_KEPT:]
        return lm.packed[-1]


@torch.inference_mode()
def write(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    tokens: int,
    shift: Shift = lambda: None,
    on_token: Callable[[int, list[int | None]], None] = lambda step, ids: None,
) -> list[list[int]]:
    """Write an answer in every row; all rows see the same noise where their seeds are equal.

    Args:
        prompts: token ids, one list a row.
        shift: what steers, [layer, batch, d_model] or None, read at every token.
        on_token: called with the step and each row's new token, None for rows that have ended; may raise to cancel.

    Returns:
        The tokens of each row without the one that ended it.
    """
    ids, mask, positions = left_pad(prompts, lm.pad_id, lm.device)
    texts: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    now = shift()  # one reading a step: what acts on every block is the same
    with steered(lm, lambda: now):
        logits, step = begin(lm, ids, mask, positions, tokens)
    sampler = Sampler(sampling, seeds, logits.shape[1], lm.device)
    for count in range(tokens):
        chosen = sampler(logits)
        on_token(count, [_keep(lm, texts, ended, row, token) for row, token in enumerate(chosen.tolist())])
        if all(ended) or count == tokens - 1:
            break
        logits = step(chosen, shift())
    return texts


def begin(
    lm: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, tokens: int
) -> tuple[Tensor, Callable[[Tensor, Tensor | None], Tensor]]:
    """Read the prompts; return the first token's logits and what takes the further steps."""
    out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    if llama_step.supports(lm):
        step = llama_step.LlamaStep(lm, _packed(lm, len(mask)), out.past_key_values, mask, tokens)
    else:
        step = ModelStep(lm, out.past_key_values, mask)
    return out.logits[:, -1], step


def _keep(lm: LanguageModel, texts: list[list[int]], ended: list[bool], row: int, token: int) -> int | None:
    """Note a row's new token; None if the row has ended."""
    ended[row] = ended[row] or token in lm.end_ids
    if ended[row]:
        return None
    texts[row].append(token)
    return token
