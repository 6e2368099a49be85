"""The controls of the steering page: what is asked for, all of it in the URL.

Every widget's key is `steer_` and a field of `SteerParams`; the URL has the bare names, only where they differ from the
defaults, and `dials` for the concept sliders. What a URL says is checked here; nonsense becomes the default.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import streamlit as st

from lm_core import run_llm
from lm_core.concepts import Concept, ConceptFacts, choosable, concepts, facts
from lm_core.errors import ParameterError
from lm_core.params import MAX_SEED
from lm_core.steer_params import MAX_CONCEPTS, MAX_TOKENS, METHODS, SITES, SteerParams
from pages.components.knobs import Dials, Knob, dials, knobs, order, removed
from pages.components.monitor_controls import MOST_WATCHED, labels
from pages.components.steering_answer import Answer
from pages.components.tour.script import OWN_QUERY

URL_VERSION = "1"
KNOBS = "knobs"
LONGEST_IN_URL = 500
NOT_MEASURED = "not measured with this method, site and model"
KEPT = "_steering_settings"  # outlives a visit to another page
RANGES = {
    "seed": (0, MAX_SEED),
    "tokens": (1, MAX_TOKENS),
    "temperature": (0.0, 2.0),
    "top_p": (0.05, 1.0),
    "repetition_penalty": (1.0, 2.0),
}
DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(SteerParams) if field.name not in ("prompt", "concepts", "strengths")
} | {"prompt": "", "watch": []}


SPELT = {"blocks": lambda value: f"{value[0]}-{value[1]}", "watch": ",".join}  # in the URL; others as they are


@dataclass(frozen=True)
class Preset:
    """A prompt with sliders: concept → where to put it, "band" its best, "against" its mirror, "beyond" collapse."""

    name: str
    prompt: str
    where: dict[str, str]


PRESETS = (
    Preset("Shakespeare in London", "What do you think about the city of London?", {"shakespearean": "band"}),
    Preset("A Spanish Saturday", "How should I spend a free Saturday?", {"spanish": "band"}),
    Preset("In a temper", "My neighbour plays the drums at night. What should I say?", {"angry": "band"}),
    Preset("Anger turned round", "My neighbour plays the drums at night. What should I say?", {"angry": "against"}),
    Preset("Two at once", "Tell me about a walk in the rain.", {"shakespearean": "band", "angry": "band"}),
    Preset("Spanish or French?", "What did you have for breakfast?", {"spanish": "band", "french": "band"}),
    Preset("Too much: a collapse", "How should I spend a free Saturday?", {"spanish": "beyond"}),
)


def presets() -> list[Preset]:
    """Return the presets whose concepts are shipped."""
    return [preset for preset in PRESETS if preset.where.keys() <= concepts().keys()]


def preset_links() -> None:
    """Offer the presets, each a click."""
    with st.container(horizontal=True, gap="xsmall", key="presets"):
        for preset in presets():
            st.button(preset.name, key=f"preset_{preset.name}", type="tertiary", on_click=open_preset, args=(preset,))


def open_preset(preset: Preset) -> None:
    """Set the controls to a preset and have it written, before the next run."""
    settings = {name: _setting(name) for name in ("model", "seed", "tokens")}
    _restore(DEFAULTS | settings | {"prompt": preset.prompt})
    places = {name: starting_strength(name, where) for name, where in preset.where.items()}
    order(KNOBS, places)
    st.session_state["_write_now"] = True


def starting_strength(concept: str, where: str = "band") -> float:
    """Return where a slider is put: the best strength measured, its mirror, or past the collapse; 0 if none was."""
    known = known_facts(concept)
    if known is None:
        return 0.0
    places = {"band": known.best, "against": -known.best, "beyond": 1.25 * known.collapse}
    return round(places[where], 3)


def known_facts(concept: str) -> ConceptFacts | None:
    """Return what is measured of a concept under the present controls."""
    return _facts(concept, _setting("model"), _setting("method"), _setting("site"))


@st.cache_data(ttl=60, show_spinner=False)
def _facts(concept: str, model: str, method: str, site: str) -> ConceptFacts | None:
    return facts(concept, model, method, site)


# The URL


def start_from_url() -> None:
    """Set the controls, once a visit to this page, from the URL or as they were left."""
    if "steer_prompt" in st.session_state:
        return
    asked = st.query_params.to_dict()
    kept, placed = st.session_state.get(KEPT, (None, None))
    if kept is None or asked:
        kept, placed = read_url(asked), read_dials(asked.get("dials", ""))
    placed = {name: value for name, value in placed.items() if name in choosable()}  # one's own may be gone
    _restore(kept)
    if not kept["prompt"] and not placed and presets():
        first = presets()[0]
        st.session_state["steer_prompt"] = first.prompt
        placed = {name: starting_strength(name, where) for name, where in first.where.items()}
    order(KNOBS, placed)


def read_url(query: dict[str, str]) -> dict[str, Any]:
    """Return the controls' values that a URL asks for; nonsense becomes the default."""
    wanted = dict(DEFAULTS)
    choices = {"method": METHODS, "site": SITES, "model": [choice.id for choice in run_llm.models()]}
    for name, text in query.items():
        if name == "prompt":
            wanted[name] = text[:LONGEST_IN_URL]
        elif name == "watch":
            known = labels()
            wanted[name] = [each for each in dict.fromkeys(text.split(",")) if each in known][:MOST_WATCHED]
        elif name in RANGES:
            wanted[name] = _number(text, type(DEFAULTS[name]), *RANGES[name], DEFAULTS[name])
        elif name in choices and text in choices[name]:
            wanted[name] = text
    return wanted | {"blocks": _range(query.get("blocks", ""), block_count(wanted["model"]))}


