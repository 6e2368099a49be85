"""What the language pages and the command line ask for: parameters in, results out. Torch loads on first use."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core import judges
from lm_core.artifacts import asset_path, cache_dir, model_cache
from lm_core.concepts import Concept, facts, find_concept, read_concept, unit_of
from lm_core.device import choose_device, on_release
from lm_core.errors import AssetError, ParameterError
from lm_core.progress import Check, Progress, go_on, quiet
from lm_core.steer_params import DEFAULT_MODEL, METHODS, SITES, SteerParams
from lm_core.steer_results import LinearResult, ModelChoice, SteerResult, SweepResult
from lm_core.user_concepts import is_mine, path_of
from lm_core.writing import Dial, Writing, open_writing, writing

if TYPE_CHECKING:
    from lm_core.llm.directions import Directions, Steering
    from lm_core.llm.model import LanguageModel

DEFAULT_BLOCKS = (0.2, 0.87)  # of the depth: blocks 6 to 25 of 30, where steering was found to work
CANDIDATES = 200  # of the next token, the most probable ones, over which the linear prediction is judged
SWEEP = 7  # strengths in a film strip
LARGEST_SWEPT = 0.085  # of calibration: to there a film strip of a concept that was not calibrated goes

MODELS = (  # id, name, parameters, MB to download, licence, blocks
    (DEFAULT_MODEL, "SmolLM2 135M Instruct", "135 M", 270, "Apache 2.0", 30),
    ("HuggingFaceTB/SmolLM2-360M-Instruct", "SmolLM2 360M Instruct", "360 M", 725, "Apache 2.0", 32),
    ("Qwen/Qwen3-0.6B", "Qwen3 0.6B", "600 M", 1500, "Apache 2.0", 28),
    ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "SmolLM2 1.7B Instruct", "1.7 B", 3420, "Apache 2.0", 24),
    ("google/gemma-3-1b-it", "Gemma 3 1B", "1 B", 2000, "Gemma terms; needs an account that accepted them", 26),
    ("meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B", "1.2 B", 2470, "Llama 3.2; needs an account", 16),
)


def models() -> list[ModelChoice]:
    """Return the models to choose from; sizes are of the download. Any other goes by its name or folder."""
    return [ModelChoice(*row, present=row[0] == DEFAULT_MODEL or _fetched(row[0])) for row in MODELS]


def _fetched(name: str) -> bool:
    return any(model_cache(name).glob("*.safetensors"))


def fetch_model(name: str) -> None:
    """Download a model of the list, because the user asked.

    Raises:
        ParameterError: it isn't on the list; ResourceError: it can't be reached.
    """
    from lm_core.llm.model import fetch

    if name not in {row[0] for row in MODELS[1:]}:
        raise ParameterError(f"model is {name!r}; only models of the list can be fetched here.")
    fetch(name)


def prepare() -> str:
    """Convert the default model if that wasn't done yet, and hash its weights; return its name."""
    from lm_core.llm.model import default_model_folder, fingerprint

    folder = default_model_folder()
    fingerprint(sorted(folder.glob("*.safetensors")))
    return folder.name


# -- directions -------------------------------------------------------------------------------------------------------


def _model(name: str, device: str) -> "LanguageModel":
    from lm_core.llm.model import open_model

    return open_model(name, choose_device(device))


def directions_path(concept: str) -> Path:
    """Return where a concept's directions are: shipped ones in the default model, the user's own in his folder."""
    if is_mine(concept):
        return path_of(concept)
    return asset_path("directions", f"{find_concept(concept).id}.safetensors")


@lru_cache(maxsize=64)
def _read(path: Path, stamp: int) -> "Directions":
    from lm_core.llm.directions import read_directions

    return read_directions(path)


on_release(_read.cache_clear)


