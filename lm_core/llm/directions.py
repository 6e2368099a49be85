"""Concept directions: fitted for every block, kept in one safetensors file a concept, added up into a steering shift.

A file belongs to the model whose weights' hash it names. Its tensors: `METHOD.SITE` [layer, d_model], rows of any
length; `METHOD.SITE.correlation` [layer], on validation examples; `norms` [layer], typical residual norms. The first
block has no direction (Beaglehole et al. 2025): its row is zero.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lm_core.artifacts import atomic_write
from lm_core.concepts import Concept, Example
from lm_core.errors import AssetError, ParameterError
from lm_core.llm.activations import collect
from lm_core.llm.baselines import fit_layers
from lm_core.llm.model import LanguageModel

FORMAT = "1"
SEED = 0


@dataclass(frozen=True, eq=False)
class Directions:
    """A concept's directions in a model.

    Attributes:
        concept, model: their names; model_sha256: of the weights.
        norms: [layer] typical length of resid_post.
        vectors: by (method, site), unit rows [layer, d_model]; correlations likewise, [layer].
    """

    concept: str
    model: str
    model_sha256: str
    norms: Tensor
    vectors: dict[tuple[str, str], Tensor]
    correlations: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def get(self, method: str, site: str) -> Tensor:
        """Return the directions [layer, d_model] of a method and site.

        Raises:
            ParameterError: this file has none; says what it has.
        """
        if (method, site) not in self.vectors:
            there = ", ".join(sorted(f"{m} at {s}" for m, s in self.vectors))
            raise ParameterError(f"There is no direction of {self.concept} by {method} at {site}; there is {there}.")
        return self.vectors[method, site]

    def check_model(self, lm: LanguageModel) -> None:
        """Raise AssetError unless the directions were found in this very model."""
        if self.model_sha256 != lm.sha256:
            raise AssetError(
                f"The directions of {self.concept} were found in {self.model} ({self.model_sha256[:12]}…), not in "
                f"{lm.name} ({lm.sha256[:12]}…); fit them anew with `python -m lm_core fit`."
            )

    def pack(self, small: bool = False) -> bytes:
        """Return the content of a safetensors file; a small one has its rows in 8 bits (cosine to the exact > .999)."""
        tensors = {"norms": self.norms.float()}
        for (method, site), vectors in self.vectors.items():
            tensors[f"{method}.{site}"] = _eight_bits(vectors) if small else vectors.half()
        for (method, site), correlation in self.correlations.items():
            tensors[f"{method}.{site}.correlation"] = correlation.half()
        facts = {"format": FORMAT, "concept": self.concept, "model": self.model, "model_sha256": self.model_sha256}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)

    def write(self, path: Path, small: bool = False) -> None:
        """Write the safetensors file."""
        atomic_write(path, self.pack(small))


def read_directions(path: Path) -> Directions:
    """Read a file of directions.

    Raises:
        AssetError: it is missing, or no file of directions.
    """
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts, tensors = header["__metadata__"], load(content)
        norms = tensors.pop("norms")
        split = {tuple(name.split(".")): tensor.float() for name, tensor in tensors.items()}
        return Directions(
            facts["concept"],
            facts["model"],
            facts["model_sha256"],
            norms,
            {key: _unit(tensor) for key, tensor in split.items() if len(key) == 2},
            {key[:2]: tensor for key, tensor in split.items() if len(key) == 3},
        )
    except OSError as error:
        raise AssetError(f"The directions {path.name} can't be read: {error.strerror}; check the path.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path.name} is no file of concept directions ({error}); make one with `fit`.") from None


def _eight_bits(rows: Tensor) -> Tensor:
    """Return rows as int8 up to their length, which reading restores to one."""
    return (127 * rows / rows.abs().amax(-1, keepdim=True).clamp(min=1e-12)).round().to(torch.int8)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def fit_directions(
    lm: LanguageModel,
    concept: Concept,
    which: Iterable[tuple[str, str]],
    read: Callable[[Sequence[Example]], tuple[Tensor, Tensor]] | None = None,
) -> Directions:
    """Find a concept's direction in every block but the first.

    Args:
        which: pairs of method and site.
        read: examples to activations [example, layer, d_model] and norms [example, layer]; `collect` if None.

    The typical norms are the mean over the examples of the last of the sites.

    Cost: one pass of the model over the examples for each site, then seconds a method.
    """
    vectors, correlations, norms = {}, {}, torch.ones(lm.n_layers)
    wanted = list(which)
    for site in dict.fromkeys(site for _, site in wanted):
        examples = concept.examples(site)
        activations, typical = (read or (lambda items: collect(lm, items)))(examples)
        norms = typical.mean(0)
        targets = torch.tensor([one.target for one in examples])
        for method in (method for method, where in wanted if where == site):
            if method == "pca" and concept.label == "real":
                continue  # it needs pairs
            with one_thread():
                found = fit_layers(method, activations[:, 1:], targets, generator=torch.Generator().manual_seed(SEED))
            rows = torch.stack([torch.zeros_like(found[0].vector), *(one.vector for one in found)])
            vectors[method, site] = rows.float()
            correlations[method, site] = torch.tensor([0.0, *(one.correlation for one in found)])
    return Directions(concept.id, lm.name, lm.sha256, norms, vectors, correlations)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: many small eigenproblems are slower in two, far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Steering:
    """What strengths do to the residual stream: h ← h + Σ_c strength_c · norm_ℓ · v_{c,ℓ}, in the chosen blocks.

    Args:
        vectors: one [layer, d_model] a concept; norms: [layer], or [concept, layer]; blocks: first and last for each
            concept.
    """

    def __init__(self, vectors: Sequence[Tensor], norms: Tensor, blocks: Sequence[tuple[int, int]], lm: LanguageModel):
        inside = torch.zeros(len(vectors), lm.n_layers)
        for concept, (first, last) in enumerate(blocks):
            if last >= lm.n_layers:
                raise ParameterError(f"blocks are {first}–{last}; {lm.name} has blocks 0 to {lm.n_layers - 1}.")
            inside[concept, first : last + 1] = 1
        stacked = torch.stack(list(vectors)) if vectors else torch.zeros(0, lm.n_layers, lm.d_model)
        inside *= stacked.cpu().norm(dim=-1) > 0  # the first block has no direction
        self.basis = (stacked * (inside * norms)[..., None]).to(lm.device)  # concept, layer, d_model
        self.directions, self.inside, self.norms = stacked.to(lm.device), inside.to(lm.device), norms.to(lm.device)

    def shift(self, strengths: Tensor) -> Tensor | None:
        """Return what is added [layer, batch, d_model] for strengths [batch, concept]; None if all are zero."""
        if not strengths.any():
            return None
        return torch.einsum("bc,cld->lbd", strengths.to(self.basis), self.basis)

    def cosines(self) -> Tensor:
        """Return the mean cosine [concept, concept] between directions over the blocks that both steer."""
        units = _unit(self.directions)
        both = self.inside[:, None] * self.inside[None]
        return (torch.einsum("cld,eld->cel", units, units) * both).sum(-1) / both.sum(-1).clamp(min=1)


def random_directions(lm: LanguageModel, seed: int = 0) -> Tensor:
    """Return the control: one random unit vector, the same in every block so that it adds up as a concept's does."""
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed))
    return (vector / vector.norm()).expand(lm.n_layers, lm.d_model)
