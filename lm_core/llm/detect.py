"""Detect a concept: where in a text, and how strongly, the unsteered model's activations point along its direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_core.llm.activations import on_blocks
from lm_core.llm.model import LanguageModel

BEST_BLOCKS = 5  # by validation correlation


@dataclass(frozen=True)
class Detection:
    """Projections of one text: ⟨h, v⟩ in residual norms, mean over the best blocks, for each token and for the text."""

    pieces: list[str]
    scores: list[float]
    score: float


def best_blocks(correlations: Tensor) -> list[int]:
    """Return the blocks [≤ 5] whose directions agreed best with the validation labels, in order."""
    return sorted(correlations.topk(min(BEST_BLOCKS, len(correlations) - 1)).indices.tolist())


@torch.inference_mode()
def detect(
    lm: LanguageModel, texts: Sequence[str], vectors: Tensor, norms: Tensor, blocks: Sequence[int]
) -> list[Detection]:
    """Read each text, without a chat template, and project its tokens.

    Args:
        vectors: [layer, d_model] unit rows; norms: [layer].
    """
    found = []
    for text in texts:
        ids = lm.tokenizer(text)["input_ids"]
        shown = torch.zeros(len(ids), device=lm.device)

        def see(layer: int, resid: Tensor, shown=shown) -> None:
            if layer in blocks:
                shown.add_(resid[0].float() @ vectors[layer].to(lm.device) / (norms[layer] * len(blocks)))

        with on_blocks(lm, see):
            lm.model(input_ids=torch.tensor([ids], device=lm.device), use_cache=False, logits_to_keep=1)
        pieces = [lm.tokenizer.decode([token]) for token in ids]
        scores = shown.tolist()
        later = scores[1:] or scores  # the first token's residual stream is an outlier in most models
        found.append(Detection(pieces, scores, sum(later) / len(later)))
    return found
