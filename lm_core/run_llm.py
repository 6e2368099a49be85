"""What the language pages and the command line ask for: parameters in, results out. Torch loads on first use."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core import judges
from lm_core.artifacts import asset_path, cache_dir, model_cache
from lm_core.concepts import Concept, facts, find_concept, read_concept
from lm_core.device import choose_device, on_release
from lm_core.errors import AssetError, ParameterError
from lm_core.steer_params import DEFAULT_MODEL, METHODS, SITES, SteerParams
from lm_core.writing import Dial, Writing, open_writing

if TYPE_CHECKING:
    from lm_core.llm.directions import Directions, Steering
    from lm_core.llm.model import LanguageModel
    from lm_core.llm.reading import Reader

DEFAULT_BLOCKS = (0.2, 0.87)  # of the depth: blocks 6 to 25 of 30, where steering was found to work
READ_EVERY = 16  # tokens between two readings of the answers
ROWS = {"unsteered": "Unsteered", "prompted": "Asked for in words", "steered": "Steered"}
CANDIDATES = 200  # of the next token, the most probable ones, over which the linear prediction is judged
SWEEP = 7  # strengths in a film strip

Progress = Callable[[float, str, Any], None]
Check = Callable[[], None]


def _quiet(share: float, message: str, partial: Any = None) -> None:
    """Report to nobody."""


def _go_on() -> None:
    """Cancel nothing."""


@dataclass(frozen=True)
class Row:
    """One of the three answers. `metrics`: judge by concept, nll, distinct2, longest_repeat, collapsed."""

    name: str
    title: str
    text: str
    tokens: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class SteerResult:
    """Three answers from the same noise; `strengths` [token][concept] were in force when each token was written."""

    params: SteerParams
    rows: list[Row]
    pieces: list[list[str]]
    strengths: list[tuple[float, ...]]
    seconds: float
    first_token_seconds: float
    tokens_per_second: float

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary with the rows under their names."""
        rows = {row.name: {key: getattr(row, key) for key in ("text", "tokens", "metrics")} for row in self.rows}
        figures = ("seconds", "first_token_seconds", "tokens_per_second")
        return {"params": self.params.as_dict(), **rows, **{name: getattr(self, name) for name in figures}}


@dataclass(frozen=True)
class SweepResult:
    """One concept at several strengths, the others as they are; `metrics` one dictionary a text, as in `Row`."""

    strengths: list[float]
    texts: list[str]
    metrics: list[dict[str, Any]]
    unit: str


@dataclass(frozen=True, eq=False)
class LinearResult:
    """Predicted and measured change of the next token's logits.

    Attributes:
        pieces, predicted, measured: [candidate] at `strength` (the sum of the sliders' magnitudes), logit units.
        r2: of the prediction there; strengths, r2_curve: over a range; breaks_at: the first one with R² below .9.
    """

    pieces: list[str]
    predicted: np.ndarray
    measured: np.ndarray
    strength: float
    r2: float
    strengths: list[float]
    r2_curve: list[float]
    breaks_at: float | None


@dataclass(frozen=True)
class ModelChoice:
    """A model that the page offers; `present` if it need not be fetched."""

    id: str
    name: str
    parameters: str
    megabytes: int
    licence: str
    present: bool


MODELS = (
    (DEFAULT_MODEL, "SmolLM2 135M Instruct", "135 M", 270, "Apache 2.0"),
    ("HuggingFaceTB/SmolLM2-360M-Instruct", "SmolLM2 360M Instruct", "360 M", 725, "Apache 2.0"),
    ("Qwen/Qwen3-0.6B", "Qwen3 0.6B", "600 M", 1500, "Apache 2.0"),
    ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "SmolLM2 1.7B Instruct", "1.7 B", 3420, "Apache 2.0"),
    ("google/gemma-3-1b-it", "Gemma 3 1B", "1 B", 2000, "Gemma terms; needs an account that accepted them"),
    ("meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B", "1.2 B", 2470, "Llama 3.2; needs an account that accepted it"),
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
    """Convert the default model if that wasn't done yet; return its name."""
    from lm_core.llm.model import default_model_folder

    return default_model_folder().name


# -- directions -------------------------------------------------------------------------------------------------------


def _model(name: str, device: str) -> "LanguageModel":
    from lm_core.llm.model import open_model

    return open_model(name, choose_device(device))


