"""Read finished or growing texts with the unsteered model: how surprising each token is, and where concepts show."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lm_core.llm.activations import left_pad, on_blocks
from lm_core.llm.detect import Watch
from lm_core.llm.model import LanguageModel


@torch.inference_mode()
def surprise(lm: LanguageModel, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[float]:
    """Return each text's mean negative log-likelihood, nats a token, after its prompt; 0 for an empty text.

    Equal prompts are read once.
    """
    unique = list(dict.fromkeys(map(tuple, prompts)))
    rows = torch.tensor([unique.index(tuple(prompt)) for prompt in prompts], device=lm.device)
    ids, mask, positions = left_pad(unique, lm.pad_id, lm.device)
    out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    cache.batch_select_indices(rows)
    longest = max(1, *map(len, texts))
    following = torch.tensor([[*text, *[lm.pad_id] * (longest - len(text))] for text in texts], device=lm.device)
    real = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=lm.device)
    places = mask.sum(1, keepdim=True)[rows] + torch.arange(longest, device=lm.device)
    logits = [out.logits[rows]]
    if longest > 1:
        more = lm.model(
            input_ids=following[:, :-1],
            attention_mask=torch.cat([mask[rows], real[:, :-1].clamp(min=1)], 1),
            position_ids=places[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(more.logits)
    losses = _losses(torch.cat(logits, 1), following)
    return ((losses * real).sum(1) / real.sum(1).clamp(min=1)).tolist()


def _losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return −log p(token) [batch, pos], row by row, for a vocabulary is wide."""
    rows = [
        torch.nn.functional.cross_entropy(row.float(), wanted, reduction="none")
        for row, wanted in zip(logits, tokens, strict=True)
    ]
    return torch.stack(rows)


class Reader:
    """Follows several answers to one prompt as they grow.

    Args:
        directions: [concept, layer, d_model] unit rows; inside: [concept, layer] 1 where the concept steers.
        norms: [layer] or [concept, layer] typical residual norms, the unit of projections.
        watch: detectors that look on, if any.

    Attributes:
        losses: [row][token] nats; projections: [row][concept][token]; scores: [row][detector][token].
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompt: Sequence[int],
        rows: int,
        directions: Tensor,
        inside: Tensor,
        norms: Tensor,
        watch: Watch | None = None,
    ):
        self.lm, self.prompt, self.rows, self.watch = lm, list(prompt), rows, watch
        self.cache: Any = None
        self.last: Tensor | None = None
        self.losses: list[list[float]] = [[] for _ in range(rows)]
        self.projections: list[list[list[float]]] = [[[] for _ in directions] for _ in range(rows)]
        self.scores: list[list[list[float]]] = [[[] for _ in watch.detectors] if watch else [] for _ in range(rows)]
        share = inside / inside.sum(1, keepdim=True).clamp(min=1)
        self.probe = (directions * (share / norms.to(share))[..., None]).to(lm.device)
        self.prompt_projections: list[list[float]] = [[] for _ in directions]

    @torch.inference_mode()
    def feed(self, new: Sequence[Sequence[int]]) -> None:
        """Read each row's new tokens: equally many, but for rows that ended, which get what they have left."""
        longest = max(map(len, new), default=0)
        if longest == 0:
            return
        start = [self.prompt] * self.rows if self.cache is None else [[]] * self.rows
        ids = torch.tensor(
            [[*head, *row, *[self.lm.pad_id] * (longest - len(row))] for head, row in zip(start, new, strict=True)],
            device=self.lm.device,
        )
        shown = torch.zeros(self.rows, len(self.probe), ids.shape[1], device=self.lm.device)

        def see(layer: int, resid: Tensor) -> None:
            shown.add_(torch.einsum("bpd,cd->bcp", resid.float(), self.probe[:, layer]))
            if self.watch:
                self.watch.see(layer, resid)

        with on_blocks(self.lm, see):
            out = self.lm.model(input_ids=ids, past_key_values=self.cache, use_cache=True)
        self._note(out.logits, new, longest)
        if self.cache is None:
            self.prompt_projections = shown[0, :, : len(self.prompt)].tolist()
        _extend(self.projections, shown, new, longest)
        if self.watch:
            _extend(self.scores, self.watch.take()[1].transpose(0, 1), new, longest)
        self.cache = out.past_key_values

    def _note(self, logits: Tensor, new: Sequence[Sequence[int]], longest: int) -> None:
        if self.last is None:
            before = logits[:, len(self.prompt) - 1 : -1]
        else:
            before = torch.cat([self.last, logits[:, :-1]], 1)
        self.last = logits[:, -1:]
        wanted = torch.tensor([[*row, *[0] * (longest - len(row))] for row in new], device=self.lm.device)
        losses = _losses(before, wanted)
        for row, tokens in enumerate(new):
            self.losses[row] += losses[row, : len(tokens)].tolist()

    def nll(self, row: int) -> float | None:
        """Return a row's mean surprise so far in nats a token."""
        return sum(self.losses[row]) / len(self.losses[row]) if self.losses[row] else None


def _extend(kept: list[list[list[float]]], seen: Tensor, new: Sequence[Sequence[int]], longest: int) -> None:
    """Append to [row][what][token] the figures [row, what, pos] of a pass's new tokens, its last `longest` ones."""
    for row, tokens in enumerate(new):
        for found, values in zip(kept[row], seen[row, :, -longest:][:, : len(tokens)].tolist(), strict=True):
            found += values
