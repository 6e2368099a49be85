"""Find, verify and cache what the lab computes on: data sets by name or folder, and the files shipped in `assets/`.

A network that others have published is found where the user has downloaded it.

A shipped file is verified by the SHA-256 of its unpacked content, once per process, when it is read. Nothing is
downloaded here (`assets/build.py` does that) and nothing is substituted: what is missing or corrupt is an AssetError
that says what to do. Torch-free.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import lzma
import os
import secrets
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from lm_core import cifar
from lm_core.errors import AssetError, ParameterError, ResourceError
from lm_core.formats import read_folder, read_idx, resize_bilinear

DATASETS = ("mnist", "fashion-mnist", "emoji", "cifar10")
SPLITS = ("train", "test")
IMAGE_SIZE = 32
REMEDY = "run `make assets` to rebuild it"
PUBLISHED_NETWORKS = {"cifar10": {"ddpm-cifar10-32": "google/ddpm-cifar10-32"}}  # data set: name: repository
PUBLISHED_WEIGHTS = "diffusion_pytorch_model.safetensors"
_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled set of images, read-only: every caller in the process shares the arrays.

    Attributes:
        name: mnist, fashion-mnist, emoji, cifar10, or the folder's path.
        images: uint8 `[N, C, H, W]`; engines use u8 / 127.5 − 1.
        labels: int64 `[N]`, indices into `class_names`.
        ids: int64 `[N]`, each image's index in the full set's own order.
        class_names: empty when the set has no classes.
        sha256: of the content the images came from; for MNIST and Fashion-MNIST, of the canonical idx file.
        names: one caption an image (emoji short names, file names), or empty.
        note: a caveat to show beside any figure made from these images, or empty.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    sha256: str
    names: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for field in ("images", "labels", "ids"):
            array = getattr(self, field).view()
            array.flags.writeable = False
            object.__setattr__(self, field, array)

    def take(self, images: int | None = None, label: int | None = None) -> ImageData:
        """Keep class `label` only (None: all), then the first `images` of it in order (None: all of them).

        Raises: ParameterError with the allowed range when there is no such class or not that many images.
        """
        index = np.arange(len(self.images))
        if label is not None:
            if not self.class_names:
                raise ParameterError(f"label is {label}, but {self.name} has no classes; leave the label out.")
            if not 0 <= label < len(self.class_names):
                raise ParameterError(f"label is {label}; {self.name} has classes 0 to {len(self.class_names) - 1}.")
            index = np.flatnonzero(self.labels == label)
        if images is not None and not 1 <= images <= len(index):
            of_class = "" if label is None else f" of class {label} ({self.class_names[label]})"
            raise ParameterError(f"images is {images}; {self.name} has 1 to {len(index):,} images{of_class}.")
        if label is None:
            kept: Any = slice(images)
            names = self.names[:images]
        else:
            kept = index[:images]
            names = tuple(self.names[i] for i in kept) if self.names else ()
        return replace(self, images=self.images[kept], labels=self.labels[kept], ids=self.ids[kept], names=names)


def load_dataset(name: str, *, split: str = "train", size: int = IMAGE_SIZE) -> ImageData:
    """Load a data set by name, or a folder of images by path; the same object again on the next call.

    MNIST and Fashion-MNIST come resized from 28×28 to 32×32. A folder's pictures are centre-cropped and resized to
    `size`; its subfolders are the classes. CIFAR-10 comes from the user's own files (`LM_DATA`).

    Raises: ParameterError for an unknown name or split; AssetError for missing, corrupt or unreadable files.
    Cost: 0.4 s (emoji) to 2.6 s (Fashion-MNIST) the first time on one core, then nothing.
    """
    name = str(name)
    if split not in SPLITS:
        raise ParameterError(f"split is {split!r}; choose one of {', '.join(SPLITS)}.")
    if name in DATASETS:
        if size != IMAGE_SIZE:
            raise ParameterError(f"size is {size}; {name} comes at {IMAGE_SIZE}, only a folder can be resized.")
        key = cifar.find(search_paths()).stamp if name == "cifar10" else _packed_key(name, split)
    else:
        folder = _existing_folder(name)
        if split != "train":
            raise ParameterError(f"split is {split!r}; a folder of images is one training set.")
        if not 1 <= size <= 1024:
            raise ParameterError(f"size is {size}; choose 1 to 1024 pixels.")
        key = tuple((str(d), d.stat().st_mtime_ns) for d in (folder, *sorted(folder.rglob("*/"))))
    with _lock:
        return _load(name, split, size, key)


def _existing_folder(name: str) -> Path:
    try:
        if name and (folder := Path(name).expanduser()).is_dir():
            return folder
    except (OSError, RuntimeError):  # a name too long for a path, an unknown ~user
        pass
    allowed = ", ".join(DATASETS)
    raise ParameterError(f"dataset is {name[:80]!r}; choose one of {allowed}, or a folder of images that exists.")


@functools.lru_cache(maxsize=6)
def _load(name: str, split: str, size: int, key: tuple) -> ImageData:
    if name == "cifar10":
        return _load_cifar10(split)
    return _load_packed(name, split) if name in DATASETS else _load_folder(name, size)


def forget_datasets() -> None:
    """Drop the decoded sets from memory; the next call loads and verifies anew."""
    with _lock:
        _load.cache_clear()


def _packed_key(name: str, split: str) -> tuple:
    entry = manifest()["data"].get(name)
    if entry is None:
        raise AssetError(f"assets/manifest.json doesn't list {name}: {REMEDY}.")
    if split not in entry["splits"]:
        raise ParameterError(f"split is {split!r}; {name} has {' and '.join(entry['splits'])} only.")
    return (str(asset_path()), json.dumps(entry["splits"][split]))


def _load_packed(name: str, split: str) -> ImageData:
    entry = manifest()["data"][name]
    files = entry["splits"][split]
    images = read_idx(read_asset(files["images"]))
    labels = read_idx(read_asset(files["labels"])).astype(np.int64)
    names = tuple(json.loads(read_asset(files["names"]))) if "names" in files else ()
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.shape[-1] != IMAGE_SIZE:
        images = resize_bilinear(images, IMAGE_SIZE)
    return _image_data(name, images, labels, tuple(entry["class_names"]), files["images"]["sha256"], names)


def _load_folder(name: str, size: int) -> ImageData:
    images, labels, class_names, names = read_folder(Path(name).expanduser(), size)
    return _image_data(name, images, labels, class_names, _sha256_of(images, labels), names)


def _load_cifar10(split: str) -> ImageData:
    images, labels, note = cifar.read(cifar.find(search_paths()), split)
    return _image_data("cifar10", images, labels, cifar.CLASS_NAMES, _sha256_of(images, labels), note=note)


def _image_data(name, images, labels, class_names, sha256, names=(), note="") -> ImageData:
    return ImageData(name, images, labels, np.arange(len(images)), class_names, sha256, names, note)


def _sha256_of(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_asset(entry: dict[str, Any], remedy: str = REMEDY) -> bytes:
    """Read one file of the manifest, decompress it when its name ends in `.xz`, and verify its SHA-256.

    Args:
        entry: `{"file": path below assets/, "sha256": of the content as returned}`.
        remedy: what the message of an error tells the user to do.
    Raises: AssetError when it is missing, truncated or altered, with the remedy.
    """
    path = asset_path(entry["file"])
    try:
        content = path.read_bytes()
        content = lzma.decompress(content) if path.suffix == ".xz" else content
    except FileNotFoundError:
        raise AssetError(f"{path.name} is missing from assets/: {remedy}.") from None
    except (lzma.LZMAError, EOFError, OSError) as error:
        raise AssetError(f"{path.name} in assets/ is corrupt or truncated ({error}): {remedy}.") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise AssetError(f"{path.name} in assets/ isn't the file its SHA-256 promises: {remedy}.")
    return content


def asset_path(*parts: str) -> Path:
    """Path of a file below `assets/`, whether it exists or not; a path that leaves it is an AssetError."""
    root = Path(__file__).resolve().parents[1] / "assets"
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root):
        raise AssetError(f"The asset path {'/'.join(parts)} leaves assets/.")
    return path


def manifest() -> dict[str, Any]:
    """What is shipped: `{"data": …, "networks": …, "presets": …}` of `assets/manifest.json`, not to be mutated."""
    path = asset_path("manifest.json")
    try:
        stat = path.stat()
    except OSError:
        raise AssetError(f"assets/manifest.json is missing: {REMEDY}.") from None
    return _manifest(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1)
def _manifest(path: Path, *_stamp: int) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        return {key: dict(content[key]) for key in ("data", "networks", "presets")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"assets/manifest.json is corrupt ({error!r}): {REMEDY}.") from None


def cache_dir() -> Path:
    """Folder for what can be computed again: `LM_CACHE`, else the user's cache folder. Made when missing."""
    path = Path(os.environ.get("LM_CACHE") or platformdirs.user_cache_dir("learning-mechanics-lab", appauthor=False))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"Can't make the cache folder {path} ({error.strerror}): set LM_CACHE to one.") from None
    return path