def read_dials(text: str) -> dict[str, float]:
    """Read "spanish:3,angry:-1.2", percent of the residual norm; unknown concepts and nonsense are left out."""
    placed = {}
    for part in text.split(","):
        name, _, percent = part.partition(":")
        strength = _number(percent, float, -100, 100, None)
        if name in choosable() and strength is not None:
            placed[name] = strength / 100
    return dict(list(placed.items())[:MAX_CONCEPTS])


def remember(stream_id: str = "") -> None:
    """Put every control into the URL, and `s`, the answer on show; keep them for a visit to another page."""
    settings, here = {name: _setting(name) for name in DEFAULTS}, dials(KNOBS)
    st.session_state[KEPT] = (settings, here.values)
    wanted = {"v": URL_VERSION, "dials": spell_dials(here)}
    for name, value in settings.items():
        if value != DEFAULTS[name] and not (name == "prompt" and len(value) > LONGEST_IN_URL):
            wanted[name] = SPELT.get(name, str)(value)
    wanted |= {"s": stream_id} if stream_id else {}
    wanted |= {name: value for name, value in st.query_params.items() if name in OWN_QUERY}
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def spell_dials(here: Dials) -> str:
    return ",".join(f"{name}:{round(100 * value, 1):g}" for name, value in here.values.items())


def _number(text: str, kind: type, low: float, high: float, default: Any) -> Any:
    try:
        number = kind(text)
    except ValueError:
        return default
    return number if low <= number <= high else default


def _range(text: str, count: int) -> tuple[int, int] | None:
    ends = text.split("-")
    if len(ends) != 2 or not all(end.isdecimal() and len(end) < 4 for end in ends):
        return None
    first, last = sorted(map(int, ends))
    return (first, last) if 1 <= last < count else None


def _setting(name: str) -> Any:
    return st.session_state.get(f"steer_{name}", DEFAULTS[name])


