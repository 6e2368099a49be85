"""The command line: `python -m lm_core COMMAND …`; with --json one object on standard output, logs on standard error.

Exit status 0, or 2 with one clear line when the input can't be used.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lm_core import run
from lm_core.errors import LabError, ParameterError
from lm_core.params import ENGINES, MACHINES, MosaicParams, parse_patch_sizes
from lm_core.ranking import FALSE_POSITIVE_RATE
from lm_core.run_index import SIZES
from lm_core.steer_params import DEFAULT_MODEL, SteerParams


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise ParameterError(f"{message} (see `{self.prog} --help`)")


def log(message: str) -> None:
    """Write a line on standard error."""
    print(message, file=sys.stderr, flush=True)


def parse_seeds(text: str) -> list[int]:
    """Read "0-9", "3" or "0,4,7-9"."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        raise ParameterError(f"seeds are {text!r}; give numbers and ranges, for example 0-9 or 1,4,7.") from None
    return seeds


def mosaic_params(options: argparse.Namespace, seed: int = 0) -> MosaicParams:
    """Turn the options of `mosaic` and `compare` into parameters; images left out means 1,000 or all if fewer."""
    from lm_core.artifacts import load_dataset
    from lm_core.survey import own_machine

    params = MosaicParams(
        dataset=options.dataset,
        label=options.label,
        machine=options.machine or own_machine(options.network or "unet"),
        network=options.network,
        seed=seed,
        images=options.images,
        steps=options.steps,
        patch_sizes=parse_patch_sizes(options.patch_sizes, options.steps) if options.patch_sizes else None,
        engine=options.engine,
        tolerance=options.tolerance,
    )
    if params.images is None:
        label = run.resolve(params).label
        available = len(load_dataset(params.dataset).take(None, label).images)
        params = params.with_(images=min(run.DEFAULT_IMAGES, available))
    return params


def doctor(options: argparse.Namespace) -> dict[str, Any]:
    """Report device, memory, data sets and weights."""
    from lm_core.doctor import format_report, report

    facts = report()
    if not options.json:
        print(format_report(facts))
    return facts


def command_line() -> str:
    """Return the command that is running, as one would repeat it; paths without this machine's folders."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:] if word != "--json"]
    return " ".join(["python -m lm_core", *words])


def output_file(name: str) -> Path:
    """Return where to write, refused before anything is computed if it is a folder."""
    if Path(name).is_dir():
        raise ParameterError(f"out is {name!r}, a folder; name a file in it.")
    return Path(name)


def load_noise(path: str) -> np.ndarray:
    """Read an array from an .npy file."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ParameterError(f"noise can't be read from {path!r} ({error}); give an .npy file of numbers.") from None


def mosaic(options: argparse.Namespace) -> dict[str, Any]:
    """Make one mosaic and write it as npz."""
    params, out = mosaic_params(options, options.seed), output_file(options.out)
    noise = load_noise(options.noise) if options.noise else None
    shown = [-1]

    def progress(share: float, message: str, partial: Any) -> None:
        if int(10 * share) != shown[0]:
            shown[0] = int(10 * share)
            log(f"{share:4.0%}  {message}")

    result = run.mosaic(params, device=options.device, noise=noise, on_progress=progress)
    result.save(out)
    facts = {"params": result.params.as_dict(), "scores": result.scores, "nearest": result.nearest}
    facts |= {"out": options.out, "seconds": round(result.seconds, 2)} | {"provenance": result.provenance}
    if not options.json:
        for who, score in result.scores.items():
            print(f"{who} against {params.network}: " + "  ".join(f"{k} = {v:.3f}" for k, v in score.items()))
        print(f"{options.out} in {result.seconds:.1f} s")
    return facts


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Compare machine and network over seeds."""
    seeds = parse_seeds(options.seeds)
    facts = run.compare(
        mosaic_params(options),
        seeds,
        network_steps=options.network_steps,
        device=options.device,
        on_progress=lambda share, message: log(f"{share:4.0%}  {message}"),
    )
    if not options.json:
        for who in ("median", "ideal"):
            print(f"{who}: " + "  ".join(f"{name} = {value:.3f}" for name, value in facts[who].items()))
    return facts


def survey(options: argparse.Namespace) -> dict[str, Any]:
    """Compare a network with every machine over many seeds; writes assets/results/survey-… and its gallery."""
    from lm_core import run_survey
    from lm_core.survey import Survey

    facts = run_survey.survey(
        options.dataset,
        options.network,
        parse_seeds(options.seeds),
        options.images,
        also=options.also,
        device=options.device,
        command=command_line(),
        on_progress=lambda share, message, rows: log(f"{share:4.0%}  {message}"),
    )
    if not options.json:
        for machine in facts["machines"]:
            value, low, high = Survey(facts).median(machine, 20)
            print(f"{machine}: median r = {value:.3f} ({low:.3f} to {high:.3f}), network at 20 steps")
    return facts


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Measure how agreement depends on images, steps and training; writes assets/results/growth-…"""
    from lm_core import run_survey

    return run_survey.growth(
        options.dataset,
        options.network,
        parse_seeds(options.seeds),
        options.images,
        by_images=run_survey.BY_IMAGES if "images" in options.by else (),
        by_steps=run_survey.BY_STEPS if "steps" in options.by else (),
        snapshots=[Path(path) for path in options.snapshots],
        device=options.device,
        command=command_line(),
        on_progress=lambda share, message: log(f"{share:4.0%}  {message}"),
    )


