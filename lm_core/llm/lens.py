"""What a direction means: the tokens it raises, its neighbours, and how much of the AGOP it holds."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lm_core.llm.activations import on_blocks
from lm_core.llm.directions import SEED, one_thread
from lm_core.llm.heldout import Fits
from lm_core.llm.model import LanguageModel
from lm_core.llm.rfm import Direction, agop, predictor_gradients, ridge_coefficients, split_rows

EIGENVALUES = 10
CAVEAT = (
    "The lens reads a block's direction as if it stood alone after the last block: what the blocks between do to it is "
    "left out. On the shipped model only the last block's words are mostly to the point; in block 25 few are, in block "
    "12 none. They say what the direction points to, not what steering with it writes."
)


@torch.inference_mode()
def logit_lens(lm: LanguageModel, vector: Tensor) -> Tensor:
    """Return how far a direction points to every token [vocabulary], by the logit lens (nostalgebraist, 2020).

    ½ (W N(√d v) − W N(−√d v)) / (√d ‖w‖) for the model's final norm N and its unembedding W, whose rows w have mean
    zero here (what all logits share changes nothing): about the cosine between v and what raises a token's logit. The
    half difference drops what norm or unembedding add whatever the direction; without the division by ‖w‖ rare tokens
    with long rows stand first whatever the concept (seen on the shipped directions).

    Args:
        vector: [d_model], a unit vector.

    Cost: one pass of the model over two rows of one token, whose last block's output the two vectors replace.
    """
    both = (torch.stack([vector, -vector]) * vector.numel() ** 0.5)[:, None]

    def see(layer: int, resid: Tensor) -> Tensor | None:
        return both.to(resid) if layer == lm.n_layers - 1 else None

    with on_blocks(lm, see):
        ids = torch.full((2, 1), lm.pad_id, device=lm.device)
        up, down = lm.model(input_ids=ids, use_cache=False).logits[:, -1].float()
    change, weight = (up - down) / 2, lm.model.get_output_embeddings().weight
    middle = weight.mean(0, dtype=torch.float32)
    lengths = weight.float().square().sum(1) - 2 * weight.float() @ middle + middle.square().sum()
    return (change - change.mean()) / (lengths.clamp_min(1e-9) * vector.numel()).sqrt()


def top_tokens(lm: LanguageModel, values: Tensor, count: int) -> list[tuple[str, float]]:
    """Return the tokens with the largest values, each written out, and these."""
    best = values.topk(min(count, len(values)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(lm.tokenizer.decode([token]), round(value, 4)) for token, value in pairs]


def mean_cosines(vectors: Sequence[Tensor], others: Sequence[Tensor], blocks: tuple[int, int]) -> Tensor:
    """Return the mean cosine [vector, other] over blocks, first and last inclusive, of directions [layer, d_model]."""
    first, last = max(blocks[0], 1), blocks[1]  # the first block has no direction
    ours, theirs = (normalize(torch.stack(list(rows))[:, first : last + 1], dim=-1) for rows in (vectors, others))
    return torch.einsum("vld,old->vol", ours, theirs).mean(-1)


def agop_spectrum(fits: Fits) -> list[list[float]]:
    """Return the AGOP's largest eigenvalues, as shares of their sum, of the machine that found each block's direction.

    Returns:
        [block − 1][≤ 10], largest first. A share near one is a machine that listens to a single direction.
    """
    rows = fits.reading.fitted
    activations, targets = fits.reading.activations[rows][:, 1:], fits.reading.targets[rows]
    split = split_rows(activations, targets, torch.Generator().manual_seed(SEED))
    spectra = []
    with one_thread():
        for train, one in zip(split.train, fits.found["rfm"], strict=True):
            metric = learned_metric(train, split.train_targets, one)
            values = torch.linalg.eigvalsh(metric).flip(0).clamp_min(0)
            spectra.append([round(float(value), 5) for value in (values / values.sum())[:EIGENVALUES]])
    return spectra


def learned_metric(train: Tensor, targets: Tensor, one: Direction) -> Tensor:
    """Return the M [r, r] that a direction is the top eigenvector of, in a basis of the training rows' span.

    Args:
        train: [n, d_model] rows less their mean; targets: [n] likewise, as `split_rows` returns them.
    """
    rows = (normalize(train, dim=-1) if one.unit_rows else train)[None]
    basis = torch.linalg.qr(train[None].mT).Q
    points, metric = rows @ basis, torch.eye(basis.shape[-1]).to(basis)[None]
    for _ in range(one.rounds):
        alpha = ridge_coefficients(points, targets, metric, one.bandwidth)
        metric = agop(predictor_gradients(points, alpha, metric, one.bandwidth), basis)
    return metric[0]
