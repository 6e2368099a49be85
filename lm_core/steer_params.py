"""What a steered answer is asked for: frozen, validated once, torch-free."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lm_core.errors import ParameterError
from lm_core.params import MAX_SEED, require_int

DEFAULT_MODEL = "smollm2-135m-instruct"
METHODS = {
    "rfm": "Recursive feature machine",
    "mean_difference": "Difference of means",
    "logistic": "Logistic regression",
    "linear": "Linear regression (ridge)",
    "pca": "First principal component",
}
SITES = {"response": "Mean over the response", "last": "Last prompt token"}
MAX_CONCEPTS = 6
MAX_STRENGTH = 1.0  # the added vector is as long as the residual stream itself: nothing survives that
MAX_TOKENS = 400
MAX_PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class SteerParams:
    """One prompt, answered unsteered, asked for in words, and steered.

    Attributes:
        prompt: what the user says to the model, 1 … 4,000 characters.
        concepts: ids of up to six concepts, or none.
        strengths: one for each concept: signed length of the added vector as a fraction of the block's typical residual
            norm.
        method, site: how and where the directions were found: a key of `METHODS`, of `SITES`.
        blocks: first and last steered block, zero-based and inclusive; None for each concept's calibrated blocks.
        seed: of the sampling noise, the same for all rows.
        tokens: longest answer.
        temperature: 0 for the most probable token each time.
        top_p: nucleus of the next-token distribution that is sampled from.
        repetition_penalty: divides the (positive) logits of tokens already written.
        model: smollm2-135m-instruct, another transformers name, or a local folder.
    """

    prompt: str
    concepts: tuple[str, ...] = ()
    strengths: tuple[float, ...] = ()
    method: str = "rfm"
    site: str = "response"
    blocks: tuple[int, int] | None = None
    seed: int = 0
    tokens: int = 60
    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.15
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        for name in ("concepts", "strengths", "blocks"):
            value = getattr(self, name)
            if name != "blocks" or value is not None:
                if not isinstance(value, list | tuple):
                    raise ParameterError(f"{name} is {value!r}; give a list.")
                object.__setattr__(self, name, tuple(value))
        self._check_prompt()
        self._check_concepts()
        if self.method not in METHODS:
            raise ParameterError(f"method is {self.method!r}; choose one of {', '.join(METHODS)}.")
        if self.site not in SITES:
            raise ParameterError(f"site is {self.site!r}; choose one of {', '.join(SITES)}.")
        require_int("seed", self.seed, 0, MAX_SEED)
        require_int("tokens", self.tokens, 1, MAX_TOKENS)
        _require_float("temperature", self.temperature, 0.0, 2.0)
        _require_float("top_p", self.top_p, 0.05, 1.0)
        _require_float("repetition_penalty", self.repetition_penalty, 1.0, 2.0)
        for name in ("temperature", "top_p", "repetition_penalty"):
            object.__setattr__(self, name, float(getattr(self, name)))  # equal parameters have equal keys
        object.__setattr__(self, "strengths", tuple(map(float, self.strengths)))
        whole = self.blocks is None or all(type(block) is int for block in self.blocks)
        if self.blocks is not None and not (whole and len(self.blocks) == 2 and 0 <= self.blocks[0] <= self.blocks[1]):
            raise ParameterError(f"blocks are {self.blocks}; give the first and the last, zero-based, first ≤ last.")

    def _check_prompt(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ParameterError("prompt is empty; write what the model should answer.")
        if len(self.prompt) > MAX_PROMPT_CHARACTERS:
            raise ParameterError(
                f"prompt has {len(self.prompt):,} characters; give at most {MAX_PROMPT_CHARACTERS:,}: shorten it."
            )

    def _check_concepts(self) -> None:
        if len(self.concepts) > MAX_CONCEPTS:
            raise ParameterError(f"{len(self.concepts)} concepts are given; choose at most {MAX_CONCEPTS}.")
        if len(set(self.concepts)) < len(self.concepts):
            raise ParameterError(f"concepts are {', '.join(self.concepts)}; name each only once.")
        if len(self.strengths) != len(self.concepts):
            raise ParameterError(
                f"{len(self.strengths)} strengths are given for {len(self.concepts)} concepts; give one for each."
            )
        for concept, strength in zip(self.concepts, self.strengths, strict=True):
            _require_float(f"the strength of {concept}", strength, -MAX_STRENGTH, MAX_STRENGTH)

    def with_(self, **changes: Any) -> "SteerParams":
        """Return a validated copy with some fields changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SteerParams":
        """Return the parameters that `as_dict` described; unknown names are refused."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ParameterError(f"{', '.join(sorted(unknown))} is no parameter of steering.")
        if "prompt" not in values:
            raise ParameterError("prompt is missing; write what the model should answer.")
        return cls(**values)

    def key(self) -> str:
        """Return a short content hash, the same for equal parameters on every machine."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _require_float(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ParameterError(f"{name} is {value!r}; choose a number from {low:g} to {high:g}.")
