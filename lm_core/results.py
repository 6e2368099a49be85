"""What a computation returns: frozen NumPy dataclasses, torch-free, that save and load losslessly or compactly."""

import io
import json
import lzma
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lm_core.artifacts import atomic_write
from lm_core.errors import AssetError
from lm_core.params import MosaicParams

TOP_K = 8
# What a compact file does with an array; integers take the smallest type that holds them, all else stays as it is.
HALVED = ("denoised", "network_denoised", "ideal_image", "top_weight")
LEFT_OUT = ("trajectory", "image", "network_trajectory", "network_image")
DAMAGED = (lzma.LZMAError, zlib.error)  # what a decompressor raises


@dataclass(frozen=True)
class MosaicResult:
    """A machine's image with the training patches it is made of, and a network's from the same noise.

    Axis S counts the steps in the order taken: 0 is the noisiest (t = 1), S−1 the last (t = 1/S). Images are float32
    in about [−1, 1], shape [C, H, W]. Image ids index the training set's own order; −1 marks an unused place.

    Attributes:
        trajectory, network_trajectory: [S+1, C, H, W] noisy states, from the noise to the image.
        denoised, network_denoised: [S, C, H, W] estimates of the clean image at each step.
        alpha_bar: [S+1] signal share of each state; patch_sizes: [S] window of each step.
        top_image, top_y, top_x, top_weight: [S, H, W, K] the K heaviest candidates of each pixel, heaviest first
            (with the fast engine: of those it looked at, all wherever error_deviation is 0).
        effective_samples: [S, H, W] 1/Σw², in candidates.
        error_bound, error_deviation: [S, H, W] of the fast engine: how far off `denoised` can be at most given its
            input (certified), and its standard error where not all images were looked at (an estimate).
        scores: for "machine" and "ideal" against the network: r, r2, R2.
        nearest: for "machine" and "network": id of the nearest training image and its root mean square distance.
        source_ids, source_images: [M] and uint8 [M, C, H, W], every training image that top_image or nearest names.
        images_used: how many training images the machine has drawn on: fewer than asked for in a first image that
            is still being refined; 0 in results of an earlier version.
        seconds: wall time of the machine's run.
    """

    params: MosaicParams
    noise: np.ndarray
    trajectory: np.ndarray
    denoised: np.ndarray
    alpha_bar: np.ndarray
    patch_sizes: np.ndarray
    image: np.ndarray
    top_image: np.ndarray
    top_y: np.ndarray
    top_x: np.ndarray
    top_weight: np.ndarray
    effective_samples: np.ndarray
    source_ids: np.ndarray
    source_images: np.ndarray
    network_trajectory: np.ndarray | None = None
    network_denoised: np.ndarray | None = None
    network_image: np.ndarray | None = None
    ideal_image: np.ndarray | None = None
    error_bound: np.ndarray | None = None
    error_deviation: np.ndarray | None = None
    images_used: int = 0
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    nearest: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.denoised)

    @property
    def error(self) -> float:
        """One figure for the error of the posterior means: the worst step's mean over pixels of bound + 2 deviations.

        Zero for the exact engine. It is about each step given its input; how errors grow along the trajectory is in
        neither part.
        """
        if self.error_bound is None or self.error_deviation is None:
            return 0.0
        return float((self.error_bound + 2 * self.error_deviation).mean((1, 2)).max())

    @property
    def certified(self) -> bool:
        """Whether the error is a bound throughout; if not, part of it is an estimate."""
        return self.error_deviation is None or not self.error_deviation.any()

    def save(self, path: Path, *, compact: bool = False) -> None:
        """Write an npz with the arrays by name and everything else as JSON under "facts".

        Args:
            compact: about half the size, for files that are shipped. Estimates and weights are rounded to float16
                (images in [−1, 1] by 2.5e-4 at most, beyond by 5e-4), effective samples to 12 binary digits. The
                states are left out: `load` works them out from the noise and the estimates, off by no more than those.
        """
        arrays, facts = {}, {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            elif item.name == "params":
                facts["params"] = value.as_dict()
            elif value is not None:
                facts[item.name] = value
        if compact:
            small = {name: _smaller(name, array) for name, array in arrays.items() if name not in LEFT_OUT}
            facts["dtypes"] = {name: arrays[name].dtype.str for name in small}
            arrays = small
        arrays = {"facts": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8), **arrays}
        atomic_write(path, _npz(arrays, zipfile.ZIP_LZMA if compact else zipfile.ZIP_DEFLATED))

    @classmethod
    def load(cls, source: Path | BinaryIO) -> "MosaicResult":
        """Read what `save` wrote.

        Raises:
            AssetError: the file is missing or damaged.
        """
        name = source.name if isinstance(source, Path) else "given"
        try:
            with np.load(source, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(bytes(arrays.pop("facts")).decode())
            if "dtypes" in facts:
                arrays = _restored(arrays, facts.pop("dtypes"))
            return cls(params=MosaicParams.from_dict(facts.pop("params")), **arrays, **facts)
        except FileNotFoundError:
            raise AssetError(f"There is no result file {name}.") from None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError, *DAMAGED) as error:
            raise AssetError(f"The result file {name} is damaged; make it again ({error}).") from None


