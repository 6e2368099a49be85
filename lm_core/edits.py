"""Edits of what a machine is given: its training set and its noise. Frozen, validated, torch-free, applied to arrays.

Where they are run is `run_edits`. A trained network can't follow an edit of the training set; it follows one of the
noise.
"""

import hashlib
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from lm_core.artifacts import IMAGE_SIZE, ImageData, load_dataset
from lm_core.errors import AssetError, ParameterError
from lm_core.formats import read_picture
from lm_core.params import MAX_SEED, MosaicParams, require_int
from lm_core.results import MosaicResult

MAX_ADDED = 16
MAX_UPLOAD_BYTES = 5 * 2**20
MAX_UPLOAD_PIXELS = 40_000_000  # a small file may unpack to far more
UPLOAD_KINDS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}  # by their first bytes
BRUSHES = {"fresh": "Fresh noise", "zero": "Zero", "seed": "From another seed"}
FRESH_STREAM = 7919  # of "fresh" noise: a stream of numbers that no seed's starting noise takes


@dataclass(frozen=True)
class Picture:
    """One image that the visitor adds.

    Attributes:
        name: what it is called.
        pixels: uint8 [C, H, W] as bytes, one plane after another.
        shape: (C, H, W).
    """

    name: str
    pixels: bytes
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.pixels) != int(np.prod(self.shape)):
            raise ParameterError(
                f"the image {self.name} has {len(self.pixels):,} values; {self.shape} takes {np.prod(self.shape):,}."
            )

    @classmethod
    def of(cls, name: str, image: np.ndarray) -> "Picture":
        """Take a uint8 image [C, H, W]."""
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ParameterError(f"the image {name} is {image.dtype} of shape {image.shape}; give uint8 [C, H, W].")
        channels, height, width = image.shape
        return cls(name, np.ascontiguousarray(image).tobytes(), (channels, height, width))

    @property
    def array(self) -> np.ndarray:
        """The image, uint8 [C, H, W], read-only."""
        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)

    def with_channels(self, channels: int) -> "Picture":
        """Return it as grey (the mean of its colours) or as colour (the same grey three times)."""
        if channels == self.shape[0]:
            return self
        image = self.array.mean(0, keepdims=True).round().astype(np.uint8)
        return Picture.of(self.name, np.repeat(image, channels, axis=0))


def read_upload(name: str, content: bytes, channels: int, invert: bool = False, size: int = IMAGE_SIZE) -> Picture:
    """Decode a visitor's PNG or JPEG: centre-cropped, resized, on white where transparent, as folders are read.

    Args:
        channels: 1 for grey, 3 for colour; invert: exchange dark and light.

    Raises:
        ParameterError: not a PNG or JPEG, or too large.
        AssetError: damaged.
    """
    if len(content) > MAX_UPLOAD_BYTES:
        raise ParameterError(f"{name} has {len(content) / 2**20:.1f} MB; an image may have 5. Save it smaller.")
    if not any(content.startswith(first) for first in UPLOAD_KINDS):
        raise ParameterError(f"{name} is no {' or '.join(UPLOAD_KINDS.values())} file; save it as one of those.")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise AssetError(f"Can't read the image {name}: it is damaged. Save it anew.") from None
    if width * height > MAX_UPLOAD_PIXELS:
        raise ParameterError(f"{name} has {width:,} × {height:,} pixels; make it smaller, 40 million are the limit.")
    pixels, _ = read_picture(io.BytesIO(content), size, name)
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return Picture.of(name, 255 - image if invert else image).with_channels(channels)


