"""The choice among a page's sections, by pills, with its short name in the URL."""

from collections.abc import Callable, Sequence

import streamlit as st


def choose_section(parameter: str, names: Sequence[str], label: Callable[[str], str], key: str | None = None) -> str:
    """Draw the choice and return it; the first where the URL says nothing.

    Args:
        parameter: in the URL; a bound widget would write the long label.
        label: of a name; key: of the widget, the parameter's name if None.
    """
    widget, said = key or parameter, st.query_params.get(parameter)
    if said in names:  # the URL decides, so that links and the browser's history work
        st.session_state[widget] = said

    def write() -> None:
        st.query_params[parameter] = st.session_state[widget]

    chosen = st.pills(
        parameter.capitalize(),
        list(names),
        default=None if said in names else names[0],
        required=True,
        format_func=label,
        key=widget,
        label_visibility="collapsed",
        on_change=write,
    )
    return chosen or names[0]
