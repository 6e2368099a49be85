"""Whether the machine is ready: what is here, at once; what `lm_core.doctor` verified, once somebody asked it."""

import streamlit as st

from lm_core import artifacts, cifar, doctor
from lm_core.errors import LabError
from lm_core.steer_params import DEFAULT_MODEL

GROUPS = {
    "data": "Data sets",
    "networks": "Trained networks",
    "presets": "Precomputed results",
    "models": "Language model",
}


@st.cache_resource(show_spinner=False)
def _last_report() -> dict:
    """Hold the process's latest report, empty before the first."""
    return {}


def verified_report() -> dict | None:
    """Return the latest report of `examine`, None before the first."""
    return _last_report() or None


def examine() -> None:
    """Have `doctor` unpack and hash every file and ask for the device: some seconds, and torch is loaded."""
    with st.spinner("Unpacking and checking every file, and asking for the device …"):
        _last_report().update(doctor.report())


@st.cache_data(ttl=30, show_spinner=False)
def presence() -> dict[str, dict[str, bool]]:
    """Return which of the things the lab can use have their files here, unverified: group → name → present."""
    shipped = artifacts.manifest()
    files = {
        "data": {name: _files(entry["splits"]) for name, entry in shipped["data"].items()},
        "networks": {name: [entry["file"]] for name, entry in shipped["networks"].items()},
        "presets": {name: [entry["file"]] for name, entry in shipped["presets"].items()},
    }
    here = {
        group: {name: all(artifacts.asset_path(file).exists() for file in paths) for name, paths in members.items()}
        for group, members in files.items()
    }
    converted = artifacts.model_cache(DEFAULT_MODEL) / "model.safetensors"
    here["models"] = {DEFAULT_MODEL: converted.is_file()}
    try:
        cifar.find(artifacts.search_paths())
        here["data"]["cifar10"] = True
    except LabError:
        here["data"]["cifar10"] = False
    return here


def _files(splits: dict) -> list[str]:
    return [part["file"] for parts in splits.values() for part in parts.values()]


def state(group: str, name: str) -> tuple[str, str, str]:
    """Return in a word how it is with one thing, and the icon and colour of its badge."""
    report = verified_report()
    if report is not None and name in report[group]:
        found = report[group][name]
        if found["verified"]:
            return "verified", ":material/verified:", "green"
        if found["present"]:
            return "present, not as shipped", ":material/warning:", "orange"
    elif presence()[group].get(name):
        return "present", ":material/check:", "blue"
    return ("yours to add", ":material/add:", "gray") if name == "cifar10" else ("missing", ":material/error:", "red")


def summary() -> None:
    """Show a line of badges for each group, and the device once it is known."""
    try:
        here = presence()
    except LabError as error:
        st.error(str(error), icon=":material/error:")
        return
    for group, title in GROUPS.items():
        if not here[group]:
            continue
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            st.markdown(f"**{title}**", width="content")
            for name in here[group]:
                word, icon, colour = state(group, name)
                st.badge(f"{name} · {word}" if word not in ("verified", "present") else name, icon=icon, color=colour)
    report = verified_report()
    if report is not None:
        device = report["device"]
        st.markdown(f"**Device** {device['name']} ({device['kind']}), {device['memory_free'] / 1e9:.1f} GB free")