def directions(concept: str, lm: "LanguageModel", method: str, site: str) -> "Directions":
    """Return a concept's directions: shipped, the user's own, or for another model, method or site those in the cache.

    What isn't in the cache yet is fitted first; that takes a minute on two cores.

    Raises:
        ParameterError: no such concept, method or site; AssetError: a shipped file is missing or of another model.
    """
    if lm.name == DEFAULT_MODEL or is_mine(concept):
        path = directions_path(concept)
        if not path.is_file():
            raise AssetError(f"The directions of {concept} are missing; restore assets/directions from the repository.")
        kept = _read(path, path.stat().st_mtime_ns)
        if not is_mine(concept):
            kept.check_model(lm)
        if (method, site) in kept.vectors and kept.model_sha256 == lm.sha256:
            return kept
    spec = find_concept(concept)
    path = cache_dir() / "directions" / lm.sha256[:16] / f"{spec.id}.{method}.{site}.safetensors"
    if not path.is_file():
        fit(spec, lm.name, [method], [site], path, device=str(lm.device))
    found = _read(path, path.stat().st_mtime_ns)
    found.check_model(lm)
    return found


def fit(
    concept: Concept,
    model: str,
    methods: Sequence[str],
    sites: Sequence[str],
    out: Path,
    *,
    device: str = "auto",
) -> dict[str, Any]:
    """Find a concept's directions in a model and write them; returns what was found, per method and site."""
    from lm_core.llm.directions import fit_directions

    for name, values, allowed in (("method", methods, METHODS), ("site", sites, SITES)):
        for value in values:
            if value not in allowed:
                raise ParameterError(f"{name} is {value!r}; choose one of {', '.join(allowed)}.")
    began = time.monotonic()
    which = [(method, site) for site in sites for method in methods]
    found = fit_directions(_model(model, device), concept, which)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.write(out)
    best = {
        ".".join(key): {"block": int(each[1:].argmax()) + 1, "validation_correlation": round(float(each[1:].max()), 4)}
        for key, each in found.correlations.items()
    }
    facts_ = {"concept": concept.id, "model": model, "model_sha256": found.model_sha256, "best_blocks": best}
    return facts_ | {"out": out.name, "seconds": round(time.monotonic() - began, 2)}


def load_concept(name: str) -> Concept:
    """Return a shipped concept by its id, or a user's own by its file."""
    return read_concept(Path(name)) if Path(name).suffix == ".json" else find_concept(name)


def blocks_of(params: SteerParams, concept: str, n_layers: int) -> tuple[int, int]:
    """Return the blocks that a concept steers: those asked for, else the calibrated ones, else the middle of the model.

    Raises:
        ParameterError: the model has no such block.
    """
    if params.blocks is not None:
        if params.blocks[1] >= n_layers:
            raise ParameterError(f"blocks are {params.blocks}; the model has blocks 0 to {n_layers - 1}.")
        return params.blocks
    known = facts(concept, params.model, params.method, params.site)
    return known.blocks if known else (round(DEFAULT_BLOCKS[0] * n_layers), round(DEFAULT_BLOCKS[1] * n_layers) - 1)


def steering(params: SteerParams, lm: "LanguageModel") -> "Steering":
    """Return what the parameters' concepts do to a model's residual stream.

    Raises:
        ParameterError, AssetError: an unknown concept, block, method or site, or directions of another model.
    """
    import torch

    from lm_core.llm.directions import Steering

    found = [directions(concept, lm, params.method, params.site) for concept in params.concepts]
    vectors = [one.get(params.method, params.site) for one in found]
    blocks = [blocks_of(params, concept, lm.n_layers) for concept in params.concepts]
    norms = torch.stack([one.norms for one in found]) if found else torch.ones(lm.n_layers)
    return Steering(vectors, norms, blocks, lm)


def cosines(params: SteerParams, device: str = "auto") -> np.ndarray:
    """Return the cosines [concept, concept] between directions, mean over the blocks that both steer."""
    return steering(params, _model(params.model, device)).cosines().cpu().numpy()


