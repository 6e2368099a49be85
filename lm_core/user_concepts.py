"""The folder of a user's own concepts. Torch-free.

One safetensors file a concept, concepts/ID.safetensors in `LM_USER`: the directions as `read_directions` reads them,
and in the header's metadata under "lab" the concept's source and what was measured. So it is written whole or not at
all, found again after a restart, and given to others as it is. Ids begin with "my-".
"""

import hashlib
import json
import os
import re
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from lm_core.artifacts import atomic_write, cache_dir
from lm_core.errors import AssetError, LabError, ParameterError
from lm_core.example_rows import write_csv
from lm_core.lab_results import HeldOut
from lm_core.steer_params import METHODS, SITES
from lm_core.user_source import LONGEST_NAME, MINE, UserConcept, clean_name, parse_user_concept

SCHEMA = 1
MOST_FILE_BYTES = 20_000_000
WIDTHS = {"F16": np.float16, "F32": np.float32, "I8": np.int8}
_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class Stored:
    """A concept in the user's folder.

    Attributes:
        measured: as `concepts.measured` gives it: calibration, blocks, held_out.
        model, model_sha256: in which its directions were found; keys: "method.site" of each.
    """

    concept: UserConcept
    measured: dict[str, Any]
    model: str
    model_sha256: str
    keys: tuple[str, ...]


def user_dir() -> Path:
    """Return the folder of the user's concepts: in `LM_USER`, else where the system keeps a user's data."""
    root = os.environ.get("LM_USER") or platformdirs.user_data_dir("learning-mechanics-lab", appauthor=False)
    return Path(root) / "concepts"


def is_mine(concept_id: str) -> bool:
    """Tell whether an id is of a user's own concept."""
    return concept_id.startswith(MINE)


def path_of(concept_id: str) -> Path:
    """Return the file of a user's concept, which has the form that `read_directions` reads.

    Raises:
        ParameterError: there is none.
    """
    path = user_dir() / f"{concept_id}.safetensors"
    if not re.fullmatch(rf"{MINE}[a-z0-9-]+", concept_id) or not path.is_file():
        raise ParameterError(f"There is no concept {concept_id[:60]!r} of your own; choose another, or make it anew.")
    return path