def directions_path(concept: str, model: str = DEFAULT_MODEL) -> Path:
    """Return where a concept's directions are: shipped for the default model, in the cache for another."""
    if model == DEFAULT_MODEL:
        return asset_path("directions", f"{concept}.safetensors")
    return cache_dir() / "directions" / Path(model).name.lower() / f"{concept}.safetensors"


@lru_cache(maxsize=64)
def _read(path: Path, stamp: int) -> "Directions":
    from lm_core.llm.directions import read_directions

    return read_directions(path)


on_release(_read.cache_clear)


def directions(concept: str, lm: "LanguageModel", method: str, site: str) -> "Directions":
    """Return a concept's directions in a model; for another model than the default one they are fitted at first.

    Raises:
        AssetError: the file is of another model; ParameterError: no such concept, method or site.
    """
    path = directions_path(concept, lm.name)
    if not path.is_file():
        if lm.name == DEFAULT_MODEL:
            find_concept(concept)
            raise AssetError(f"The directions of {concept} are missing; restore assets/directions from the repository.")
        fit(find_concept(concept), lm.name, [method], [site], path, device=str(lm.device))
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
    """Return a concept's directions by the parameters' method and site as a file: "safetensors" or "gguf"."""
    from lm_core.llm.export import control_vector

    lm = _model(params.model, device)
    found = directions(concept, lm, params.method, params.site)
    vectors = found.get(params.method, params.site)
    if kind == "safetensors":
        key = (params.method, params.site)
        correlations = {key: found.correlations[key]} if key in found.correlations else {}
        return replace(found, vectors={key: vectors}, correlations=correlations).pack()
    if kind != "gguf":
        raise ParameterError(f"kind is {kind!r}; choose safetensors or gguf.")
    return control_vector(vectors, found.norms, blocks_of(params, concept, lm.n_layers), lm.model.config.model_type)


# -- writing ----------------------------------------------------------------------------------------------------------


def asked_prompt(params: SteerParams) -> str:
    """Return the prompt that asks in words for the concepts whose strength is positive, or for all if none is."""
    wanted = [name for name, strength in zip(params.concepts, params.strengths, strict=True) if strength > 0]
    return "\n".join([params.prompt, *(find_concept(name).ask for name in wanted or params.concepts)])


def steer(
    params: SteerParams,
    *,
    dial: Dial | None = None,
    writing: Writing | None = None,
    device: str = "auto",
    on_progress: Progress = _quiet,
    check: Check = _go_on,
) -> SteerResult:
    """Answer a prompt three times from the same noise: unsteered, asked for in words, steered.

    Args:
        dial: strengths, read anew at every token; the parameters' if None.
        writing: gets the events of the answer as it grows (start, token, reading, end).
        check: called at every token; may raise to cancel. The events up to then stay, and an end is appended.
    """
    on_progress(0.0, "loading the model", None)
    lm = _model(params.model, device)
    pen = _Pen(params, lm, dial or Dial(params.strengths), writing or Writing())
    on_progress(0.0, "reading the prompt", None)
    return pen.write(on_progress, check)