def limits(options: argparse.Namespace) -> dict[str, Any]:
    """Measure how many pixels of an image aren't locally consistent; writes assets/results/consistency-…"""
    from lm_core import run_limits
    from lm_core.artifacts import write_json
    from lm_core.survey import own_machine, result_file

    params = MosaicParams(
        options.dataset, None, own_machine(options.network), options.network, 0, options.images, engine="fast"
    )
    facts = run_limits.consistency(
        params,
        parse_seeds(options.steps),
        parse_seeds(options.seeds),
        library=options.library,
        device=options.device,
        on_progress=lambda share, message, partial: log(f"{share:4.0%}  {message}"),
    )
    facts["command"] = command_line()
    write_json(result_file("consistency", options.dataset, options.network), facts)
    return facts


def calibrate(options: argparse.Namespace) -> dict[str, Any]:
    """Find a network's patch-size curve and measure its receptive field."""
    from lm_core import run_calibrate

    facts = run_calibrate.calibrate(
        mosaic_params(options),
        parse_seeds(options.seeds),
        list(range(3, options.largest + 1, 2)),
        rows=options.rows,
        device=options.device,
        on_progress=lambda share, message, partial: log(f"{share:4.0%}  {message}") if partial else None,
    )
    if options.ship:
        run_calibrate.write(facts, command_line())
    if not options.json:
        print("P, the lowest noise first:", *facts["patch_sizes"])
    return facts


def parse_minutes(text: str) -> tuple[float, ...]:
    """Read "1,3,10" as minutes, "" as none."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise ParameterError(f"snapshots are {text!r}; give minutes with commas, for example 1,3,10.") from None


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train a network and write its weights."""
    from lm_core.artifacts import load_dataset
    from lm_core.device import choose_device
    from lm_core.diffusion.networks import NetworkConfig, parse_network
    from lm_core.diffusion.train import TrainConfig, train_network
    from lm_core.diffusion.weights import read_metadata

    data, device, out = load_dataset(options.dataset), choose_device(options.device), output_file(options.out)
    named = parse_network(options.network)
    config = NetworkConfig(
        **named,
        channels=data.images.shape[1],
        width=options.width or {"unet": 32, "resnet": 48}[named["family"]],
        classes=len(data.class_names) if options.conditional else 0,
    )
    budget = TrainConfig(
        options.minutes, options.batch, options.learning_rate, objective=options.objective, seed=options.seed
    )
    train_network(
        data,
        config,
        budget,
        out,
        device=device,
        snapshots=parse_minutes(options.snapshots),
        start_from=Path(options.start_from) if options.start_from else None,
        command=command_line(),
        on_progress=lambda state, eta: log(
            f"step {state.step}  epoch {state.step * budget.batch / len(data.images):.2f}  loss {state.loss:.4f}  "
            f"{eta / 60:.1f} min left"
        ),
    )
    facts = read_metadata(out)
    if not options.json:
        print(json.dumps(facts, indent=1))
    return facts


