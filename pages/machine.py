"""Machine: the device and its memory, what is installed and verified, how long the queue is, and how to free memory."""

import os
import sys

import psutil
import streamlit as st

from lm_core.device import process_memory_bytes, release_memory
from lm_core.jobs import scheduler
from pages.components import look, readiness
from pages.components.machine_indexes import index_files

QUEUE_LOOK_SECONDS = 3


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def device_figures() -> None:
    """Show what is known of the device, and of the process that serves this page."""
    report, memory = readiness.verified_report(), psutil.virtual_memory()
    with st.grid(4, min_column_width=170, border=True) as grid:
        grid.metric("CPU cores", os.cpu_count() or 1, help="Logical cores of the machine that serves this page.")
        grid.metric("Memory free", gigabytes(memory.available), help=f"Of {gigabytes(memory.total)}.")
        grid.metric("This app holds", gigabytes(process_memory_bytes()), help="Resident memory of the app's process.")
        grid.metric("torch", "loaded" if "torch" in sys.modules else "not yet", help="Loaded by the first job.")
    if report is not None:
        device = report["device"]
        st.markdown(
            f"Computing on **{device['name']}** ({device['kind']}): {gigabytes(device['memory_free'])} of "
            f"{gigabytes(device['memory_total'])} free, {device['threads']} threads, training in {device['dtype']}. "
            f"Python {report['python']}, torch {report['torch']}."
        )


def installed() -> None:
    """List data sets, networks and precomputed results with their state, and what to do about those not in order."""
    if st.button("Verify every file", key="examine", type="primary", icon=":material/fact_check:"):
        readiness.examine()
        st.rerun()
    look.figure_caption("Unpacks each file, compares its SHA-256, and asks for the device: some seconds.")
    report = readiness.verified_report()
    for group, title in readiness.GROUPS.items():
        st.subheader(title, anchor=False)
        names = readiness.presence()[group] if report is None else report[group]
        if not names:
            st.markdown(":gray[None shipped yet.]")
        for name in names:
            word, icon, colour = readiness.state(group, name)
            found = report[group][name] if report is not None else {"detail": "", "remedy": None}
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                st.badge(word, icon=icon, color=colour)
                st.markdown(f"**{name}**", width="content")
                if found["detail"]:
                    st.text(found["detail"], width="content")
            if found["remedy"] and found["remedy"] not in found["detail"]:
                look.figure_caption(found["remedy"])


@st.fragment(run_every=QUEUE_LOOK_SECONDS)
def queue() -> None:
    """Show how many jobs run and wait; never whose or what."""
    running, waiting, limit = scheduler().lengths()
    with st.container(horizontal=True):
        st.metric("Running", running, width="content")
        st.metric("Waiting", waiting, width="content")
    look.figure_caption(
        f"One job runs at a time, first come, first served; at most {limit} wait, one of each visitor. A job ends when "
        "its page is closed, and its result is kept for ten minutes."
    )


def memory() -> None:
    """Offer to drop what can be loaded again."""
    st.markdown(
        "Data sets, patch tables, networks and the language model stay in memory once used, so that the next job is "
        "quick. Freeing drops them for every visitor; nothing is lost, and the next job loads what it needs again."
    )
    if st.button("Free memory", key="free_memory", icon=":material/delete_sweep:"):
        st.cache_data.clear()
        st.success(f"Freed {release_memory() / 1e6:,.0f} MB.", icon=":material/check:")


look.page_header("Machine", "What this computer offers the lab, what is installed, and how busy it is.")
device_figures()
st.header("Installed", anchor=False)
installed()
st.header("Queue", anchor=False)
queue()
st.header("Index files", anchor=False)
index_files()
st.header("Memory", anchor=False)
memory()