def recordings() -> list[tuple[SteerParams, list[dict[str, Any]]]]:
    """Return the shipped recordings: parameters and events of answers, for a page to show before any is computed."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(asset_path("answers").glob("*.json"))]
    return [(SteerParams.from_dict(one["params"]), one["events"]) for one in found]


def recorded(params: SteerParams) -> Writing | None:
    """Return the shipped recording of an answer with exactly these parameters, None if there is none."""
    events = next((events for made_with, events in recordings() if made_with == params), None)
    if events is None:
        return None
    log = open_writing()
    for event in events:
        log.append(event)
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


class _Pen:
    """Writes the three answers, and reads them as they grow."""

    def __init__(self, params: SteerParams, lm: "LanguageModel", dial: Dial, writing: Writing):
        self.params, self.lm, self.dial, self.writing = params, lm, dial, writing
        self.steering = steering(params, lm)
        self.plain, self.asked = lm.prompt_ids(params.prompt), lm.prompt_ids(asked_prompt(params))
        self.concepts = [find_concept(name) for name in params.concepts]
        self.judges = {one.id: judges.judge(one.judge) for one in self.concepts if not one.is_rating}
        self.tokens: list[list[int]] = [[] for _ in ROWS]
        self.pieces: list[list[str]] = [[] for _ in ROWS]
        self.strengths: list[tuple[float, ...]] = []
        self.in_force: tuple[float, ...] = ()
        self.reader, self.read = self._reader(), 0
        self.began = self.first = time.monotonic()

    def _reader(self) -> "Reader":
        from lm_core.llm.reading import Reader

        norms = self.steering.norms
        return Reader(self.lm, self.plain, len(ROWS), self.steering.directions, self.steering.inside, norms)

    def shift(self) -> Any:
        """Return what the dial says now: nothing for the first two rows."""
        import torch

        self.in_force = self.dial.get()
        table = torch.zeros(len(ROWS), len(self.in_force))
        table[-1] = torch.tensor(self.in_force)
        return self.steering.shift(table)

    def write(self, on_progress: Progress, check: Check) -> SteerResult:
        """Write until all rows have ended, the limit is reached, or `check` raises."""
        from lm_core.llm.generate import Sampling, write

        params, state = self.params, "stopped"
        self.writing.append(self._start())
        sampling = Sampling(params.temperature, params.top_p, params.repetition_penalty)

        def on_token(step: int, ids: list[int | None]) -> None:
            check()
            self._note(step, ids)
            on_progress((step + 1) / params.tokens, f"token {step + 1} of {params.tokens}", None)

        try:
            prompts = [self.plain, self.asked, self.plain]
            write(self.lm, prompts, [params.seed] * 3, sampling, params.tokens, self.shift, on_token)
            self._reading()
            state = "length" if max(map(len, self.tokens)) >= params.tokens else "done"
        finally:
            self.writing.append({"type": "end", "state": state, "tokens_per_second": round(self._pace(), 2)})
        return self._result()

    def _start(self) -> dict[str, Any]:
        concepts = []
        for one in self.concepts:
            known = facts(one.id, self.params.model, self.params.method, self.params.site)
            unit = judges.JUDGES[one.judge["metric"]][0] if one.judge else ""
            concepts.append({"id": one.id, "name": one.name, "unit": unit, "band": known and known.band})
        blocks = [blocks_of(self.params, one.id, self.lm.n_layers) for one in self.concepts]
        return {
            "type": "start",
            "rows": [{"name": name, "title": title} for name, title in ROWS.items()],
            "concepts": concepts,
            "blocks": blocks[0] if blocks else None,
            "seed": self.params.seed,
            "prompt_pieces": [self.lm.tokenizer.decode([token]) for token in self.plain],
        }

    def _note(self, step: int, ids: list[int | None]) -> None:
        if step == 0:
            self.first = time.monotonic()
        pieces = [None if token is None else self._piece(row, token) for row, token in enumerate(ids)]
        self.strengths.append(self.in_force)
        self.writing.append({"type": "token", "step": step, "pieces": pieces, "strengths": list(self.in_force)})
        if (step + 1) % READ_EVERY == 0:
            self._reading()

    def _piece(self, row: int, token: int) -> str:
        """Return what a token adds to its row's text; nothing while a letter of several bytes is incomplete."""
        self.tokens[row].append(token)
        whole = self.lm.tokenizer.decode(self.tokens[row])
        known = sum(map(len, self.pieces[row]))
        self.pieces[row].append("" if whole.endswith("\ufffd") else whole[known:])
        return self.pieces[row][-1]

    def _reading(self) -> None:
        new = [tokens[self.read :] for tokens in self.tokens]
        if not any(new):
            return
        self.reader.feed(new)
        self.read += max(map(len, new))
        rows = [self._metrics(row) | {"projections": self._projections(row)} for row in range(len(ROWS))]
        event: dict[str, Any] = {"type": "reading", "upto": self.read, "rows": rows}
        if self.read <= READ_EVERY:
            event["prompt_projections"] = self._named(self.reader.prompt_projections)
        self.writing.append(event)

    def _projections(self, row: int) -> dict[str, list[float]]:
        return self._named(self.reader.projections[row])

    def _named(self, values: list[list[float]]) -> dict[str, list[float]]:
        pairs = zip(self.params.concepts, values, strict=True)
        return {name: [round(value, 4) for value in each] for name, each in pairs}

    def _metrics(self, row: int) -> dict[str, Any]:
        text = "".join(self.pieces[row])
        nll = self.reader.nll(row)
        judged = {name: round(judge(self.params.prompt, text), 3) for name, judge in self.judges.items()}
        return _metrics(self.tokens[row], nll, self.reader.nll(0), judged)

    def _pace(self) -> float:
        steps = max(map(len, self.tokens))
        return (steps - 1) / max(time.monotonic() - self.first, 1e-9) if steps > 1 else 0.0

    def _result(self) -> SteerResult:
        rows = [
            Row(name, title, "".join(self.pieces[i]).strip(), len(self.tokens[i]), self._metrics(i))
            for i, (name, title) in enumerate(ROWS.items())
        ]
        return SteerResult(
            params=self.params,
            rows=rows,
            pieces=self.pieces,
            strengths=self.strengths,
            seconds=round(time.monotonic() - self.began, 3),
            first_token_seconds=round(self.first - self.began, 3),
            tokens_per_second=round(self._pace(), 2),
        )