def parse_concepts(parts: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Read "spanish=0.03" … as concepts and their strengths."""
    names, strengths = [], []
    for part in parts:
        name, _, strength = part.partition("=")
        try:
            strengths.append(float(strength))
        except ValueError:
            raise ParameterError(
                f"concept is {part!r}; give a name and a signed fraction of the residual norm: spanish=0.03."
            ) from None
        names.append(name)
    return tuple(names), tuple(strengths)


def parse_blocks(text: str | None) -> tuple[int, int] | None:
    """Read "6-25", the first and last steered block."""
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split("-"))
    except ValueError:
        raise ParameterError(f"blocks are {text!r}; give the first and the last, for example 6-25.") from None
    return first, last


def steer(options: argparse.Namespace) -> dict[str, Any]:
    """Answer a prompt unsteered, asked for in words, and steered."""
    from lm_core import run_llm
    from lm_core.concepts import find_concept

    names, strengths = parse_concepts(options.concept)
    for name in names:
        find_concept(name)
    plain = ("method", "site", "seed", "tokens", "temperature", "top_p", "repetition_penalty", "model")
    params = SteerParams(
        options.prompt,
        names,
        strengths,
        blocks=parse_blocks(options.blocks),
        **{name: getattr(options, name) for name in plain},
    )
    result = run_llm.steer(params, watched=options.watch, device=options.device)
    if not options.json:
        for row in result.rows:
            print(f"-- {row.title}: {json.dumps(row.metrics, ensure_ascii=False)}\n{row.text}\n")
    return result.as_dict()


def fit(options: argparse.Namespace) -> dict[str, Any]:
    """Find a concept's direction in every block, from a concept file or a shipped concept."""
    from lm_core import run_llm

    out = output_file(options.out)
    concept = run_llm.load_concept(options.concept_file)
    facts = run_llm.fit(concept, options.model, [options.method], [options.site], out, device=options.device)
    if not options.json:
        print(json.dumps(facts, indent=1))
    return facts


def detect(options: argparse.Namespace) -> dict[str, Any]:
    """Score each text of a file (a line, a CSV's row, a JSONL's object), and each token, for a concept."""
    from lm_core import run_monitor
    from lm_core.text_files import read_texts

    path = Path(options.text_file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ParameterError(f"text-file {options.text_file!r} can't be read ({error}); check the path.") from None
    texts, notices = read_texts(path.name, content)
    for notice in notices:
        log(notice)
    facts = run_monitor.batch(
        texts,
        options.concept,
        method=options.method,
        aggregate=options.aggregate,
        false_positive_rate=options.false_positive_rate,
        model=options.model,
        device=options.device,
        on_progress=lambda share, message, _: log(f"{share:4.0%} {message}"),
    )
    if not options.json:
        for one in facts["texts"]:
            print(f"{'ALARM ' if one['alarm'] else '      '}{one['score']:+.4f}  {one['text']}")
    return facts


def detection(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all concept detectors on an evaluation set, or on one's own copy of a published benchmark."""
    from lm_core import detection_results, run_detection

    facts = run_detection.table(
        options.set,
        options.path,
        limit=options.limit,
        model=options.model,
        device=options.device,
        command=command_line(),
        on_progress=lambda share, message, partial: log(f"{share:4.0%}  {message}"),
    )
    own = options.path or options.model != DEFAULT_MODEL
    path = detection_results.own_path(facts) if own or not options.ship else detection_results.result_path(options.set)
    detection_results.write(facts, path)
    if not options.json:
        print(facts["says"])
        print(f"{path.name} in {facts['seconds']['all']} s")
    return facts


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Convert the default language model once, so that later starts load it in a second."""
    from lm_core import run_llm

    facts = {"model": run_llm.prepare()}
    if not options.json:
        print(f"{facts['model']} is ready")
    return facts


def exhibit(options: argparse.Namespace) -> dict[str, Any]:
    """Run an exhibit of learning mechanics: prediction against experiment; a1 a2 b c1 c2 c3 d1 d2 e."""
    from lm_core import run_mechanics
    from lm_core.exhibit_params import ExhibitParams, find_exhibit

    found = find_exhibit(options.name)
    values: dict[str, Any] = {}
    for variant, asked in ((found.break_it, options.broken), (found.larger, options.larger)):
        if asked and variant is None:
            raise ParameterError(f"exhibit {found.id} has no larger size; leave --larger out.")
        values |= variant.values if asked and variant else {}
    for part in options.set:
        name, _, text = part.partition("=")
        values[name] = found.control(name).parse(text)
    result = run_mechanics.exhibit(
        ExhibitParams(found.id, values, options.seed),
        device=options.device,
        command=command_line(),
        on_progress=lambda share, message, panels: None,
    )
    if options.ship:
        run_mechanics.ship(result)
    if not options.json:
        print(result.outcome.verdict)
        for score in result.scores:
            bounds = f"  ({score.tolerance}: {'yes' if score.within else 'no'})" if score.tolerance else ""
            print(f"{score.name} = {'none' if score.value is None else format(score.value, '.5g')}{bounds}")
        print(f"{result.seconds:.1f} s on {result.device}")
    return result.as_dict()


def index(options: argparse.Namespace) -> dict[str, Any]:
    """Build the index files that speed up the fast engine's low-noise steps; those that are there already stay."""
    from lm_core import run_index

    named = {name: getattr(options, name) for name in ("machine", "sizes", "images", "label")}
    shown = [-1]

    def tell(share: float, message: str, _: Any) -> None:
        if int(10 * share) != shown[0]:
            shown[0] = int(10 * share)
            log(f"{share:4.0%}  {message}")

    facts = run_index.make(options.dataset, **named, on_progress=tell)
    if not options.json:
        for one in facts["indexes"].values():
            print(f"{one['file']}: {one['bytes'] / 1e6:.0f} MB" + ("" if one["built"] else ", was there already"))
    return facts


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Run one benchmark, or list them."""
    from lm_core import bench as benches

    if options.name == "list":
        facts: dict[str, Any] = {"benchmarks": {name: work.__doc__ for name, work in benches.BENCHMARKS.items()}}
    elif options.name in benches.BENCHMARKS:
        facts = {"command": f"python -m lm_core bench {options.name}"} | benches.BENCHMARKS[options.name]()
    else:
        raise ParameterError(f"benchmark is {options.name!r}; choose one of {', '.join(benches.BENCHMARKS)}, list.")
    if not options.json:
        print(json.dumps(facts, indent=1))
    return facts


def build_parser() -> argparse.ArgumentParser:
    """Describe every command."""
    parser = Parser(prog="python -m lm_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)

    def command(name: str, work: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=work.__doc__, description=work.__doc__)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.set_defaults(work=work)
        return sub

    def machine_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--dataset", default="mnist", help="mnist, fashion-mnist, emoji, cifar10 or a folder")
        sub.add_argument("--label", type=int, help="class index")
        sub.add_argument("--machine", help=f"{', '.join(MACHINES)}; default: what predicts the network, bbels or els")
        sub.add_argument("--images", type=int, help="training images, the first ones (default: 1,000 or all if fewer)")
        sub.add_argument("--steps", type=int, default=20)
        sub.add_argument("--patch-sizes", help="odd windows with commas, the noisiest step first; default: published")
        sub.add_argument("--engine", default="exact", help=", ".join(ENGINES))
        sub.add_argument("--tolerance", type=float, default=0.008, help="error the fast engine aims at, on [-1, 1]")
        sub.add_argument("--device", default="auto")

    command("doctor", doctor)
    sub = command("mosaic", mosaic)
    machine_options(sub)
    sub.add_argument("--network", help="a shipped network, or a file or folder; default: none")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--noise", help="an .npy file [C, H, W] to start from instead of the seed")
    sub.add_argument("--out", required=True)
    sub = command("compare", compare)
    machine_options(sub)
    sub.add_argument("--network", default="unet")
    sub.add_argument("--seeds", default="0-9")
    sub.add_argument("--network-steps", type=int)

    def survey_options(sub: argparse.ArgumentParser, seeds: str) -> None:
        sub.add_argument("--dataset", default="mnist")
        sub.add_argument("--network", default="unet")
        sub.add_argument("--seeds", default=seeds)
        sub.add_argument("--images", type=int, default=300, help="training images of the machines (of a class)")
        sub.add_argument("--device", default="auto")

    sub = command("survey", survey)
    survey_options(sub, "0-99")
    sub.add_argument("--also", nargs="*", default=[], help="more machines: els, es …")
    sub = command("growth", growth)
    survey_options(sub, "0-4")
    sub.add_argument("--by", nargs="*", default=[], choices=["images", "steps"])
    sub.add_argument("--snapshots", nargs="*", default=[], help="weights of one training, see train --snapshots")
    sub = command("limits", limits)
    survey_options(sub, "0-4")
    sub.add_argument("--steps", default="5,10,20,50,100")
    sub.add_argument("--library", type=int, default=3000, help="training images that the network is checked against")
    sub = command("calibrate", calibrate)
    machine_options(sub)
    sub.add_argument("--network", default="unet")
    sub.add_argument("--seeds", default="1000-1009", help="samples to calibrate on")
    sub.add_argument("--largest", type=int, default=31, help="largest window to try")
    sub.add_argument("--rows", type=int, help="rows of pixels looked at, drawn at random (32: all)")
    sub.add_argument("--ship", action="store_true", help="write assets/results/calibration-… too")
    sub = command("train", train)
    sub.add_argument("--dataset", default="mnist")
    sub.add_argument(
        "--network", default="unet", help="unet, resnet, either with -circular, unet-attention, unet-standard"
    )
    sub.add_argument("--width", type=int)
    sub.add_argument("--conditional", action="store_true", help="condition on the class")
    sub.add_argument("--minutes", type=float, default=30)
    sub.add_argument("--snapshots", default="", help="minutes with commas, after which to keep the weights as well")
    sub.add_argument("--batch", type=int, default=32)
    sub.add_argument("--learning-rate", type=float, default=1e-3, help="the peak")
    sub.add_argument("--objective", default="v", help="v, or eps as in the paper")
    sub.add_argument("--start-from", help="weights to begin with instead of random ones")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", default="auto")
    sub.add_argument("--out", required=True)
    language_options = {"method": "rfm", "site": "response", "device": "auto"}
    sub = command("steer", steer)
    sub.add_argument("--prompt", required=True)
    sub.add_argument("--concept", action="append", default=[], help="NAME=STRENGTH, a fraction of the residual norm")
    sub.add_argument("--watch", action="append", default=[], metavar="CONCEPT", help="have its detector read along")
    sub.add_argument("--blocks", help="first-last, zero-based; default: the calibrated ones")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--tokens", type=int, default=60)
    sub.add_argument("--temperature", type=float, default=0.7)
    sub.add_argument("--top-p", type=float, default=0.9)
    sub.add_argument("--repetition-penalty", type=float, default=1.15)
    sub.add_argument("--model", default=DEFAULT_MODEL, help="a transformers name or a local folder")
    for name, default in language_options.items():
        sub.add_argument(f"--{name}", default=default)
    sub = command("fit", fit)
    sub.add_argument("--concept-file", required=True, help="a JSON file as in assets/concepts, or a shipped concept")
    sub.add_argument("--out", required=True)
    sub.add_argument("--model", default=DEFAULT_MODEL)
    for name, default in language_options.items():
        sub.add_argument(f"--{name}", default=default)
    sub = command("detect", detect)
    sub.add_argument("--concept", required=True, help="a concept, one of your own (my-…), or a set (set:toxic)")
    sub.add_argument("--text-file", required=True, help="UTF-8 lines, a CSV with a column text, or JSONL")
    sub.add_argument("--method", default="rfm", help="whose directions")
    sub.add_argument("--aggregate", default="logistic", help="best, linear, logistic or rfm: how blocks make a score")
    sub.add_argument("--false-positive-rate", type=float, default=FALSE_POSITIVE_RATE, help="of texts without it")
    sub.add_argument("--model", default=DEFAULT_MODEL)
    sub.add_argument("--device", default="auto")
    sub = command("exhibit", exhibit)
    sub.add_argument("name", help="a1 a2 b c1 c2 c3 d1 d2 e")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a control's value")
    sub.add_argument("--break", dest="broken", action="store_true", help="out of the law's regime")
    sub.add_argument("--larger", action="store_true", help="sizes for a GPU")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", default="auto")
    sub.add_argument("--ship", action="store_true", help="write the run where pages show it before any other")
    sub = command("detection", detection)
    sub.add_argument("--set", required=True, help="of assets/evaluation: truthful, toxic …; with --path a benchmark")
    sub.add_argument("--path", help="one's own copy of a published benchmark, see assets/evaluation/README.md")
    sub.add_argument("--limit", type=int, default=500, help="most items of a benchmark")
    sub.add_argument("--model", default=DEFAULT_MODEL)
    sub.add_argument("--device", default="auto")
    sub.add_argument("--ship", action="store_true", help="write assets/results/detection-…")
    command("prepare", prepare)
    sub = command("index", index)
    sub.add_argument("--dataset", default="mnist", help="mnist, fashion-mnist, emoji, cifar10 or a folder")
    sub.add_argument("--label", type=int, help="class index")
    sub.add_argument("--images", type=int, help="training images, the first ones (default: all)")
    sub.add_argument("--machine", default="bbels", help="bbels or els")
    sub.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="patch sizes")
    sub = command("bench", bench)
    sub.add_argument("name")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    try:
        options = build_parser().parse_args(arguments)
        facts = options.work(options)
    except LabError as error:
        log(" ".join(str(error).split()))
        return 2
    if options.json:
        print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
