"""What a computation is asked for: frozen, validated once, torch-free."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lm_core.errors import ParameterError

MACHINES = {
    "bbels": "Boundary-broken ELS",
    "els": "Equivariant local (ELS)",
    "ls": "Local (LS)",
    "es": "Equivariant (ES)",
    "is": "Ideal score (IS)",
}
NETWORKS = {
    "unet": "UNet",
    "resnet": "ResNet",
    "resnet-circular": "ResNet, circular",
    "unet-attention": "UNet + attention",
    "unet-standard": "UNet + attention + norm",
    "ddpm-cifar10-32": "DDPM UNet (google)",
}
ENGINES = {"exact": "Exact", "fast": "Fast"}
MAX_TOLERANCE = 0.1
MAX_PATCH_SIZE = 127
MAX_STEPS = 200
MAX_SEED = 2**31 - 1


def require_int(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParameterError(f"{name} is {value!r}; choose a whole number from {low} to {high}.")


@dataclass(frozen=True)
class MosaicParams:
    """One image made by a score machine, and by a network from the same noise.

    Attributes:
        dataset: mnist, fashion-mnist, emoji, cifar10, or a folder of images.
        label: class that machine and network are conditioned on, None for all.
        machine: which candidates a pixel may copy from: is, es, ls, els, bbels.
        network: the network beside it (as shipped for the data set, or a folder), None for no network.
        seed: of the starting noise.
        images: how many training images the machine uses, the first ones in their order; None for all.
        steps: DDIM steps of machine and network.
        patch_sizes: the window P at each of the steps, the noisiest first, odd; None for the published curve.
        engine: which posterior engine computes the machine: "exact" weighs every candidate, "fast" leaves out what
            hardly matters.
        tolerance: the error of a pixel's posterior mean, on [−1, 1] and per step, that the fast engine aims at; 0
            leaves nothing out.
    """

    dataset: str = "mnist"
    label: int | None = None
    machine: str = "bbels"
    network: str | None = "unet"
    seed: int = 0
    images: int | None = 1000
    steps: int = 20
    patch_sizes: tuple[int, ...] | None = None
    engine: str = "exact"
    tolerance: float = 0.008

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str) or not self.dataset:
            raise ParameterError("dataset is empty; choose mnist, fashion-mnist, emoji, cifar10 or a folder of images.")
        if self.machine not in MACHINES:
            raise ParameterError(f"machine is {self.machine!r}; choose one of {', '.join(MACHINES)}.")
        if self.engine not in ENGINES:
            raise ParameterError(f"engine is {self.engine!r}; choose one of {', '.join(ENGINES)}.")
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float):
            raise ParameterError(f"tolerance is {self.tolerance!r}; choose a number from 0 to {MAX_TOLERANCE}.")
        if not 0 <= self.tolerance <= MAX_TOLERANCE:  # not-a-number fails too
            raise ParameterError(f"tolerance is {self.tolerance}; choose a number from 0 to {MAX_TOLERANCE}.")
        object.__setattr__(self, "tolerance", float(self.tolerance))
        require_int("seed", self.seed, 0, MAX_SEED)
        require_int("steps", self.steps, 1, MAX_STEPS)
        if self.images is not None:
            require_int("images", self.images, 1, 10_000_000)
        if self.label is not None:
            require_int("label", self.label, 0, 10_000)
        if self.patch_sizes is not None:
            object.__setattr__(self, "patch_sizes", check_patch_sizes(tuple(self.patch_sizes), self.steps))

    def with_(self, **changes: Any) -> "MosaicParams":
        """Return a validated copy with some fields changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self) | {"patch_sizes": list(self.patch_sizes) if self.patch_sizes else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MosaicParams":
        """Return the parameters that `as_dict` described; unknown names are refused."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ParameterError(f"{', '.join(sorted(unknown))} is no parameter of a mosaic.")
        known: dict[str, Any] = dict(values)
        known["patch_sizes"] = tuple(known["patch_sizes"]) if known.get("patch_sizes") else None
        return cls(**known)

    def key(self) -> str:
        """Return a short content hash, the same for equal parameters on every machine."""
        values = self.as_dict()
        if self.engine == "exact":
            del values["tolerance"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_patch_sizes(sizes: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """Return a curve of one odd window per step, a single size repeated.

    Raises:
        ParameterError: a size is even, below 1 or above 127, or their number is neither 1 nor `steps`.
    """
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_PATCH_SIZE or size % 2 == 0:
            raise ParameterError(f"patch size is {size!r}; choose an odd number from 1 to {MAX_PATCH_SIZE}.")
    if len(sizes) not in (1, steps):
        raise ParameterError(f"patch_sizes has {len(sizes)} entries; give one, or one for each of the {steps} steps.")
    return sizes * steps if len(sizes) == 1 else sizes


def parse_patch_sizes(text: str, steps: int) -> tuple[int, ...]:
    """Read "27,25,…,3" (noisiest first) or a single odd number."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(
            f"patch sizes are {text!r}; give odd numbers with commas, the noisiest step first."
        ) from None
    return check_patch_sizes(sizes, steps)
