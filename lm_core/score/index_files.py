"""Index files in the cache folder: named by what they are made from, checked before use, never half there.

A file is one line of JSON (padded to HEADER bytes) and the arrays of an `Index` behind it, memory-mapped when used.
The header carries the format's version, the images' hash and a checksum of each part. Whoever builds writes beside it
and renames; a lock, which the system drops with its holder's process, keeps a second builder waiting. All index files
together stay below LIMIT_BYTES: the least recently used go.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.artifacts import index_folder
from lm_core.errors import ResourceError
from lm_core.score import index
from lm_core.score.index import Index

VERSION = 1
HEADER = 4096
LIMIT_BYTES = 2_000_000_000
PIECE = 2**24  # bytes summed or written between two looks at whether to stop
ARRAYS = ("axes", "outer", "boxes", "norms", "packed", "names", "blank")
OnShare = Callable[[float], None]
logger = logging.getLogger(__name__)


def digest(images: np.ndarray) -> str:
    """Return the SHA-256 of uint8 images and their shape."""
    found = hashlib.sha256(repr((images.shape, images.dtype.str)).encode())
    found.update(np.ascontiguousarray(images).data)
    return found.hexdigest()


def path_of(content: str, machine: str, patch_size: int) -> Path:
    """Path of the index of images with this digest, whether it exists or not."""
    return index_folder() / f"{content[:24]}-{machine}-{patch_size}.index"


def find(content: str, machine: str, patch_size: int) -> Index | None:
    """Return the index of images with this digest, or None; a file that can't be used is logged and left alone.

    Cost: the first time in a process a checksum of the whole file, about 1 GB/s; then nothing.
    """
    path = path_of(content, machine, patch_size)
    try:
        stat = path.stat()
    except OSError:
        return None
    found = _open(path, content, stat.st_mtime_ns, stat.st_size)
    if found is not None:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))  # when it was last used
    return found


@functools.lru_cache(maxsize=4)
def _open(path: Path, content: str, *_stamp: int) -> Index | None:
    try:
        return _read(path, content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The index %s isn't used (%s): build it again with `python -m lm_core index`.", path.name, error)
        return None


def _read(path: Path, content: str) -> Index:
    """Map a file into memory.

    Raises: ValueError, KeyError, TypeError or OSError when it is stale, truncated or altered.
    """
    with open(path, "rb") as file:
        line, _, checksum = file.read(HEADER).rstrip(b" ").rpartition(b"\n")
        if hashlib.sha256(line).hexdigest().encode() != checksum:
            raise ValueError("its header is corrupt")
        facts = json.loads(line)
        if (facts["version"], facts["content"]) != (VERSION, content):
            raise ValueError("it is stale: of another version or other images")
        if os.fstat(file.fileno()).st_size != facts["bytes"]:
            raise ValueError("it is truncated")
        for part in facts["arrays"].values():
            file.seek(part["offset"])
            found, left = 0, part["bytes"]
            while left:
                piece = file.read(min(PIECE, left))
                found, left = zlib.crc32(piece, found), left - len(piece)
            if found != part["crc32"]:
                raise ValueError("its checksum doesn't match: it is corrupt")
    arrays = {name: _map(path, **part) for name, part in facts["arrays"].items()}
    return Index(
        facts["machine"], tuple(facts["image_shape"]), facts["patch_size"], facts["centre"], **arrays
    )  # fmt: skip


def _map(path: Path, offset: int, shape: list[int], dtype: str, **_: Any) -> np.ndarray:
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, tuple(shape)))


def make(
    images: np.ndarray, machine: str, patch_size: int, centre: float, *, threads: int = 1, on_share: OnShare
) -> tuple[Path, bool]:
    """Build and store the index of some images, unless there is a good one; returns its path and whether it was built.

    Args, errors: as `index.build`; another process that builds the same is waited for.

    Raises:
        ParameterError: it would be larger than LIMIT_BYTES.
        ResourceError: the disk is full or the folder can't be written; no partial file is left.
    """
    content = digest(images)
    path = path_of(content, machine, patch_size)
    with _lock(on_share):
        if find(content, machine, patch_size) is not None:
            return path, False
        built = index.build(
            images, machine, patch_size, centre,
            threads=threads, largest=LIMIT_BYTES, on_share=lambda share: on_share(0.9 * share),
        )  # fmt: skip
        _write(path, built, content, lambda share: on_share(0.9 + 0.1 * share))
    return path, True


def _write(path: Path, built: Index, content: str, on_share: OnShare) -> None:
    """Write an index whole or not at all, dropping others first where there is no room."""
    offset, parts = HEADER, {}
    for name in ARRAYS:
        array = getattr(built, name)
        parts[name] = {"offset": offset, "shape": array.shape, "dtype": array.dtype.str, "bytes": array.nbytes}
        offset += -(-array.nbytes // 64) * 64
    temporary, whole = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"), offset
    make_room(whole, path)
    try:
        with open(temporary, "xb") as file:
            for name, part in parts.items():
                data, found = memoryview(getattr(built, name)).cast("B"), 0
                file.seek(part["offset"])
                for first in range(0, len(data), PIECE):
                    file.write(data[first : first + PIECE])
                    found = zlib.crc32(data[first : first + PIECE], found)
                    file.flush()
                    os.fsync(file.fileno())  # piece by piece: all at once may take seconds
                    on_share((part["offset"] + first) / whole)
                part["crc32"] = found
            file.truncate(whole)
            facts = {"version": VERSION, "content": content, "bytes": whole, "machine": built.machine}
            facts |= {"image_shape": built.image_shape, "patch_size": built.patch_size, "centre": built.centre}
            line = json.dumps(facts | {"arrays": parts}).encode()
            file.seek(0)
            file.write((line + b"\n" + hashlib.sha256(line).hexdigest().encode()).ljust(HEADER))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ResourceError(
            f"Can't write the index {path.name} ({whole / 1e6:.0f} MB; {error.strerror}): free some space, then try "
            "again."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_room(wanted: int, keep: Path) -> None:
    """Drop what dead builders left, and the least recently used indexes until `wanted` more bytes fit; lock first."""
    for left in index_folder().glob("*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()
    files = []
    for path in index_folder().glob("*.index"):
        with contextlib.suppress(OSError):
            files.append((path.stat().st_atime_ns, path.stat().st_size, path))
    taken = sum(size for _, size, path in files if path != keep)
    for _, size, path in sorted(files):
        if taken + wanted > LIMIT_BYTES and path != keep:
            with contextlib.suppress(OSError):
                path.unlink()
                taken -= size


@contextlib.contextmanager
def _lock(on_share: OnShare) -> Iterator[None]:
    """Hold the folder's lock, waiting for another builder; the system drops it when its holder's process ends."""
    import fcntl

    try:
        index_folder().mkdir(parents=True, exist_ok=True)
        file = open(index_folder() / "lock", "ab")  # noqa: SIM115
    except OSError as error:
        raise ResourceError(f"Can't write to the cache folder ({error.strerror}): set LM_CACHE to another.") from None
    with file:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            on_share(0.0)
            time.sleep(0.1)
        yield