def _metrics(tokens: list[int], nll: float | None, unsteered: float | None, judged: dict[str, float]) -> dict[str, Any]:
    return {
        "judge": judged,
        "nll": None if nll is None else round(nll, 3),
        "distinct2": round(judges.distinct2(tokens), 3),
        "longest_repeat": judges.longest_repeat(tokens),
        "collapsed": judges.collapsed(tokens, nll, unsteered),
    }


def sweep(
    params: SteerParams, concept: str, *, device: str = "auto", on_progress: Progress = _quiet, check: Check = _go_on
) -> SweepResult:
    """Write the answer at seven strengths of one concept as one batch; the other concepts keep theirs.

    From minus to plus the strength where the concept collapses, or the largest one that was swept.
    """
    import torch

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
    top = known.collapse if known else 0.085
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
    judge = None if spec.is_rating else judges.judge(spec.judge)
    metrics = [
        _metrics(tokens, nll, nlls[SWEEP // 2], {} if judge is None else {concept: judge(params.prompt, text)})
        for tokens, nll, text in zip(written, nlls, texts, strict=True)
    ]
    return SweepResult(strengths, texts, metrics, judges.JUDGES[spec.judge["metric"]][0])


def linear_response(
    params: SteerParams, *, device: str = "auto", on_progress: Progress = _quiet, check: Check = _go_on
) -> LinearResult:
    """Predict to first order how the sliders change the next token's logits, measure it, and find where it fails.

    The curve scales all strengths together. R² is over the 200 most probable tokens of the unsteered model.

    Raises:
        ParameterError: all strengths are zero.
    """
    import torch

    from lm_core.llm.linear import determination, measured_logits, predicted_slopes

    strength = sum(map(abs, params.strengths))
    if strength == 0:
        raise ParameterError("All strengths are zero; move a slider to predict what it does.")
    on_progress(0.0, "loading the model", None)
    lm = _model(params.model, device)
    shift = steering(params, lm).shift(torch.tensor([params.strengths]))
    assert shift is not None
    shift, prompt = shift[:, 0], lm.prompt_ids(params.prompt)
    on_progress(0.2, "predicting", None)
    slopes = predicted_slopes(lm, prompt, shift)
    check()
    on_progress(0.5, "measuring", None)
    reach = max(2.0, 0.1 / strength)  # to twice the sliders' strength, and to a tenth of the norm at least
    scales = [0.0, 1.0, *np.geomspace(0.0002 / strength, reach, 16).tolist()]  # the linear regime ends near 0.001
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


def detect(
    concept: str, texts: Sequence[str], *, method: str = "rfm", site: str = "response", device: str = "auto"
) -> dict[str, Any]:
    """Score texts, and every token of them, along a concept's direction in the default model.

    Returns:
        blocks, unit, and texts [{text, score, tokens [{piece, score}]}]; scores are ⟨h, v⟩ in residual norms.
    """
    from lm_core.llm.detect import best_blocks
    from lm_core.llm.detect import detect as project

    kept = [text for text in texts if text.strip()]
    if not kept:
        raise ParameterError("The text is empty; give at least one line with words.")
    lm = _model(DEFAULT_MODEL, device)
    found = directions(find_concept(concept).id, lm, method, site)
    vectors, blocks = found.get(method, site), best_blocks(found.correlations[method, site])
    scored = [
        {
            "text": text,
            "score": round(one.score, 5),
            "tokens": [{"piece": p, "score": round(s, 5)} for p, s in zip(one.pieces, one.scores, strict=True)],
        }
        for text, one in zip(kept, project(lm, kept, vectors, found.norms, blocks), strict=True)
    ]
    about = {"concept": concept, "method": method, "site": site, "model": lm.name, "blocks": blocks}
    return about | {"unit": "projection in residual norms", "texts": scored}
