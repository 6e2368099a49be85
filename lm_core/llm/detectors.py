"""Detectors: from activations to one score that says how much of a concept is there.

A block's activations are projected on the concept's top p eigenvectors of the AGOP (p = 3 for the recursive feature
machine, Beaglehole et al. 2026; other methods have their own directions). The score is that of the best block, or all
blocks' projections side by side go through linear regression, logistic regression or a recursive feature machine.
Everything that can be chosen is chosen on validation rows among the rows given, so the rows of a test fold, which are
never given, choose nothing. Directions are found in float32: on activations the same as in float64, at half the cost.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from lm_core import ranking
from lm_core.errors import ParameterError
from lm_core.llm import rfm
from lm_core.llm.baselines import CANDIDATES
from lm_core.llm.detector import Detector, read_detector
from lm_core.llm.directions import one_thread
from lm_core.llm.readouts import FITS, LinearReadout, Readout, Rows, fit_readout
from lm_core.llm.rfm import Candidate, Split
from lm_core.ranking import auroc

__all__ = ["AGGREGATES", "Detector", "auroc", "fit_detector", "fit_detectors", "read_detector"]

AGGREGATES = ("best", *FITS)
COMPONENTS = 3  # the published p
ROUNDS = 3  # on real activations the fourth and fifth change the correlation by less than .001
FEWEST_HELD = 4  # validation rows

Key = tuple[str, str]  # method, aggregate


def fit_detector(
    activations: Tensor,
    targets: Tensor,
    method: str,
    aggregate: str,
    *,
    generator: torch.Generator,
    p: int = COMPONENTS,
) -> Detector:
    """Fit one detector; see `fit_detectors`."""
    return fit_detectors(activations, targets, [(method, aggregate)], generator=generator, p=p)[method, aggregate]


def fit_detectors(
    activations: Tensor,
    targets: Tensor,
    wanted: Iterable[Key],
    *,
    generator: torch.Generator,
    p: int = COMPONENTS,
    held: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[Key, Detector]:
    """Fit detectors to the same rows; each method's directions are found once.

    Args:
        activations: [n, layer, d_model]; the first block's are not used (Beaglehole et al. 2025).
        targets: [n], two values (the larger means the concept) or real.
        wanted: pairs of method and aggregate.
        generator: draws the validation rows where `held` doesn't name them.
        p: directions a block for rfm.
        held: [n] True for the validation rows: whole groups, so that templates don't help to choose.
        check: called before each method; may raise to cancel.

    Raises:
        ParameterError: unusable examples, an unknown method or aggregate, or no validation rows of some class.

    Cost: rfm on 320 rows of 30 blocks, d_model 576: 4 s of one core; logistic 2 s; the others .5 s at most.
    """
    keys = list(wanted)
    _check_keys(keys, p, activations)
    rfm.check_examples(activations, targets)
    labels = _centred(targets.to(activations.device).float())
    held = _draw_held(labels, generator) if held is None else held.to(labels.device)
    _check_held(labels, held)
    rows, found = activations.detach().float(), {}
    for method in dict.fromkeys(method for method, _ in keys):
        check()
        base = _base(method, rows, labels, held, p)
        projections = base.project(rows)
        for aggregate in (aggregate for name, aggregate in keys if name == method):
            found[method, aggregate] = _finish(base, aggregate, projections, labels, held)
    return found


def _base(method: str, rows: Tensor, labels: Tensor, held: Tensor, p: int) -> Detector:
    """Return a detector that has everything but its readout."""
    first = _first(rows.shape[1])
    centre, middle = rows[~held].mean(0), labels[~held].mean()
    layers = (rows - centre)[:, first:].transpose(0, 1)
    split = Split(layers[:, ~held], labels[~held] - middle, layers[:, held], labels[held] - middle)
    vectors = find_vectors(method, split, p).half().float()  # as they are written
    vectors = torch.cat([torch.zeros(first, *vectors.shape[1:]).to(vectors), vectors])
    offsets = torch.einsum("ld,lpd->lp", centre, vectors)
    norms, unread = rows[~held].norm(dim=-1).mean(0), LinearReadout(torch.zeros(0), torch.zeros(0))
    return Detector(method, "", (), vectors, offsets, norms, unread, 0.0)


def _finish(base: Detector, aggregate: str, projections: Tensor, labels: Tensor, held: Tensor) -> Detector:
    blocks, readout = _read_out(aggregate, projections, labels, held)
    one = replace(base, aggregate=aggregate, blocks=blocks, readout=readout)
    scores, wants = one.score(projections[held]).cpu(), labels[held].cpu()
    skill = ranking.skill(scores, wants, _is_real(labels))
    return replace(one, validation=skill, held_scores=scores, held_targets=wants)


def _first(layers: int) -> int:
    """Return the first block that has directions."""
    return min(1, layers - 1)


def find_vectors(method: str, split: Split, p: int = COMPONENTS) -> Tensor:
    """Return a method's directions [layer, p, d_model]; threads share the layers. Only rfm heeds p."""
    threads = torch.get_num_threads() if split.train.device.type == "cpu" else 1
    parts = torch.arange(len(split.train)).chunk(threads)

    def work(layers: Tensor) -> Tensor:
        part = split._replace(train=split.train[layers], held=split.held[layers])
        return torch.stack([one.top for one in rfm.choose(_candidates(method, part, p), part)])

    with one_thread(), ThreadPoolExecutor(len(parts)) as pool:
        return torch.cat(list(pool.map(work, parts)))