def _restore(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        st.session_state[f"steer_{name}"] = value
    st.session_state["steer_own_blocks"] = settings["blocks"] is not None


# The sidebar


def on_phone() -> bool:
    """Whether the visitor holds a phone, where an open sidebar would hide the text that the sliders change."""
    return "Mobi" in (st.context.headers.get("User-Agent") or "")


def sliders(answer: Answer | None) -> None:
    """Draw the concept sliders, which turn the answer that is being written, and the choice of another concept."""
    st.markdown("**Concepts** · percent of the typical residual norm")
    st.fragment(_sliders)(answer)
    _add_concept(answer)


def controls() -> None:
    """Draw everything but the prompt and the sliders."""
    _watch()
    redraw = {"on_change": _redraw}
    st.selectbox("Method", list(METHODS), format_func=METHODS.__getitem__, key="steer_method", **redraw)
    st.selectbox(
        "Activations taken at",
        list(SITES),
        format_func=SITES.__getitem__,
        key="steer_site",
        help="Where the directions were read off. The two sites give different directions.",
        **redraw,
    )
    _blocks()
    _sampling()
    models = {choice.id: choice for choice in run_llm.models()}
    st.selectbox("Model", list(models), format_func=lambda name: model_label(models[name]), key="steer_model", **redraw)
    chosen = models[_setting("model")]
    if not chosen.present:
        label = f"Fetch {chosen.name} ({chosen.megabytes:,} MB, {chosen.licence})"
        st.button(label, key="steer_fetch", icon=":material/download:", on_click=_fetch, width="stretch")


def _sliders(answer: Answer | None) -> None:
    """Draw the sliders: a fragment, so that a move costs milliseconds."""
    if st.session_state.pop("_concepts_changed", False):
        st.rerun()  # before anything is drawn: what goes, goes together with its place in the list below
    shipped = choosable()
    drawn = []
    for name in dials(KNOBS).values:
        known = known_facts(name)
        collapse = known.collapse if known and known.collapses else None
        waits = answer is not None and answer.lacks(name)
        drawn.append(Knob(name, shipped[name].name, known and known.band, collapse, known and known.works, waits))
    knobs(drawn, key=KNOBS, on_move=lambda: _moved(answer), on_remove=lambda: _remove(answer))


def _moved(answer: Answer | None) -> None:
    """Send new strengths to the answer that is being written, and put them into the URL once the slider is let go."""
    here = dials(KNOBS)
    if answer is not None:
        answer.turn(here)
    if here.settled:
        st.query_params["dials"] = spell_dials(here)


def _remove(answer: Answer | None) -> None:
    here = dials(KNOBS)
    order(KNOBS, {name: value for name, value in here.values.items() if name != removed(KNOBS)}, here.off)
    _moved(answer)
    st.session_state["_concepts_changed"] = True


def _redraw() -> None:
    """Have the sliders drawn anew, with the bands of another method, site or model."""
    here = dials(KNOBS)
    order(KNOBS, here.values, here.off)


def _add_concept(answer: Answer | None) -> None:
    chosen = dials(KNOBS).values
    st.selectbox(
        "Add a concept",
        [name for name in choosable() if name not in chosen],
        index=None,
        format_func=concept_label,
        placeholder="Add a concept" if len(chosen) < MAX_CONCEPTS else f"{MAX_CONCEPTS} is the most at once",
        disabled=len(chosen) >= MAX_CONCEPTS,
        label_visibility="collapsed",
        key="steer_add",
        on_change=_add,
        args=(answer,),
    )


def _add(answer: Answer | None) -> None:
    name, here = st.session_state["steer_add"], dials(KNOBS)
    if name in choosable():
        order(KNOBS, here.values | {name: starting_strength(name)}, here.off)
        st.session_state["steer_add"] = None
        _moved(answer)


def concept_label(name: str) -> str:
    """Describe a concept in a line: its group, its name, and whether it works here."""
    concept: Concept = choosable()[name]
    known = known_facts(name)
    verdict = NOT_MEASURED if known is None else "" if known.works else "no usable band"
    return " · ".join(filter(None, (concept.name, concept.group, verdict)))


def _watch() -> None:
    known = labels()
    st.session_state["steer_watch"] = [name for name in _setting("watch") if name in known]  # one's own may be gone
    st.multiselect(
        "Watch for",
        list(known),
        format_func=known.__getitem__,
        max_selections=MOST_WATCHED,
        key="steer_watch",
        placeholder="Nothing",
        help="From the next answer on a detector reads along and rings an alarm. At most 5% of held-out texts without "
        "the concept would ring it. The first time it is fitted, half a minute.",
    )


def watched() -> tuple[str, ...]:
    """Return what the next answer is watched for."""
    return tuple(_setting("watch"))


def _blocks() -> None:
    if not st.toggle("Choose the blocks", key="steer_own_blocks", help="Otherwise each concept's calibrated blocks."):
        st.session_state["steer_blocks"] = None
        return
    last = block_count(_setting("model")) - 1
    moved = st.session_state.get("steer_block_range")
    first, final = moved or _setting("blocks") or (last // 5, round(last * 0.86))
    st.session_state["steer_block_range"] = (min(first, last), min(final, last))  # another model may have fewer
    st.session_state["steer_blocks"] = st.slider(
        "Blocks", 0, last, key="steer_block_range", help="First and last block that is steered, counted from 0."
    )


def block_count(model: str) -> int:
    """Return the number of blocks of a model of the list."""
    return next(choice.blocks for choice in run_llm.models() if choice.id == model)


def _sampling() -> None:
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    left.number_input("Seed", *RANGES["seed"], key="steer_seed", help="The same for all three columns.")
    right.button("Next", key="steer_next", on_click=_next_seed, width="stretch", shortcut="n")
    st.slider("Tokens", *RANGES["tokens"], key="steer_tokens", help="The most that each column may have.")
    with st.expander("Sampling"):
        st.slider("Temperature", *RANGES["temperature"], step=0.05, key="steer_temperature", help="0 is greedy.")
        st.slider("Top p", *RANGES["top_p"], step=0.05, key="steer_top_p")
        st.slider("Repetition penalty", *RANGES["repetition_penalty"], step=0.05, key="steer_repetition_penalty")


def _next_seed() -> None:
    st.session_state["steer_seed"] = (int(_setting("seed")) + 1) % MAX_SEED
    st.session_state["_write_now"] = True


def _fetch() -> None:
    st.session_state["_fetch_now"] = _setting("model")


def model_label(choice: run_llm.ModelChoice) -> str:
    """Describe a model: its name, and its size if it is still to be fetched."""
    return choice.name if choice.present else f"{choice.name} · fetch {choice.megabytes:,} MB"


def asked() -> SteerParams:
    """Return what the controls ask for now.

    Raises:
        ParameterError: there is no prompt, or a value lies out of its range.
    """
    here = dials(KNOBS)
    settings = {name: _setting(name) for name in DEFAULTS if name != "watch"}
    offered = [choice.id for choice in run_llm.models()]
    if settings["model"] not in offered:
        raise ParameterError(f"model is {settings['model']!r}; choose one of {', '.join(offered)}.")
    if settings["blocks"] is not None and settings["blocks"][1] < 1:
        raise ParameterError("The last block is 0, which has no direction; choose a last block of at least 1.")
    return SteerParams(concepts=tuple(here.values), strengths=here.in_force(tuple(here.values)), **settings)


def names(chosen: Iterable[str]) -> list[str]:
    """Return the concepts' names."""
    return [choosable()[concept].name for concept in chosen]
