"""Read CIFAR-10 (Krizhevsky 2009) from the user's own copy, whichever form it has; ships and downloads nothing.

Three forms, looked for in this order: the python archive, its extracted folder, a zip of JPEG files
(`train/<class>/NNNN.jpg`, `test/…`). The python forms are pickles; they are read by an unpickler that can make nothing
but dictionaries, lists, numbers, strings and arrays of bytes, so a hostile file is refused, not run. Torch-free.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lm_core.errors import AssetError
from lm_core.formats import MAX_IMAGES, interleave, read_picture, stack_pictures

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE, FOLDER, JPEG_ZIP = "cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar10-jpeg.zip"
JPEG_NOTE = "JPEG copy, about 30 dB from the originals"
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
BATCH_MD5 = {  # the extracted files' only published checksums (torchvision's CIFAR10 class)
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


@dataclass(frozen=True)
class Copy:
    """A copy of CIFAR-10 that was found; its path's name tells its form."""

    path: Path

    @property
    def stamp(self) -> tuple:
        """Something that changes when the file or folder does: a key for caches."""
        stat = self.path.stat()
        return (str(self.path), stat.st_size, stat.st_mtime_ns)


def find(places: Iterable[Path]) -> Copy:
    """Find a copy at or inside one of `places`; the originals anywhere go before JPEG copies.

    Raises: AssetError saying how to get one.
    """
    places = list(places)
    for name in (ARCHIVE, FOLDER, JPEG_ZIP):
        for place in places:
            path = place if place.name == name else place / name
            if path.is_dir() if name == FOLDER else path.is_file():
                return Copy(path.resolve())
    raise AssetError(
        f"CIFAR-10 isn't on this machine: download {ARCHIVE} from https://www.cs.toronto.edu/~kriz/cifar.html "
        "and set LM_DATA to the folder it is in."
    )


def read(copy: Copy, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Read one split as images uint8 `[N, 3, 32, 32]` and labels int64 `[N]`, with a note about its quality.

    Raises: AssetError for a file that is corrupt, truncated, altered or hostile.
    Cost: about 15 s for the zip's training set (50,000 JPEG files) on one core, less for the python forms.
    """
    if copy.path.name == JPEG_ZIP:
        return *_read_zip(copy.path, split), JPEG_NOTE
    read_files = _archive_files if copy.path.name == ARCHIVE else _folder_files
    batches = [parse_batch(content, name) for name, content in read_files(copy.path, BATCHES[split]).items()]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches]), ""


def verify(copy: Copy) -> str:
    """Check a copy without parsing it; return the note about its quality.

    Raises: AssetError when a python form isn't the published one, or the zip can't be opened.
    """
    if copy.path.name == ARCHIVE:
        _verify_archive(copy.path)
    elif copy.path.name == FOLDER:
        _folder_files(copy.path, tuple(BATCH_MD5))
    else:
        for split in BATCHES:
            with _open_zip(copy.path) as archive:
                _zip_order(archive, split)
        return JPEG_NOTE
    return ""


def _verify_archive(path: Path) -> None:
    with path.open("rb") as handle:
        if hashlib.file_digest(handle, "sha256").hexdigest() != ARCHIVE_SHA256:
            raise AssetError(f"{path} isn't the published CIFAR-10 archive (its SHA-256 differs): download it again.")


def _archive_files(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    _verify_archive(path)
    with tarfile.open(path) as archive:
        members = {Path(m.name).name: m for m in archive if m.isfile()}
        return {name: archive.extractfile(members[name]).read() for name in names}  # type: ignore[union-attr]


def _folder_files(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    contents = {}
    for name in names:
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise AssetError(f"Can't read {name} of CIFAR-10 in {path}: {error.strerror}.") from None
        if hashlib.md5(contents[name], usedforsecurity=False).hexdigest() != BATCH_MD5[name]:
            raise AssetError(f"{path / name} isn't CIFAR-10's published file (its MD5 differs): extract it again.")
    return contents


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise AssetError(f"{path} is corrupt or truncated ({error}): get it again.") from None


def _zip_order(archive: zipfile.ZipFile, split: str) -> list[str]:
    names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".jpg"))
    order = interleave([n for n in names if n.split("/")[1] == c] for c in CLASS_NAMES)
    if not 1 <= len(order) <= MAX_IMAGES:
        raise AssetError(
            f"{archive.filename} holds {len(order):,} images {split}/<class>/*.jpg; it should hold 1 to {MAX_IMAGES:,}."
        )
    return order


def _read_zip(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    with _open_zip(path) as archive:
        order = _zip_order(archive, split)
        pictures = (read_picture(io.BytesIO(archive.read(n)), 32, f"{n} in {path.name}") for n in order)
        images = stack_pictures(pictures, len(order), 32)
    return images, np.array([CLASS_NAMES.index(n.split("/")[1]) for n in order], np.int64)


def parse_batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Parse one of the published pickles: images uint8 `[n, 3, 32, 32]` and labels int64 `[n]`.

    Raises: AssetError when it holds anything but what these batches hold; nothing in it is ever executed.
    """
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = batch[b"data"].pixels().reshape(-1, 3, 32, 32)
        labels = np.array(batch[b"labels"], np.int64)
        if labels.shape != images.shape[:1] or not ((labels >= 0) & (labels < len(CLASS_NAMES))).all():
            raise ValueError(f"{len(images)} images have {labels.size} labels, or labels outside 0 to 9")
    except Exception as error:  # a malformed pickle may raise almost anything
        raise AssetError(f"{name} of CIFAR-10 is corrupt or isn't one of its batches ({error}).") from None
    return images, labels


class _Array:
    """Stand-in for a pickled ndarray: keeps the state's shape and bytes, runs nothing of NumPy's."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        if dtype.code not in (b"u1", "u1") or fortran:
            raise ValueError(f"its array is of type {dtype.code!r}, not rows of bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _Dtype:
    """Stand-in for a pickled dtype: keeps its code."""

    def __init__(self, code: bytes | str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Byte order and the like: one byte has none."""


class _BatchUnpickler(pickle.Unpickler):
    """Knows the five names that a batch written by Python 2 or 3 refers to, each as a stand-in, and no other."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ALLOWED[module, name]
