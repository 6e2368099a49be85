"""A fitted detector: from activations to one score that says how much of a concept is there; its file.

A block's activations are projected on the concept's directions; a readout makes one score of the projections of one
block, or of all blocks side by side (Beaglehole et al. 2026). `lm_core.llm.detectors` fits them.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lm_core import ranking
from lm_core.artifacts import atomic_write
from lm_core.errors import AssetError
from lm_core.llm.model import LanguageModel
from lm_core.llm.readouts import READOUTS, Readout

FORMAT = "1"
WINDOW = 8  # tokens


def _nothing() -> Tensor:
    return torch.zeros(0)


@dataclass(frozen=True, eq=False)
class Detector:
    """A fitted detector.

    Attributes:
        method: how directions were found; aggregate: "best" block, or how all blocks become one score.
        blocks: whose projections the score reads.
        vectors: [layer, p, d_model] unit rows, the concept on their positive side; zero in the first block.
        centre: [layer, p] what the training rows' mean projects to.
        norms: [layer] typical length of an activation, the unit of `heat`.
        readout: projections less their centre, of `blocks`, to a score: the higher, the more of the concept.
        validation: AUROC (correlation of real targets) on the validation rows.
        held_scores, held_targets: [m] of rows that had no part in the fit (±1, or centred numbers).
        token_scores: [t] of single tokens in such rows' texts without the concept; peaks: [k] the highest level (see
            `levels`) in each of those texts. Empty where nobody has read any.
        concept, model, model_sha256, site: where it comes from, "" if nobody has said.
    """

    method: str
    aggregate: str
    blocks: tuple[int, ...]
    vectors: Tensor
    centre: Tensor
    norms: Tensor
    readout: Readout
    validation: float
    held_scores: Tensor = field(default_factory=_nothing)
    held_targets: Tensor = field(default_factory=_nothing)
    token_scores: Tensor = field(default_factory=_nothing)
    peaks: Tensor = field(default_factory=_nothing)
    concept: str = ""
    model: str = ""
    model_sha256: str = ""
    site: str = ""

    def project(self, activations: Tensor) -> Tensor:
        """Return projections [..., layer, p], less their centre, of activations [..., layer, d_model]."""
        return torch.einsum("...ld,lpd->...lp", activations.float(), self.vectors.to(activations.device)) - (
            self.centre.to(activations.device)
        )

    def score(self, projections: Tensor) -> Tensor:
        """Return scores [...] of projections [..., layer, p]."""
        return self.readout(projections[..., list(self.blocks), :].flatten(-2))

    def scores(self, activations: Tensor) -> Tensor:
        """Return scores [n] of activations [n, layer, d_model]; the rows may be texts or single tokens."""
        return self.score(self.project(activations))

    def heat(self, projections: Tensor) -> Tensor:
        """Return ⟨h − centre, v⟩ in residual norms [..., layer] on the first direction of every block."""
        return projections[..., 0] / self.norms.to(projections)

    def threshold(self, false_positive_rate: float) -> float:
        """Return the score above which at most that share of the held-out texts without the concept lies."""
        return ranking.threshold(self.held_scores[self.held_targets < 0].numpy(), false_positive_rate)

    def token_threshold(self, false_positive_rate: float) -> float:
        """Return the score above which at most that share of the tokens without the concept lies."""
        return ranking.threshold(self.token_scores.numpy(), false_positive_rate)

    def alarm_threshold(self, false_positive_rate: float) -> float:
        """Return the level that at most that share of the texts without the concept ever passes."""
        return ranking.threshold(self.peaks.numpy(), false_positive_rate)

    def check_model(self, lm: LanguageModel) -> None:
        """Raise AssetError unless the detector was fitted in this very model."""
        if self.model_sha256 != lm.sha256:
            raise AssetError(
                f"The detector of {self.concept} was fitted in {self.model} ({self.model_sha256[:12]}…), not in "
                f"{lm.name} ({lm.sha256[:12]}…); fit it anew."
            )

    def pack(self) -> bytes:
        """Return the content of a safetensors file."""
        tensors = {name: getattr(self, name).float() for name in TENSORS}
        tensors |= {f"readout.{one.name}": getattr(self.readout, one.name) for one in fields(self.readout)}
        tensors["vectors"] = self.vectors.half()  # fitted ones are rounded already
        facts = {name: str(getattr(self, name)) for name in FACTS}
        facts |= {"format": FORMAT, "readout": self.readout.kind, "blocks": json.dumps(self.blocks)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)

    def write(self, path: Path) -> None:
        """Write the safetensors file."""
        atomic_write(path, self.pack())


TENSORS = ("centre", "norms", "held_scores", "held_targets", "token_scores", "peaks")
FACTS = ("method", "aggregate", "validation", "concept", "model", "model_sha256", "site")


def levels(strip: Tensor) -> Tensor:
    """Return what an alarm goes by [..., t]: the mean score of the last eight tokens, for one alone is noisy."""
    return torch.from_numpy(ranking.trailing_mean(strip.cpu().numpy(), WINDOW)).float()


def read_detector(path: Path) -> Detector:
    """Read a detector's file.

    Raises:
        AssetError: it is missing, of another version, or no file of a detector.
    """
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts, tensors = header["__metadata__"], load(content)
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']}, this program reads {FORMAT}")
        kind = READOUTS[facts["readout"]]
        known: dict[str, Any] = {name: tensors[name] for name in TENSORS} | {name: facts[name] for name in FACTS}
        known["validation"] = float(facts["validation"])
        known["blocks"] = tuple(json.loads(facts["blocks"]))
        known["vectors"] = tensors["vectors"].float()
        known["readout"] = kind(**{one.name: tensors[f"readout.{one.name}"] for one in fields(kind)})
        return Detector(**known)
    except OSError as error:
        raise AssetError(f"The detector {path.name} can't be read: {error.strerror}; check the path.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path.name} is no file of a detector ({error}); fit the detector anew.") from None
