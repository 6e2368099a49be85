"""Find, calibrate and evaluate concept directions in the default model, and put them into `assets/directions/`.

    python assets/ship_directions.py [CONCEPT …]           all that are not there yet, or those named, anew
    python assets/ship_directions.py --table               print the README's tables
    python assets/ship_directions.py --answer              record the answer that the page shows at first

Each concept gives ID.safetensors (directions in all blocks) and ID.json (measurements). The
concepts of `THOROUGH` are evaluated on 20 prompts with three seeds and compared with every method on ten of them; the
others on 20 prompts with one seed.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lm_core.artifacts import asset_path, atomic_write  # noqa: E402
from lm_core.concepts import Concept, Example, concepts, facts, find_concept, measured  # noqa: E402
from lm_core.device import choose_device  # noqa: E402
from lm_core.llm.activations import collect  # noqa: E402
from lm_core.llm.calibrate import STRENGTHS, Plan, measure_concept  # noqa: E402
from lm_core.llm.directions import fit_directions  # noqa: E402
from lm_core.llm.model import LanguageModel, open_model  # noqa: E402
from lm_core.run_llm import record  # noqa: E402
from lm_core.steer_params import DEFAULT_MODEL, METHODS, SteerParams  # noqa: E402

THOROUGH = ("spanish", "french", "german", "shakespearean", "angry", "python", "review-rating")
# The other methods' directions at the last prompt token would cost 1.5 MB of the checkout.
WHICH = [*((method, "response") for method in METHODS), ("rfm", "last"), ("mean_difference", "last")]
BLOCKS = (6, 25)  # of 30
THOROUGH_PLAN = Plan(BLOCKS, other_prompts=10)
BRIEF_PLAN = Plan(BLOCKS, strengths=STRENGTHS[1:], calibration_prompts=3, seeds=(0,), other_prompts=0)


class Library:
    """Activations of examples that several concepts share, such as the neutral answers, read once."""

    def __init__(self, lm: LanguageModel):
        self.lm, self.read = lm, {}

    def __call__(self, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        new = [one for one in examples if replace(one, target=0.0) not in self.read]
        if new:
            activations, norms = collect(self.lm, new)
            found = zip(activations.half(), norms, strict=True)
            self.read |= {replace(one, target=0.0): pair for one, pair in zip(new, found, strict=True)}
        activations, norms = zip(*(self.read[replace(one, target=0.0)] for one in examples), strict=True)
        return torch.stack(activations).float(), torch.stack(norms)


def ship(lm: LanguageModel, library: Library, name: str) -> None:
    """Find, measure and write one concept."""
    concept = find_concept(name)
    plan = THOROUGH_PLAN if name in THOROUGH else BRIEF_PLAN
    print(name, "reading and fitting", flush=True)
    found = fit_directions(lm, concept, WHICH, library)
    facts = measure_concept(lm, concept, found, plan, lambda share: print(f"{name} {share:.0%}", flush=True))
    facts["command"] = f"python assets/ship_directions.py {name}"
    folder = asset_path("directions")
    folder.mkdir(exist_ok=True)
    found.write(folder / f"{name}.safetensors", small=True)
    content = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    atomic_write(folder / f"{name}.json", content.encode())
    e = facts["evaluation"]
    print(name, {key: e[key] for key in ("method", "site", "strength", "steered", "unsteered", "random", "prompted")})
    print(name, "works" if e["works"] else "FAILS", e["fluent"], facts["seconds"], "s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONCEPT")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--answer", action="store_true")
    options = parser.parse_args()
    if options.answer:
        print(record(first_answer()).name)
        return
    if options.table:
        print(table())
        return
    lm = open_model(DEFAULT_MODEL, choose_device("auto"))
    library = Library(lm)
    rest = [name for name in (*THOROUGH, *concepts()) if measured(name) is None]
    for name in options.names or dict.fromkeys(rest):
        ship(lm, library, name)


def first_answer() -> SteerParams:
    """Return what the page asks for when nobody has asked for anything."""
    known = facts("shakespearean", DEFAULT_MODEL, "rfm", "response")
    assert known is not None
    return SteerParams("What do you think about the city of London?", ("shakespearean",), (known.best,))


def table() -> str:
    """Return the README's two tables: what every shipped concept's steering does, and the methods side by side."""
    head = ("concept", "unit", "unsteered", "in words", "random", "**steered**", "gain, 95 %", "fluent", "nats a token")
    effects = ["| " + " | ".join([*head, "site, strength", "usable"]) + " |"]
    effects.append("|---" * (len(head) + 2) + "|")
    methods = [
        "| concept | " + " | ".join(f"{METHODS[m]}, {s}" for m, s in WHICH) + " |",
        "|---" * (len(WHICH) + 1) + "|",
    ]
    for name, concept in concepts().items():
        found = measured(name)
        if found is not None:
            effects.append(effect_row(concept, found))
            methods.append(method_row(concept, found))
    return "\n".join([*effects, "", *methods])


def effect_row(concept: Concept, found: dict) -> str:
    """Return a concept's row: means over the evaluation's texts, the interval of the gain over the better control."""
    e = found["evaluation"]
    known = facts(concept.id, found["model"], e["method"], e["site"])
    assert known is not None
    band = "–".join(f"{100 * s:.1f}" for s in known.band) + " %" if known.band else "none"
    low, high = known.effect["interval"]
    means = [f"{e[key]:.2f}" for key in ("unsteered", "prompted", "random", "steered")]
    means[3] = f"**{means[3]}**" if e["works"] else means[3]
    cells = [concept.name, known.unit, *means, f"{low:.2f} … {high:.2f}", f"{e['fluent']['steered']:.0%}"]
    cells.append(f"{e['nll']['unsteered']:.1f} → {e['nll']['steered']:.1f}" if "nll" in e else "–")
    return "| " + " | ".join([*cells, f"{e['site']}, {e['strength']:.1%}", band]) + " |"


def method_row(concept: Concept, found: dict) -> str:
    """Return a concept's row: each direction's judge at its own best strength, fluent share in brackets if below 1."""
    cells = []
    for method, site in WHICH:
        key = f"{method}.{site}"
        swept = found["calibration"].get(key)
        if swept is None:
            cells.append("–")
            continue
        at = next(point for point in swept["sweep"] if point["strength"] == swept["best"])
        at = found["evaluation"]["others"].get(key, at)
        if (found["evaluation"]["method"], found["evaluation"]["site"]) == (method, site):
            at = {"judge": found["evaluation"]["steered"], "fluent": found["evaluation"]["fluent"]["steered"]}
        cells.append(f"{at['judge']:.2f}" + (f" ({at['fluent']:.0%})" if at["fluent"] < 1 else ""))
    return f"| {concept.name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
