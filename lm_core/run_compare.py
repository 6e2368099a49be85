"""What is known of a concept beyond its slider: methods and sites side by side, its direction's meaning. Torch-free.

`run_lab` hands these on: pages ask there.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_core import run_llm, user_concepts
from lm_core.concepts import Concept, concepts, facts, find_concept, unit_of
from lm_core.errors import ParameterError
from lm_core.judges import JUDGES
from lm_core.lab_params import CompareParams
from lm_core.lab_results import CompareResult, HeldOut, MeaningResult
from lm_core.progress import Check, Progress, go_on, quiet
from lm_core.run_llm import DEFAULT_BLOCKS, _model
from lm_core.steer_params import DEFAULT_MODEL
from lm_core.user_concepts import is_mine

if TYPE_CHECKING:
    from lm_core.llm.directions import Directions
    from lm_core.llm.model import LanguageModel
    from lm_core.llm.slider import Gauge

Tell = Callable[[float], None]
Phase = Callable[[float, float, str], Tell]

ENDS = 5  # examples to show at each end
TOKENS_SHOWN = 12
NEAREST = 6
OWN_WITNESS = (
    "The concept's own directions, all methods' at once, read the finished texts as they read the examples: no "
    "independent judge."
)


def phases(on_progress: Progress, check: Check) -> Phase:
    """Return what makes a reporter for a part of the work: it checks, and maps its share into the whole."""

    def phase(low: float, high: float, message: str) -> Tell:
        def tell(share: float) -> None:
            check()
            on_progress(low + (high - low) * min(share, 1.0), message, None)

        tell(0.0)
        return tell

    return phase


def middle(n_layers: int) -> tuple[int, int]:
    """Return the blocks that `run_llm` steers where nothing else is known, first and last."""
    return round(DEFAULT_BLOCKS[0] * n_layers), round(DEFAULT_BLOCKS[1] * n_layers) - 1


# -- methods and sites ------------------------------------------------------------------------------------------------


def compare(
    params: CompareParams, *, device: str = "auto", on_progress: Progress = quiet, check: Check = go_on
) -> CompareResult:
    """Put methods and sites side by side for a concept: held-out figures, directions, effect against fluency.

    A user's concept keeps the directions and sweeps, so that its slider has a band for each of them.

    Raises:
        ParameterError: no such concept, or one that is a rating.

    Cost: with all methods and sites, 6 prompts and 64 examples some two CPU minutes.
    """
    from lm_core.llm.heldout import fit_sites, held_out, merged
    from lm_core.llm.lens import agop_spectrum, mean_cosines
    from lm_core.llm.slider import fit_gauge

    began, phase, concept = time.monotonic(), phases(on_progress, check), find_concept(params.concept)
    if concept.is_rating:
        raise ParameterError(f"{concept.name} is a rating, read off the model's digits; compare another concept.")
    phase(0.0, 0.02, "loading the model")
    lm, methods = _model(params.model, device), usable(params.methods, concept)
    sites = tuple(dict.fromkeys(("response", *params.sites)))  # what is written is read at the response
    fits = fit_sites(lm, concept, sites, methods, phase(0.02, 0.2, "reading the examples and fitting"))
    tested: dict[str, HeldOut | None] = {}
    keys = [(method, site) for site in params.sites for method in methods]
    for i, (method, site) in enumerate(keys):
        tell = phase(0.2 + 0.12 * i / len(keys), 0.2 + 0.12 * (i + 1) / len(keys), "fitting without what is held out")
        tested[f"{method}.{site}"] = held_out(method, fits[site], tell)
    spectra = {site: [[], *agop_spectrum(fits[site])] for site in params.sites if "rfm" in methods}
    gauge = None if concept.judge else fit_gauge(concept, fits["response"], methods)
    directions, blocks = merged(lm, concept.id, {site: fits[site] for site in params.sites}), middle(lm.n_layers)
    written = _written(lm, concept, params, directions, gauge, blocks, phase(0.32, 1.0, "writing at five strengths"))
    if is_mine(concept.id):
        _keep(concept.id, directions, tested, written, blocks)
    vectors = [directions.get(*key) for key in keys]
    return CompareResult(
        concept=concept.id,
        keys=[".".join(key) for key in keys],
        held_out=tested,
        cosines=[[round(value, 4) for value in row] for row in mean_cosines(vectors, vectors, blocks).tolist()],
        spectra=spectra,
        unit=unit_of(concept),
        effect_of=OWN_WITNESS if gauge else JUDGES[concept.judge["metric"]].about,
        blocks=blocks,
        prompts=params.prompts,
        seconds=round(time.monotonic() - began, 1),
        **_curves(written, keys),
    )


def usable(methods: Sequence[str], concept: Concept) -> list[str]:
    """Return the methods that fit a concept: principal components of differences need two classes."""
    kept = [method for method in methods if not (method == "pca" and concept.label == "real")]
    if not kept:
        raise ParameterError("The first principal component needs two classes; choose another method for numbers.")
    return kept


def _written(
    lm: "LanguageModel",
    concept: Concept,
    params: CompareParams,
    directions: "Directions",
    gauge: "Gauge | None",
    blocks: tuple[int, int],
    tell: Tell,
) -> dict[Any, Any]:
    from lm_core.llm.calibrate import Shifts
    from lm_core.llm.slider import sweep

    prompts = concept.evaluation_prompts[: params.prompts]
    return sweep(lm, concept, gauge, Shifts(lm, directions, blocks), list(directions.vectors), prompts, tell)


def _curves(written: dict[Any, Any], keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
    from lm_core.llm.slider import STRENGTHS, curve_point

    def curve(key: tuple[str, str] | None) -> list[Any]:
        return [curve_point(written[key, strength], strength) for strength in STRENGTHS]

    single = {name: curve_point(written[name], 0.0) for name in ("unsteered", "prompted")}
    return single | {"random": curve(None), "curves": {".".join(key): curve(key) for key in keys}}


def _keep(
    concept_id: str,
    directions: "Directions",
    tested: dict[str, HeldOut | None],
    written: dict[Any, Any],
    blocks: tuple[int, int],
) -> None:
    """Write a user's concept anew with the directions, figures and bands of all that was compared."""
    from dataclasses import replace

    from lm_core.llm.directions import read_directions
    from lm_core.llm.slider import calibration

    if concept_id not in user_concepts.my_concepts():
        return  # deleted meanwhile
    known, before = user_concepts.stored(concept_id), read_directions(user_concepts.path_of(concept_id))
    if known.model_sha256 != directions.model_sha256 or tuple(known.measured["blocks"]) != blocks:
        return  # compared in another model than it was made in
    merged = replace(before, vectors=before.vectors | directions.vectors)
    merged = replace(merged, correlations=before.correlations | directions.correlations)
    swept = known.measured["calibration"] | calibration(written, [*directions.vectors])
    figures = {key: one.as_dict() for key, one in tested.items() if one is not None}
    measured = known.measured | {"calibration": swept, "held_out": known.measured.get("held_out", {}) | figures}
    user_concepts.save(known.concept.source, measured, merged.pack(), replace=concept_id)


