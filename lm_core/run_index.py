"""Index files for the fast engine: build those of a data set, see what they take, drop them. Torch loads late."""

from collections.abc import Sequence
from typing import Any

from lm_core.artifacts import index_folder, load_dataset
from lm_core.progress import Check, Progress, go_on, quiet

SIZES = (3, 5)  # patch sizes that gain


def make(
    dataset: str,
    *,
    machine: str = "bbels",
    sizes: Sequence[int] = SIZES,
    images: int | None = None,
    label: int | None = None,
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> dict[str, Any]:
    """Build the index files of some training images; good ones that are there already stay.

    Args:
        images, label: the first so many, of one class: those that the engine draws on; all if None.
        check: called several times a second; may raise to cancel, and nothing half-built is left.

    Raises:
        ParameterError: no such data, class or machine, or the files would be larger than all may be together.
        ResourceError: the disk is full or the cache folder can't be written.
    """
    from lm_core.score.fast import FastEngine

    data, made = load_dataset(dataset).take(images, label), {}
    engine = FastEngine(data.images, machine)
    for place, size in enumerate(sizes):

        def tell(share: float, place: int = place, size: int = size) -> None:
            check()
            on_progress((place + share) / len(sizes), f"patch size {size}", None)

        path, built = engine.make_index(data.images, size, tell)
        made[size] = {"file": path.name, "bytes": path.stat().st_size, "built": built}
    return {"dataset": dataset, "images": len(data.images), "label": label, "machine": machine, "indexes": made}


def stored_bytes() -> int:
    """Return how much the index files take on disk."""
    return sum(path.stat().st_size for path in index_folder().glob("*.index"))


def drop() -> None:
    """Delete every index file; the fast engine works without, slower."""
    for path in index_folder().glob("*.index"):
        path.unlink(missing_ok=True)