def stored(concept_id: str) -> Stored:
    """Return a user's concept.

    Raises:
        ParameterError: there is none; AssetError: its file is damaged.
    """
    path = path_of(concept_id)
    stat = path.stat()
    return _stored(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _stored(path: Path, *_stamp: int) -> Stored:
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = handle.read(min(size, MOST_FILE_BYTES))
    return _parse(size.to_bytes(8, "little") + header, path.name)


def my_concepts() -> dict[str, UserConcept]:
    """Return the user's concepts by id, in alphabetical order; damaged files are left out (`unreadable`)."""
    return dict(sorted(((one.concept.id, one.concept) for one in _scan()[0]), key=lambda pair: pair[1].name.casefold()))


def unreadable() -> dict[str, str]:
    """Return what is wrong with files in the user's folder that can't be read, by file name."""
    return _scan()[1]


def _scan() -> tuple[list[Stored], dict[str, str]]:
    good, bad = [], {}
    for path in sorted(user_dir().glob(f"{MINE}*.safetensors")):
        try:
            good.append(stored(path.stem))
        except (LabError, OSError) as error:
            bad[path.name] = str(error)
    return good, bad


def save(source: dict[str, Any], measured: dict[str, Any], packed: bytes, *, replace: str = "") -> Stored:
    """Write a concept to the user's folder under a new id, or in the place of another.

    Args:
        packed: a file of its directions, as `Directions.pack` makes it.
        replace: the id whose file is written anew.
    """
    with _lock:
        concept_id = replace or free_id(source["name"])
        others = {one.name.casefold() for one in my_concepts().values() if one.id != replace}
        name, count = clean_name(source["name"]), 1
        while name.casefold() in others:
            count += 1
            name = f"{clean_name(source['name'])[: LONGEST_NAME - 6]} ({count})"
        source = source | {"id": concept_id, "name": name}
        source = parse_user_concept(source).source
        about = {"schema": SCHEMA, "source": source, "measured": measured | {"concept": concept_id}}
        _write(concept_id, _with_about(packed, about))
        return stored(concept_id)


def rename(concept_id: str, name: str) -> Stored:
    """Give a concept another name; its id stays, for links hold it."""
    with _lock:
        found = stored(concept_id)
        return save(found.concept.source | {"name": name}, found.measured, export(concept_id), replace=concept_id)


def delete(concept_id: str) -> None:
    """Remove a concept and what was computed from it."""
    with _lock:
        path_of(concept_id).unlink()
        _forget(concept_id)


def export(concept_id: str) -> bytes:
    """Return a concept's file: directions, examples and figures in one."""
    return path_of(concept_id).read_bytes()


def export_rows(concept_id: str) -> bytes:
    """Return a concept's examples as CSV, whose cells no spreadsheet runs."""
    concept = stored(concept_id).concept
    return write_csv(concept.rows, concept.kind)


def take(content: bytes, model: str, model_sha256: str) -> Stored:
    """Add a concept from another's file, under an id of its own.

    Args:
        model, model_sha256: the model here; the file must be of the same one.

    Raises:
        AssetError: it is no such file, damaged, of another version of this lab, or of another model.
    """
    if len(content) > MOST_FILE_BYTES:
        raise AssetError(f"The file has {len(content) / 1e6:.0f} MB; a concept has at most {MOST_FILE_BYTES // 10**6}.")
    found = _parse(content, "The file")
    if found.model_sha256 != model_sha256:
        raise AssetError(
            f"The concept {found.concept.name} was made in {found.model[:60]} ({found.model_sha256[:12]}…), not in "
            f"{model} ({model_sha256[:12]}…); make it anew here from its examples."
        )
    _check_tensors(content)
    return save(found.concept.source, found.measured, content)


def free_id(name: str) -> str:
    """Return an id for a name, of plain letters and digits, that no concept in the folder has."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    slug = MINE + (slug or hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8])
    taken, count = {path.stem for path in user_dir().glob(f"{MINE}*")}, 1
    wanted = slug
    while wanted in taken:
        count += 1
        wanted = f"{slug}-{count}"
    return wanted


def _write(concept_id: str, content: bytes) -> None:
    atomic_write(user_dir() / f"{concept_id}.safetensors", content)
    _forget(concept_id)


def _forget(concept_id: str) -> None:
    """Remove directions that `run_llm` has fitted to the concept's former examples."""
    for path in (cache_dir() / "directions").glob(f"*/{concept_id}.*.safetensors"):
        path.unlink(missing_ok=True)


def _split(content: bytes, name: str) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header and where its data begin.

    Raises:
        AssetError: it has none.
    """
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size]) if 2 <= size <= len(content) - 8 else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise AssetError(f"{name} is damaged or no concept of this lab; export it anew where it was made.")
    return header, 8 + size


def _parse(content: bytes, name: str) -> Stored:
    header, _ = _split(content, name)
    facts = header.get("__metadata__", {})
    try:
        about = json.loads(facts["lab"], parse_constant=_no_constant)
        schema = about["schema"]
        if schema == SCHEMA:
            concept, measured = parse_user_concept(about["source"]), about["measured"]
            _check_measured(measured)
            keys = tuple(key for key in header if key.count(".") == 1)
            return Stored(concept, measured, str(facts["model"]), str(facts["model_sha256"]), keys)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        said = isinstance(error, LabError) or type(error) is ValueError  # ours, not the interpreter's
        cause = str(error) if said else "its header lacks what this lab writes"
        raise AssetError(f"{name} is no concept of this lab ({cause.rstrip('.')}); export it anew.") from None
    raise AssetError(
        f"{name} is of another version of this lab (schema {str(schema)[:10]}, here {SCHEMA}); update the older one."
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check_measured(measured: dict[str, Any]) -> None:
    """Raise KeyError, ValueError or TypeError unless `concepts.facts` and pages can read what was measured."""
    first, last = measured["blocks"]
    calibration = measured["calibration"]
    if not (type(first) is int and type(last) is int and 0 <= first <= last):
        raise ValueError("its blocks make no sense")
    for one in measured.get("held_out", {}).values():
        HeldOut.from_dict(one)
    random = {point["strength"]: float(point["judge"]) for point in calibration["random"]}
    for swept in (swept for key, swept in calibration.items() if "." in key):
        found = {float(point["strength"]): (float(point["judge"]), float(point["fluent"])) for point in swept["sweep"]}
        low, high = swept["band"] or (swept["best"], swept["best"])
        named = {low, high, swept["best"], swept["collapse"] or swept["best"]}
        if not (named <= found.keys() and swept["best"] in random and all(0 < strength <= 1 for strength in found)):
            raise ValueError("its strengths make no sense")


def _with_about(packed: bytes, about: dict[str, Any]) -> bytes:
    """Return a safetensors file with the concept's source and figures in its header; the tensors stay as they are."""
    header, start = _split(packed, "The directions")
    facts = {"concept": about["source"]["id"], "lab": json.dumps(about, ensure_ascii=False, allow_nan=False)}
    header["__metadata__"] = header["__metadata__"] | facts
    text = json.dumps(header, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + packed[start:]


def _check_tensors(content: bytes) -> None:
    """Raise AssetError unless a file's tensors are directions, correlations and norms of one model, all finite."""
    header, start = _split(content, "The file")
    shapes: dict[str, Sequence[int]] = {}
    try:
        for name, about in header.items():
            if name == "__metadata__":
                continue
            first, last = about["data_offsets"]
            array = np.frombuffer(content[start + first : start + last], WIDTHS[about["dtype"]])
            shapes[name] = array.reshape(about["shape"]).shape
            if not np.isfinite(array.astype(np.float32)).all():
                raise ValueError("a number is not finite")
        (layers,) = shapes.pop("norms")
        if not any(name.count(".") == 1 for name in shapes):
            raise ValueError("no directions")
        for name, shape in shapes.items():
            method, site, *rest = name.split(".")
            fits = len(shape) == (1 if rest else 2) and shape[0] == layers
            if not fits or method not in METHODS or site not in SITES or rest not in ([], ["correlation"]):
                raise ValueError(f"{name[:40]} doesn't fit")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise AssetError(f"The file's directions are damaged ({error}); export it anew where it was made.") from None