# -- meaning ----------------------------------------------------------------------------------------------------------


def meaning(
    concept_id: str,
    *,
    method: str = "rfm",
    site: str = "response",
    block: int | None = None,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
) -> MeaningResult:
    """Say what a direction seems to mean: tokens up and down, nearest shipped concepts, examples at both ends.

    Args:
        block: whose direction the lens reads; None for the last.

    Raises:
        ParameterError: no such concept or block.
    """
    from lm_core.llm.lens import CAVEAT, logit_lens, top_tokens

    lm = _model(model, device)
    found = run_llm.directions(concept_id, lm, method, site)
    known = facts(concept_id, model, method, site)
    blocks = known.blocks if known else middle(lm.n_layers)
    block = lm.n_layers - 1 if block is None else block
    if not 1 <= block < lm.n_layers:
        raise ParameterError(f"block is {block}; choose 1 to {lm.n_layers - 1}, for the first has no direction.")
    pointing = logit_lens(lm, found.get(method, site)[block])
    highest, lowest = _ends(concept_id, f"{method}.{site}")
    return MeaningResult(
        concept=concept_id,
        block=block,
        up=top_tokens(lm, pointing, TOKENS_SHOWN),
        down=[(piece, -value) for piece, value in top_tokens(lm, -pointing, TOKENS_SHOWN)],
        nearest=_nearest(concept_id, lm, found.get(method, site), (method, site), blocks),
        highest=highest,
        lowest=lowest,
        caveat=CAVEAT,
    )


def _nearest(
    concept_id: str, lm: "LanguageModel", vectors: Any, key: tuple[str, str], blocks: tuple[int, int]
) -> list[tuple[str, str, float]]:
    """Return the shipped concepts whose directions by the same method and site are most alike."""
    from lm_core.llm.directions import read_directions
    from lm_core.llm.lens import mean_cosines

    if lm.name != DEFAULT_MODEL:
        return []
    paths = {name: run_llm.directions_path(name) for name in concepts() if name != concept_id}
    others = {name: read_directions(path) for name, path in paths.items() if path.is_file()}
    others = {name: one for name, one in others.items() if key in one.vectors}
    if not others:
        return []
    cosines = mean_cosines([vectors], [one.get(*key) for one in others.values()], blocks)[0].tolist()
    ranked = sorted(zip(others, cosines, strict=True), key=lambda pair: -pair[1])
    return [(name, concepts()[name].name, round(cosine, 4)) for name, cosine in ranked[:NEAREST]]


def _ends(concept_id: str, key: str) -> tuple[list[tuple[str, float, float]], list[tuple[str, float, float]]]:
    """Return a user's examples with the highest and the lowest held-out scores: text, score, target."""
    if not is_mine(concept_id):
        return [], []
    known = user_concepts.stored(concept_id)
    scores = known.measured.get("held_out", {}).get(key, {}).get("scores", [])
    rows = [(row.text, score, row.target) for row, score in zip(known.concept.rows, scores, strict=False)]
    ranked = sorted((row for row in rows if row[1] is not None), key=lambda row: row[1])
    return ranked[::-1][:ENDS], ranked[:ENDS]
