"""What the concept lab is asked for: frozen, validated once, torch-free."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lm_core.errors import ParameterError
from lm_core.example_rows import FEWEST_NUMBERS, KINDS, Row, require_enough
from lm_core.judges import judge
from lm_core.params import require_int
from lm_core.steer_params import DEFAULT_MODEL, METHODS, SITES
from lm_core.user_source import MOST_FOLDED, clean_name, clean_words

MOST_COMPARED_PROMPTS = 20


@dataclass(frozen=True)
class LabParams:
    """A concept to be made.

    Attributes:
        name: for people; the id comes from it.
        kind: "texts" (targets 1 and 0), "numbers" (any targets) or "prefix".
        rows: the examples of the first two kinds, as `example_rows` reads them.
        prefix: of the third, such as "Speak like a pirate."; it stands before everyday statements.
        statements: how many of these, 16 … 64; each makes an example with the prefix and one without.
        ask: the concept asked for in words, for the prompted baseline; "" for the prefix, or words with the name.
        judge: specification for `judges.judge`, {} for the concept's own directions as the only witness.
        method, site, model: as in `SteerParams`.
    """

    name: str
    kind: str = "texts"
    rows: tuple[Row, ...] = ()
    prefix: str = ""
    statements: int = 24
    ask: str = ""
    judge: dict[str, Any] = field(default_factory=dict)
    method: str = "rfm"
    site: str = "response"
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        if self.kind not in KINDS:
            raise ParameterError(f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}.")
        is_prefix = self.kind == "prefix"
        object.__setattr__(self, "name", clean_name(self.name))
        object.__setattr__(self, "prefix", clean_words("prefix", self.prefix, least=is_prefix))
        object.__setattr__(self, "ask", clean_words("ask", self.ask))
        _require_choices(("method", self.method, METHODS), ("site", self.site, SITES))
        if is_prefix:
            require_int("statements", self.statements, FEWEST_NUMBERS, MOST_FOLDED // 2)
        else:
            require_enough(self.rows, self.kind)
        if self.judge:
            judge(self.judge)

    @property
    def asked(self) -> str:
        """The words that ask for the concept."""
        generic = "Answer with much of this" if self.kind == "numbers" else "Answer in this style"
        return self.ask or self.prefix or f"{generic}: {self.name}."

    def key(self) -> str:
        """Return a short content hash."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CompareParams:
    """Methods and sites to put side by side for a concept, shipped or the user's own.

    Attributes:
        methods, sites: keys of `METHODS` and `SITES`, each at least one.
        prompts: held-out prompts that every strength of every method answers, 2 … 20.
    """

    concept: str
    methods: tuple[str, ...] = tuple(METHODS)
    sites: tuple[str, ...] = tuple(SITES)
    prompts: int = 6
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        for name, allowed in (("methods", METHODS), ("sites", SITES)):
            values = tuple(dict.fromkeys(getattr(self, name)))
            object.__setattr__(self, name, values)
            if not values:
                raise ParameterError(f"{name} is empty; choose at least one of {', '.join(allowed)}.")
            _require_choices(*((name, value, allowed) for value in values))
        require_int("prompts", self.prompts, 2, MOST_COMPARED_PROMPTS)


def _require_choices(*choices: tuple[str, str, dict[str, str]]) -> None:
    for name, value, allowed in choices:
        if value not in allowed:
            raise ParameterError(f"{name} is {value!r}; choose one of {', '.join(allowed)}.")