def index_folder() -> Path:
    """Return the folder of the fast engine's index files, whether it exists or not."""
    return cache_dir() / "indexes"


def model_cache(name: str) -> Path:
    """Folder for a language model's files, converted or fetched, whether they are there or not."""
    return cache_dir() / "models" / name.replace("/", "--").lower()


def search_paths() -> list[Path]:
    """Where the user's own data may lie: each file or folder in `LM_DATA`, then the cache folder."""
    named = [Path(part).expanduser() for part in os.environ.get("LM_DATA", "").split(os.pathsep) if part]
    return [*named, cache_dir()]


def has_published_network(dataset: str, name: str) -> bool:
    """Whether a name is that of a published network for a data set, and the network is on this machine."""
    if name not in PUBLISHED_NETWORKS.get(dataset, {}):
        return False
    try:
        return find_published_network(dataset, name).is_dir()
    except AssetError:
        return False


def find_published_network(dataset: str, name: str) -> Path:
    """Find the diffusers folder of one of `PUBLISHED_NETWORKS`, in `search_paths` or in the Hugging Face cache.

    Raises: AssetError saying how to get it, or what to do when its weights are there as a pickle only.
    """
    repository, pickled = PUBLISHED_NETWORKS[dataset][name], None
    for folder in _network_folders(name, repository):
        if (folder / "config.json").is_file():
            if (folder / PUBLISHED_WEIGHTS).is_file():
                return folder
            pickled = pickled or folder
    if pickled is None:
        raise AssetError(
            f"{repository} isn't on this machine: run `hf download {repository}`, or put its config.json and "
            f"{PUBLISHED_WEIGHTS} into a folder {name} inside one that LM_DATA names."
        )
    command = f"from diffusers import UNet2DModel as U; U.from_pretrained({str(pickled)!r}).save_pretrained({name!r})"
    raise AssetError(
        f"{pickled} has no {PUBLISHED_WEIGHTS}, only a .bin file if any, which isn't read here: convert it once with "
        f'`python -c "{command}"` and set LM_DATA to the folder where you ran that.'
    )


def _network_folders(name: str, repository: str) -> list[Path]:
    """List the folders a published network may be in; of the Hugging Face cache, the main branch's snapshot first."""
    named = [path if path.name == name else path / name for path in search_paths()]
    fallback = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{fallback}/huggingface"
    hub = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    cached = hub / f"models--{repository.replace('/', '--')}"
    try:
        main = (cached / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        main = ""
    snapshots = sorted((cached / "snapshots").glob("*"), key=lambda path: (path.name != main, path.name))
    return [*named, *snapshots]


def write_json(path: str | Path, facts: Any) -> None:
    """Write facts as compact JSON, whole or not at all."""
    atomic_write(path, compact(facts).encode() + b"\n")


def compact(facts: Any) -> str:
    """Return JSON without a needless space: what is shipped is counted by the kilobyte."""
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it: a temporary file beside it, then a rename.

    Raises: ResourceError when the disk is full or the folder can't be written; no partial file is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full: free some space" if full else f"{error.strerror}: choose a folder you can write to"
        raise ResourceError(f"Can't write {path} ({len(content) / 1e6:.1f} MB), {cause}, then try again.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