def export(params: SteerParams, kind: str, concept: str, device: str = "auto") -> bytes:
    """Return a concept's directions by the parameters' method and site as a file: "safetensors" or "gguf".

    Of the default model only the shipped file is read; another model is loaded.
    """
    from lm_core.llm.directions import read_directions
    from lm_core.llm.export import control_vector

    if kind not in ("safetensors", "gguf"):
        raise ParameterError(f"kind is {kind!r}; choose safetensors or gguf.")
    key, architecture = (params.method, params.site), "llama"
    if params.model == DEFAULT_MODEL:
        found = read_directions(directions_path(concept))
    else:
        lm = _model(params.model, device)
        found, architecture = directions(concept, lm, *key), lm.model.config.model_type
    vectors = found.get(*key)
    if kind == "gguf":
        return control_vector(vectors, found.norms, blocks_of(params, concept, len(vectors)), architecture)
    correlations = {key: found.correlations[key]} if key in found.correlations else {}
    return replace(found, vectors={key: vectors}, correlations=correlations).pack()


# -- writing ----------------------------------------------------------------------------------------------------------


def asked_prompt(params: SteerParams) -> str:
    """Return the prompt that asks in words for concepts with a positive strength, against those with a negative one."""
    asked = [params.prompt]
    for name, strength in zip(params.concepts, params.strengths, strict=True):
        ask = find_concept(name).ask
        asked += [ask] if strength > 0 else [f"Do not do this: {ask}"] if strength < 0 else []
    return "\n".join(asked)


