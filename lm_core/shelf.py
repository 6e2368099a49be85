"""Results that are there already: the shipped presets, and those computed earlier on this machine. Torch-free."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.artifacts import cache_dir, manifest, read_asset
from lm_core.errors import AssetError, ResourceError
from lm_core.params import MosaicParams
from lm_core.results import MosaicResult
from lm_core.run import RESTORE, provenance, resolve

KEPT_RESULTS = 200  # the latest ones
FORMAT = 1  # part of every kept file's name; raise it when a result's meaning changes


@dataclass(frozen=True)
class Preset:
    """A shipped result and where to look in it first.

    Attributes:
        title: a few words; lesson: one sentence on what to see.
        params: as a page asks for it, before anything is filled in.
        place: "view", "step" and "pin" (y, x) to open at.
    """

    name: str
    title: str
    lesson: str
    params: MosaicParams
    place: dict[str, Any]
    file: str
    sha256: str

    def load(self) -> MosaicResult:
        """Read the shipped result.

        Raises:
            AssetError: the file is missing or is not the one that was shipped.
        """
        return MosaicResult.load(io.BytesIO(read_asset({"file": self.file, "sha256": self.sha256}, RESTORE)))


def presets() -> list[Preset]:
    """Return the shipped presets in the order they are shown."""
    return [
        Preset(name=name, **(entry | {"params": MosaicParams.from_dict(entry["params"])}))
        for name, entry in manifest()["presets"].items()
    ]


def find(params: MosaicParams) -> MosaicResult | None:
    """Return the result of these parameters if it is shipped or was computed earlier; a damaged kept file is dropped.

    Raises:
        AssetError: it is shipped, but damaged.
    """
    for preset in presets():
        if preset.params == params:
            return preset.load()
    path = kept_path(resolve(params))
    if not path.exists():
        return None
    try:
        return MosaicResult.load(path)
    except AssetError:
        path.unlink(missing_ok=True)
        return None


def kept_path(params: MosaicParams) -> Path:
    """Return where the result of resolved parameters is kept; another network or data set has another place."""
    facts = "".join(sorted(provenance(params).values()))
    return cache_dir() / "mosaics" / f"{params.key()}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}-{FORMAT}.npz"


def keep(result: MosaicResult) -> str:
    """Keep a result on disk and drop the oldest beyond the limit.

    Returns:
        A sentence if it could not be kept (a full disk, say), else "".
    """
    path = kept_path(result.params)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        result.save(path)
        kept = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in kept[KEPT_RESULTS:]:
            old.unlink(missing_ok=True)
    except (ResourceError, OSError) as error:
        return f"The result is shown but could not be kept on disk: {error}"
    return ""