def _smaller(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array as a compact file has it."""
    if name in HALVED:
        return array.astype(np.float16)
    if name == "effective_samples":  # beyond float16's range; the digits that are cut off compress to nothing
        return ((array.astype(np.float32).view(np.uint32) + 0x800) & 0xFFFFF000).view(np.float32)
    if array.dtype.kind == "i" and array.size:
        return array.astype(np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
    return array


def _restored(arrays: dict[str, np.ndarray], dtypes: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the arrays of a compact file as a result has them, the states among them."""
    arrays = {name: array.astype(dtypes[name]) for name, array in arrays.items()}
    for who in ("", "network_"):
        if f"{who}denoised" in arrays:
            states = _states(arrays["noise"], arrays[f"{who}denoised"], arrays["alpha_bar"])
            arrays |= {f"{who}trajectory": states, f"{who}image": states[-1]}
    return arrays


def _states(noise: np.ndarray, denoised: np.ndarray, alpha_bar: np.ndarray) -> np.ndarray:
    """Return the states that DDIM passes through, [S+1, C, H, W], given the estimates it has followed.

    A state is the noise and a sum of estimates with positive weights that add up to less than √ᾱ: errors don't grow.
    """
    states = [noise.astype(np.float64)]
    for clean, alpha, alpha_next in zip(denoised.astype(np.float64), alpha_bar, alpha_bar[1:], strict=False):
        eps = (states[-1] - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        states.append(alpha_next**0.5 * clean + (1 - alpha_next) ** 0.5 * eps)
    return np.stack(states).astype(noise.dtype)


def _npz(arrays: dict[str, np.ndarray], method: int) -> bytes:
    """Return the bytes of an npz, the same whenever they are written, compressed by one of zipfile's methods."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), compress_type=method)
    return content.getvalue()


@dataclass(frozen=True)
class Agreement:
    """How alike two images are; each figure named, none stands for another.

    Attributes:
        r: Pearson correlation over all pixels and channels.
        r2: its square.
        R2: coefficient of determination of the second image by the first, 1 − Σ(b−a)²/Σ(b−b̄)².
    """

    r: float
    r2: float
    R2: float


def agreement(prediction: np.ndarray, outcome: np.ndarray) -> Agreement:
    """Compare a predicted image with the outcome, both of any one shape; NaN where an image is constant."""
    a, b = prediction.astype(np.float64).ravel(), outcome.astype(np.float64).ravel()
    da, db = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((da @ da) * (db @ db)))
    if scale == 0:
        return Agreement(float("nan"), float("nan"), float("nan"))
    r = float(da @ db) / scale
    return Agreement(r, r * r, 1 - float(((b - a) ** 2).sum() / (db @ db)))