@dataclass(frozen=True)
class TrainingEdit:
    """A training set as a visitor has edited it: some images of a data set, fewer a few, and some of the visitor's own.

    Attributes:
        dataset: mnist, fashion-mnist, emoji, cifar10, or a folder of images.
        images: how many of the set's (or the class's) images, the first ones; None for all.
        label: only this class; None for every class.
        only: ids of the only images taken from the set, in place of `images` and `label`; None takes those.
        removed: ids of images taken out.
        added: the visitor's own images; they come last, and their ids follow the set's last one.
    """

    dataset: str
    images: int | None = 300
    label: int | None = None
    only: tuple[int, ...] | None = None
    removed: tuple[int, ...] = ()
    added: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        for name in ("only", "removed"):
            ids = getattr(self, name)
            if ids is not None:
                for one in ids:
                    require_int(f"an image id in {name}", one, 0, 10_000_000)
                object.__setattr__(self, name, tuple(dict.fromkeys(ids)))
        if len(self.added) > MAX_ADDED:
            raise ParameterError(f"{len(self.added)} images are added; at most {MAX_ADDED} may be. Take some out.")

    def with_(self, **changes: Any) -> "TrainingEdit":
        """Return a validated copy with some fields changed."""
        return replace(self, **changes)

    def edits_of(self, params: MosaicParams) -> bool:
        """Whether anything differs from the training images that some parameters name."""
        return bool(self.removed or self.added) or self.only is not None or self.label != params.label

    def key(self) -> str:
        """Return a short content hash, the same for equal edits."""
        digest = hashlib.sha256(repr((self.dataset, self.images, self.label, self.only, self.removed)).encode())
        for picture in self.added:
            digest.update(repr((picture.name, picture.shape)).encode() + picture.pixels)
        return digest.hexdigest()[:16]

    def apply(self) -> ImageData:
        """Return the edited training set; ids of the set's images stay theirs.

        Raises:
            ParameterError: an id isn't in the set, an added image doesn't fit, or fewer than two images are left.
        """
        full = load_dataset(self.dataset)
        for one in (*(self.only or ()), *self.removed):
            if one >= len(full.images):
                raise ParameterError(f"image {one} isn't in {self.dataset}; its ids are 0 to {len(full.images) - 1:,}.")
        if self.only is None:
            size = len(full.images) if self.label is None else int((full.labels == self.label).sum())
            rows = full.take(None if self.images is None else min(self.images, size) or None, self.label).ids
        else:
            rows = np.sort(np.array(self.only, np.int64))
        rows = rows[~np.isin(rows, self.removed)]
        extra = self._added(full)
        if not len(rows) + len(extra):
            raise ParameterError(
                "no image is left; a training set needs two. Draw or upload some, or start from another set."
            )
        if len(rows) + len(extra) < 2:
            raise ParameterError("1 image is left; a training set needs two. Add another, or undo one edit.")
        return replace(
            full,
            images=np.concatenate([full.images[rows], extra]),
            labels=np.concatenate([full.labels[rows], np.full(len(extra), -1)]),
            ids=np.concatenate([full.ids[rows], self.first_added(full) + np.arange(len(extra))]),
            names=(*(full.names[row] for row in rows), *(one.name for one in self.added)) if full.names else (),
            sha256=f"{full.sha256} edited {self.key()}",
        )

    def _added(self, full: ImageData) -> np.ndarray:
        shape = full.images.shape[1:]
        for picture in self.added:
            if picture.shape != shape:
                raise ParameterError(
                    f"the image {picture.name} has shape {picture.shape}; {self.dataset} needs {shape}."
                )
        return np.stack([one.array for one in self.added]) if self.added else np.empty((0, *shape), np.uint8)

    @staticmethod
    def first_added(full: ImageData) -> int:
        """Return the id of the first added image."""
        return int(full.ids[-1]) + 1


def top_sources(result: MosaicResult, y: int, x: int, step: int = -1, most: int = 3) -> list[tuple[int, float]]:
    """Return the training images that weigh most at a pixel, each with its weight, the heaviest first.

    Candidates of one image are summed; only the K that a result keeps are known, so the weights are lower bounds.
    """
    ids, weights = result.top_image[step, y, x], result.top_weight[step, y, x]
    total = {int(one): float(weights[ids == one].sum()) for one in np.unique(ids[ids >= 0])}
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:most]


def uses_added(result: MosaicResult, first_added: int, step: int = -1) -> np.ndarray:
    """Return [H, W] whether a pixel's heaviest candidate is of an added image."""
    return result.top_image[step, :, :, 0] >= first_added


