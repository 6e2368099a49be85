"""What the concept lab asks for: a concept made in seconds and saved, methods compared, a meaning. Torch-free."""

import time
from typing import TYPE_CHECKING, Any

from lm_core import user_concepts
from lm_core.example_rows import Row, require_enough
from lm_core.lab_params import LabParams
from lm_core.lab_results import HeldOut, LabResult
from lm_core.progress import Check, Progress, go_on, quiet
from lm_core.run_compare import Phase, Tell, compare, meaning, middle, phases, usable
from lm_core.run_llm import _model
from lm_core.steer_params import DEFAULT_MODEL, METHODS
from lm_core.user_concepts import Stored
from lm_core.user_source import TEXT_PROMPT, everyday, parse_user_concept, prefixed

if TYPE_CHECKING:
    from lm_core.llm.model import LanguageModel

__all__ = ["compare", "make", "meaning", "take"]

ANSWER_TOKENS = 24  # of the model's own answers to a prefix


def make(params: LabParams, *, device: str = "auto", on_progress: Progress = quiet, check: Check = go_on) -> LabResult:
    """Make a concept from examples or a prefix, and save it: directions in all blocks, held-out figures, usable band.

    Raises:
        ParameterError, AssetError, ResourceError: unusable examples, model or folder.

    Cost: 64 short examples 25 to 30 CPU seconds with a warm model; the model's answers to a prefix 13 more.
    """
    from lm_core.llm.calibrate import Shifts
    from lm_core.llm.heldout import fit_sites, held_out, merged
    from lm_core.llm.slider import PROMPTS, calibration, fit_gauge, sweep, texts

    phase, clock = phases(on_progress, check), [time.monotonic()]
    phase(0.0, 0.05, "loading the model")
    lm = _model(params.model, device)
    clock.append(time.monotonic())
    source, notices = _source(lm, params, phase)
    concept, key = parse_user_concept(source), (params.method, params.site)
    clock.append(time.monotonic())
    sites = tuple(dict.fromkeys(("response", params.site)))  # what is written is read there, so both are needed
    fits = fit_sites(lm, concept, sites, usable(tuple(METHODS), concept), phase(0.3, 0.5, "reading and fitting"))
    clock.append(time.monotonic())
    tested = held_out(params.method, fits[params.site], phase(0.5, 0.6, "fitting without what is held out"))
    clock.append(time.monotonic())
    gauge = None if concept.judge else fit_gauge(concept, fits["response"], [params.method])
    directions, blocks = merged(lm, concept.id, fits), middle(lm.n_layers)
    prompts = concept.calibration_prompts[:PROMPTS]
    tell = phase(0.6, 1.0, "writing at five strengths")
    found = sweep(lm, concept, gauge, Shifts(lm, directions, blocks), [key], prompts, tell)
    clock.append(time.monotonic())
    measured: dict[str, Any] = {"model": lm.name, "model_sha256": lm.sha256, "blocks": list(blocks)}
    measured |= {"calibration": calibration(found, [key]), "seconds": _seconds(clock)}
    measured["held_out"] = {".".join(key): tested.as_dict()} if tested else {}
    saved = user_concepts.save(concept.source, measured, directions.pack())
    swept = measured["calibration"][".".join(key)]
    band = (swept["band"][0], swept["band"][1]) if swept["band"] else None
    shown = texts(found, key, prompts)
    return LabResult(saved, tested, band, swept["best"], shown, notices + _warnings(tested, band), _seconds(clock))


def _seconds(clock: list[float]) -> dict[str, float]:
    spent = zip(("model", "examples", "fitting", "measuring", "strengths"), clock, clock[1:], strict=False)
    return {name: round(end - start, 2) for name, start, end in spent} | {"all": round(clock[-1] - clock[0], 2)}


def _warnings(tested: HeldOut | None, band: tuple[float, float] | None) -> list[str]:
    said = []
    if tested is None:
        said.append("Too few examples to hold any out: give at least ten of each class to see how well it is told.")
    elif tested.interval[0] <= (0.5 if tested.measure == "AUROC" else 0.0):
        said.append("On examples that were held out the directions tell nothing for certain; give more of them.")
    if band is None:
        said.append("No strength that was tried steers and stays fluent; give more examples, or more different ones.")
    return said


def _source(lm: "LanguageModel", params: LabParams, phase: Phase) -> tuple[dict[str, Any], list[str]]:
    """Return a concept's source, its texts cut to what the model reads, and what the user should know."""
    from lm_core.llm.example_reading import cut, longest_text

    rows, notices = params.rows, []
    if params.kind == "prefix":
        rows, notices = _answers(lm, params, phase(0.05, 0.3, "the model answers with the prefix and without"))
    most = longest_text(lm, TEXT_PROMPT)
    texts = [cut(lm, row.text, most) for row in rows]
    longer = [row.where or f"“{row.text[:20]}…”" for row, text in zip(rows, texts, strict=True) if text != row.text]
    if longer:
        named = ", ".join(longer[:5]) + (f" and {len(longer) - 5} more" if len(longer) > 5 else "")
        notices.append(f"{named}: longer than {most} tokens, only the beginning was read.")
    pairs = zip(rows, texts, strict=True)
    source = {"name": params.name, "kind": params.kind, "prefix": params.prefix, "ask": params.asked}
    source |= {"judge": params.judge, "about": f"Made from {len(rows)} examples."}
    return source | {"rows": [{"text": t, "target": row.target, "group": row.group} for row, t in pairs]}, notices


def _answers(lm: "LanguageModel", params: LabParams, tell: Tell) -> tuple[tuple[Row, ...], list[str]]:
    """Have the model answer statements with the prefix and without: its answers are the examples."""
    from lm_core.llm.outcomes import Condition
    from lm_core.llm.slider import answers

    statements = everyday("statements")[: params.statements]
    asked = [prefixed(words, statement) for statement in statements for words in (params.prefix, "")]
    written = answers(lm, [Condition(one, one, seed=i // 2) for i, one in enumerate(asked)], ANSWER_TOKENS, tell)
    texts = [lm.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]
    pairs = list(zip(statements, texts[::2], texts[1::2], strict=True))
    kept = [
        (statement, with_, without) for statement, with_, without in pairs if with_ and without and with_ != without
    ]
    rows = tuple(
        Row(text, target, statement) for statement, *both in kept for text, target in zip(both, (1.0, 0.0), strict=True)
    )
    require_enough(rows, "prefix")
    lost = len(pairs) - len(kept)
    return rows, [f"{lost} statements were left out: the prefix changed nothing in their answers."] if lost else []


def take(content: bytes, model: str = DEFAULT_MODEL, device: str = "auto") -> Stored:
    """Add a concept from another user's file, made in the same model.

    Raises:
        AssetError: it is damaged, or of another model or version.
    """
    return user_concepts.take(content, model, _model(model, device).sha256)