def steer(
    params: SteerParams,
    *,
    dial: Dial | None = None,
    writing: Writing | None = None,
    rows: Sequence[str] | None = None,
    watched: Sequence[str] = (),
    detector: dict[str, Any] | None = None,
    device: str = "auto",
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> SteerResult:
    """Answer a prompt three times from the same noise: unsteered, asked for in words, steered.

    Args:
        dial: strengths, read anew at every token; the parameters' if None.
        writing: gets the events of the answer as it grows (start, token, reading, end).
        rows: which of the three, of `answer.ROWS`; all if None.
        watched: up to six concepts whose detectors read along and ring alarms.
        detector: of `run_monitor.live`: method, aggregate, false_positive_rate.
        check: called at every token; may raise to cancel. The events up to then stay, and an end is appended.
    """
    from lm_core.llm.answer import ROWS, Answer
    from lm_core.run_monitor import live

    on_progress(0.0, "loading the model", None)
    lm = _model(params.model, device)
    tell: dict[str, Any] = {"on_progress": on_progress, "check": check}
    watch = live(watched, lm, **(detector or {}), **tell) if watched else None
    moves = steering(params, lm)
    blocks = [blocks_of(params, name, lm.n_layers) for name in params.concepts]
    concepts = [find_concept(name) for name in params.concepts]
    dial, log = dial or Dial(params.strengths), writing or Writing()
    rows = tuple(ROWS) if rows is None else rows
    answer = Answer(params, asked_prompt(params), lm, concepts, moves, blocks, dial, log, rows, watch, watched)
    on_progress(0.0, "reading the prompt", None)
    return answer.write(lambda share, message: on_progress(share, message, None), check)


@lru_cache(maxsize=1)
def recordings() -> list[tuple[SteerParams, list[dict[str, Any]]]]:
    """Return the shipped recordings: parameters and events of answers, for a page to show before any is computed."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(asset_path("answers").glob("*.json"))]
    return [(SteerParams.from_dict(one["params"]), one["events"]) for one in found]


_replayed: dict[str, str] = {}  # parameters → the stream that all visitors share


def recorded(params: SteerParams) -> Writing | None:
    """Return the shipped recording of an answer with exactly these parameters, None if there is none."""
    events = next((events for made_with, events in recordings() if made_with == params), None)
    if events is None:
        return None
    log = writing(_replayed.get(params.key(), ""))
    if log is None:
        log = open_writing()
        for event in events:
            log.append(event)
        _replayed[params.key()] = log.stream_id
    return log


def record(params: SteerParams, device: str = "auto") -> Path:
    """Write an answer's events into `assets/answers/`, for a page to show before anything is computed."""
    log = Writing()
    steer(params, writing=log, device=device)
    path = asset_path("answers", f"{params.key()}.json")
    path.parent.mkdir(exist_ok=True)
    content = {"params": params.as_dict(), "model_sha256": _model(params.model, device).sha256, "events": log.events}
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
    return path


def sweep(
    params: SteerParams, concept: str, *, device: str = "auto", on_progress: Progress = quiet, check: Check = go_on
) -> SweepResult:
    """Write the answer at seven strengths of one concept as one batch; the other concepts keep theirs.

    From minus to plus the strength where the concept collapses, or the largest one that was swept.
    """
    import torch

    from lm_core.llm.answer import metrics
    from lm_core.llm.generate import Sampling, write
    from lm_core.llm.reading import surprise

    if concept not in params.concepts:
        raise ParameterError(
            f"concept is {concept!r}; choose one of those on the sliders: {', '.join(params.concepts)}."
        )
    on_progress(0.0, "loading the model", None)
    lm = _model(params.model, device)
    moves, which = steering(params, lm), params.concepts.index(concept)
    known = facts(concept, params.model, params.method, params.site)
    top = known.collapse if known else LARGEST_SWEPT
    strengths = [round(top * i / (SWEEP // 2), 4) for i in range(-(SWEEP // 2), SWEEP // 2 + 1)]
    table = torch.tensor([params.strengths] * SWEEP)
    table[:, which] = torch.tensor(strengths)
    shift, prompt = moves.shift(table), lm.prompt_ids(params.prompt)

    def on_token(step: int, ids: list[int | None]) -> None:
        check()
        on_progress((step + 1) / (params.tokens + 1), f"token {step + 1} of {params.tokens}", None)

    sampling = Sampling(params.temperature, params.top_p, params.repetition_penalty)
    written = write(lm, [prompt] * SWEEP, [params.seed] * SWEEP, sampling, params.tokens, lambda: shift, on_token)
    nlls = surprise(lm, [prompt] * SWEEP, written)
    texts = [lm.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]
    spec = find_concept(concept)
    judge = judges.judge(spec.judge) if spec.judge and not spec.is_rating else None
    figures = [
        metrics(tokens, nll, {} if judge is None else {concept: round(judge(params.prompt, text), 3)})
        for tokens, nll, text in zip(written, nlls, texts, strict=True)
    ]
    return SweepResult(strengths, texts, figures, unit_of(spec))


def linear_response(
    params: SteerParams, *, device: str = "auto", on_progress: Progress = quiet, check: Check = go_on
) -> LinearResult:
    """Predict to first order how the sliders change the next token's logits, measure it, and find where it fails.

    The curve scales all strengths together. R² is over the 200 most probable tokens of the unsteered model.

    Raises:
        ParameterError: all strengths are zero.
    """
    import torch

    from lm_core.llm.linear import determination, measured_logits, predicted_slopes
    from lm_core.llm.model import in_float32

    strength = sum(map(abs, params.strengths))
    if strength == 0:
        raise ParameterError("All strengths are zero; move a slider to predict what it does.")
    on_progress(0.0, "loading the model", None)
    lm = in_float32(_model(params.model, device))
    shift = steering(params, lm).shift(torch.tensor([params.strengths]))
    assert shift is not None
    shift, prompt = shift[:, 0], lm.prompt_ids(params.prompt)
    on_progress(0.2, "predicting", None)
    slopes = predicted_slopes(lm, prompt, shift)
    check()
    on_progress(0.5, "measuring", None)
    reach = max(2.0, 0.1 / strength)  # to twice the sliders' strength, and to a tenth of the norm at least
    scales = [0.0, 1.0, *np.geomspace(0.0002 / strength, reach, 16).tolist()]
    logits = measured_logits(lm, prompt, [scale * shift for scale in scales])
    top = logits[0].topk(min(CANDIDATES, logits.shape[1])).indices
    changes = (logits - logits[0])[:, top]
    predictions = torch.tensor(scales, device=changes.device)[:, None] * slopes[top]
    r2 = determination(predictions[1:], changes[1:]).tolist()
    strengths = [round(scale * strength, 5) for scale in scales[2:]]
    return LinearResult(
        pieces=[lm.tokenizer.decode([token]) for token in top.tolist()],
        predicted=predictions[1].cpu().numpy(),
        measured=changes[1].cpu().numpy(),
        strength=strength,
        r2=r2[0],
        strengths=strengths,
        r2_curve=r2[1:],
        breaks_at=next((s for s, value in zip(strengths, r2[1:], strict=True) if value < 0.9), None),
    )
