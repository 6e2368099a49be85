"""What the language pages and commands get back: frozen, torch-free."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_core.steer_params import SteerParams


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
    blocks: int
    present: bool