def _candidates(method: str, split: Split, p: int) -> Iterator[Candidate]:
    if method == "rfm":
        return rfm.search(split, rfm.BANDWIDTHS, ROUNDS, rfm.RIDGE, p)
    return CANDIDATES[method](split)


def _read_out(aggregate: str, projections: Tensor, labels: Tensor, held: Tensor) -> tuple[tuple[int, ...], Readout]:
    """Return the blocks that a score reads and how: all of them, or the one that is best on the validation rows."""
    every = tuple(range(_first(projections.shape[1]), projections.shape[1]))

    def rows(blocks: tuple[int, ...]) -> Rows:
        features = projections[:, list(blocks)].flatten(1)
        return Rows(features[~held], labels[~held], features[held], labels[held])

    if aggregate != "best":
        return every, fit_readout(aggregate, rows(every))
    single = {block: fit_readout("linear", rows((block,))) for block in every}

    def rank(block: int) -> tuple[float, float]:
        part = rows((block,))
        scores, wants = single[block](part.held).cpu(), part.held_targets.cpu()
        return ranking.skill(scores, wants, _is_real(labels)), ranking.pearson(scores, wants)

    best = max(every, key=rank)
    return (best,), single[best]


def _is_real(targets: Tensor) -> bool:
    return len(targets.unique()) > 2


def _centred(targets: Tensor) -> Tensor:
    """Return two classes as ±1, real targets less their mean."""
    if _is_real(targets):
        return targets - targets.mean()
    return torch.where(targets == targets.max(), 1.0, -1.0)


def _draw_held(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a fifth of each class, of all rows if targets are real."""
    keys = torch.rand(len(labels), generator=generator, device=generator.device).to(labels.device)
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    groups = [torch.ones_like(held)] if _is_real(labels) else [labels > 0, labels < 0]
    for members in (group.nonzero()[:, 0] for group in groups):
        held[members[keys[members].argsort()[: round(rfm.VALIDATION_SHARE * len(members))]]] = True
    return held


def _check_keys(keys: list[Key], p: int, activations: Tensor) -> None:
    for method, aggregate in keys:
        if method != "rfm" and method not in CANDIDATES:
            raise ParameterError(f"method is {method!r}; choose one of rfm, {', '.join(CANDIDATES)}.")
        if aggregate not in AGGREGATES:
            raise ParameterError(f"aggregate is {aggregate!r}; choose one of {', '.join(AGGREGATES)}.")
    if not 1 <= p <= activations.shape[-1]:
        raise ParameterError(f"p is {p}; choose 1..{activations.shape[-1]}, the activations' width.")


def _check_held(labels: Tensor, held: Tensor) -> None:
    enough = FEWEST_HELD <= int(held.sum()) <= len(labels) - 2 * FEWEST_HELD
    if not enough or any(len(labels[side].unique()) < 2 for side in (held, ~held)):
        raise ParameterError(
            f"Of {len(labels)} rows {int(held.sum())} are for validation; give both parts rows of both classes, and "
            f"validation at least {FEWEST_HELD}."
        )