@dataclass(frozen=True)
class NoiseEdit:
    """A repainted region of the starting noise.

    Attributes:
        mask: [H, W] as bytes, 1 where the noise is repainted.
        shape: (H, W).
        brush: "fresh" noise, "zero", or the same pixels of another "seed".
        seed: of the fresh noise, or the other seed.
    """

    mask: bytes
    shape: tuple[int, int]
    brush: str = "fresh"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.brush not in BRUSHES:
            raise ParameterError(f"brush is {self.brush!r}; choose one of {', '.join(BRUSHES)}.")
        require_int("seed", self.seed, 0, MAX_SEED)
        if len(self.mask) != self.shape[0] * self.shape[1]:
            raise ParameterError(f"the mask has {len(self.mask):,} values; {self.shape} takes {np.prod(self.shape):,}.")
        if not any(self.mask):
            raise ParameterError("no pixel of the noise is marked; paint over the region to change.")

    @classmethod
    def of(cls, mask: np.ndarray, brush: str = "fresh", seed: int = 1) -> "NoiseEdit":
        """Take a mask [H, W] of any type, true where the noise is repainted."""
        height, width = mask.shape
        return cls((mask != 0).astype(np.uint8).tobytes(), (height, width), brush, seed)

    def key(self) -> str:
        """Return a short content hash, the same for equal edits."""
        return hashlib.sha256(repr((self.shape, self.brush, self.seed)).encode() + self.mask).hexdigest()[:16]

    @property
    def region(self) -> np.ndarray:
        """[H, W] bool, where the noise is repainted."""
        return np.frombuffer(self.mask, np.uint8).reshape(self.shape) > 0

    def apply(self, noise: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
        """Return the noise [C, H, W] with the region repainted.

        Args:
            other: the starting noise of the other seed, for that brush.
        """
        if noise.shape[1:] != self.shape:
            raise ParameterError(f"the mask is of shape {self.shape}, the noise of {noise.shape[1:]}.")
        if self.brush == "seed":
            if other is None or other.shape != noise.shape:
                raise ParameterError(f"the other seed's noise is missing or not of shape {noise.shape}.")
            new = other
        elif self.brush == "zero":
            new = np.zeros_like(noise)
        else:
            new = np.random.default_rng([FRESH_STREAM, self.seed]).standard_normal(noise.shape)
        return np.where(self.region, new, noise).astype(np.float32)


def distance_to(region: np.ndarray) -> np.ndarray:
    """Return [H, W] each pixel's distance to a region, in pixels, diagonal steps counting 1, as square windows reach.

    Args:
        region: bool [H, W], true somewhere; its own pixels have distance 0.
    """
    y, x = np.nonzero(region)
    rows, columns = np.arange(region.shape[0]), np.arange(region.shape[1])
    apart = np.maximum(np.abs(rows[:, None, None] - y), np.abs(columns[None, :, None] - x))
    return apart.min(-1)


def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return [S, H, W], how far two runs are apart at each step: the mean over channels of |after − before|."""
    return np.abs(after.astype(np.float64) - before).mean(1)


def radius_holding(changes: np.ndarray, distance: np.ndarray, share: float = 0.9) -> np.ndarray:
    """Return [S] the smallest distance within which at least a share of each step's change lies.

    Args:
        changes: [S, H, W], not negative; a step without any change has radius 0.
        distance: [H, W] whole numbers, from `distance_to`.
    """
    by_distance = np.stack([changes[:, distance == d].sum(1) for d in range(int(distance.max()) + 1)], axis=1)
    held, wanted = by_distance.cumsum(1), share * by_distance.sum(1, keepdims=True)
    return (held >= wanted - 1e-12 * wanted).argmax(1)


def reach(patch_sizes: np.ndarray, largest: int) -> np.ndarray:
    """Return [S] how far from the region a machine's estimate can have changed: its windows' half widths summed.

    Args:
        patch_sizes: [S] windows, the noisiest first; largest: where the image ends.
    """
    return np.minimum(np.cumsum((np.asarray(patch_sizes) - 1) // 2), largest)
