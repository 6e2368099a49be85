"""What the concept lab's sections share: which concept, how a name is shown safely, the way to the steering page."""

import hashlib
import json
import re
from typing import Any

import streamlit as st

from lm_core import user_concepts
from lm_core.concepts import Concept, concepts
from lm_core.errors import LabError
from lm_core.steer_params import METHODS, SITES
from lm_core.user_concepts import Stored, is_mine, my_concepts

STEERING_PAGE = "steering.py"
TRIED_WITH = "What should I do on a rainy Sunday?"
CHOICE = "lab_concept"
SHORT_METHODS = {"rfm": "RFM", "mean_difference": "means", "logistic": "logistic", "linear": "linear", "pca": "PCA"}
SHORT_SITES = {"response": "response", "last": "last token"}


def plain(text: str) -> str:
    """Return a text so that Streamlit's markdown shows it as it is: a name from a file may hold an image's address."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])", r"\\\1", " ".join(text.split()))


def refuse(error: LabError | str) -> None:
    """Say in one sentence what can't be done."""
    st.error(plain(str(error)), icon=":material/error:")


def offered() -> dict[str, Concept]:
    """Return the concepts that can be looked into, one's own first; a rating has neither curves nor a lens of use."""
    shipped = {name: one for name, one in concepts().items() if not one.is_rating}
    return my_concepts() | shipped


def choose_concept() -> str:
    """Draw the choice of a concept, kept in the URL, and return its id."""
    known = offered()
    said = st.query_params.get("concept")
    if said in known:  # the URL decides, so that links and the browser's history work
        st.session_state[CHOICE] = said
    elif st.session_state.get(CHOICE) not in known:
        st.session_state[CHOICE] = next(iter(known))
    return st.selectbox(
        "Concept",
        list(known),
        format_func=lambda name: f"{known[name].name} · {known[name].group}",
        key=CHOICE,
        on_change=_write_concept,
        persist_state="session",
    )


def _write_concept() -> None:
    st.query_params["concept"] = st.session_state[CHOICE]


def version(concept_id: str, *, with_directions: bool = False) -> str:
    """Return what changes when a concept's examples do, or its directions: older results are not shown."""
    if not is_mine(concept_id):
        return ""
    found = user_concepts.stored(concept_id)
    content = json.dumps([found.concept.source["rows"], sorted(found.keys) if with_directions else []])
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:12]


def headline(found: Stored) -> tuple[str, str, dict[str, Any]]:
    """Return the method and site that a concept was made with, and what its slider was found to do."""
    key, swept = next((key, swept) for key, swept in found.measured["calibration"].items() if "." in key)
    method, site = key.split(".")
    return method, site, swept


def steer_link(found: Stored) -> None:
    """Lead to the steering page with a concept's slider at its best strength."""
    method, site, swept = headline(found)
    query = {"v": "1", "dials": f"{found.concept.id}:{round(100 * swept['best'], 1):g}", "prompt": TRIED_WITH}
    query |= {} if (method, site) == ("rfm", "response") else {"method": method, "site": site}
    st.page_link(
        STEERING_PAGE, label=":primary[**Try it on the steering page**]", icon=":material/tune:", query_params=query
    )


def percent_band(ends: tuple[float, float] | list[float] | None) -> str:
    """Write a band of strengths in percent of the residual norm."""
    if not ends:
        return "none"
    low, high = (f"{100 * end:.2g}" for end in ends)
    return f"{low} %" if low == high else f"{low}–{high} %"


def key_label(key: str, sites: int = 2) -> str:
    """Name "method.site" shortly; the site only where there are several."""
    method, site = key.split(".")
    return f"{SHORT_METHODS[method]}, {SHORT_SITES[site]}" if sites > 1 else SHORT_METHODS[method]


def method_and_site(prefix: str) -> tuple[str, str]:
    """Draw the choice of a method and a site."""
    left, right = st.columns(2)
    method = left.selectbox(
        "Method", list(METHODS), format_func=METHODS.__getitem__, key=f"{prefix}_method", persist_state="session"
    )
    site = right.selectbox(
        "Activations taken at",
        list(SITES),
        format_func=SITES.__getitem__,
        key=f"{prefix}_site",
        persist_state="session",
    )
    return method, site
