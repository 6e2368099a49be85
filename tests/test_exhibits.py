"""Exhibits as data, their results on disk, and the way from parameters to a result: without a law's own tests."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from lm_core import run_mechanics
from lm_core.__main__ import main
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.exhibit_params import NAMES, Control, ExhibitParams, Tolerance, find_exhibit, parse_exhibit
from lm_core.exhibit_results import Curve, ExhibitResult, Outcome, Panel, Table, numbers
from lm_core.run_mechanics import variant_params

QUICK = "d2"  # takes about a second
LARGEST_FILE = 60_000  # bytes of a shipped run


def result_of(name: str = QUICK, value: float | None = 0.5, **outcome) -> ExhibitResult:
    curve = Curve.of("c", "experiment", [1, 2, 3], [0.1, math.nan, 1e9], low=[0, 0, 0], high=[1, 1, 1])
    panel = Panel("t", "x", "y", (curve, Curve.of("p", "prediction", [1], [2])), "what one sees", y_log=True)
    table = Table.of("m", ["a"], ["b", "c"], np.array([[1.0, math.inf]]), "a matrix")
    first = find_exhibit(name).tolerances[0].score
    made = Outcome((panel,), {first: value}, "it agrees", (table,), {"steps": 3}, **outcome)
    return ExhibitResult(variant_params(name), made, 1.5, "cpu", "2", "command")


# -- data -------------------------------------------------------------------------------------------------------------


def test_a_control_takes_what_lies_between_its_stops():
    control = Control("rate", "η", "help", 0.1, stops=(0.01, 0.1, 1.0))
    assert control.check(0.05) == 0.05
    assert control.parse("1e-1") == 0.1
    for wrong in (0.001, 2, math.nan, "0.1", True, None):
        with pytest.raises(ParameterError, match=r"rate is .*0\.01 to 1"):
            control.check(wrong)
    with pytest.raises(ParameterError, match="rate is 'fast'"):
        control.parse("fast")


def test_a_control_of_whole_numbers_refuses_fractions():
    control = Control("width", "n", "help", 4, stops=(2, 4, 8))
    assert control.parse("6") == 6 and isinstance(control.parse("6"), int)
    with pytest.raises(ParameterError, match="whole number from 2 to 8"):
        control.parse("2.5")


def test_a_control_of_words_says_which_there_are():
    with pytest.raises(ParameterError, match="choose one of sgd, adam"):
        Control("rule", "Rule", "help", "sgd", options=("sgd", "adam")).parse("muon")


@pytest.mark.parametrize(
    ("value", "holds"), [(0.99, True), (1.0, True), (1.2, False), (0.5, False), (None, False), (math.nan, False)]
)
def test_a_tolerance_holds_between_its_bounds_and_never_for_nothing(value, holds):
    assert Tolerance("r", 0.98, 1.1).holds(value) == holds


@pytest.mark.parametrize("name", NAMES)
def test_every_exhibit_is_complete(name):
    exhibit = find_exhibit(name)
    assert exhibit.strand in "abcde"
    assert 2 <= len(exhibit.controls) <= 4
    assert exhibit.references and all(one.url.startswith("https://") for one in exhibit.references)
    assert exhibit.break_it.values and exhibit.defaults | exhibit.break_it.values != exhibit.defaults
    assert all((exhibit.title, exhibit.question, exhibit.claim, exhibit.formula, exhibit.symbols, exhibit.experiment))


def source_of(name: str) -> dict:
    from lm_core.artifacts import asset_path

    return json.loads(asset_path("exhibits", f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("claim"),
        lambda s: s.update(badge="miracle"),
        lambda s: s.update(tolerances=[]),
        lambda s: s["controls"][0].update(default=1e12),
        lambda s: s["controls"][0].update(stops=[], options=[]),
        lambda s: s["break_it"]["values"].update(nonsense=1),
        lambda s: s.update(more="x"),
    ],
)
def test_a_damaged_exhibit_is_refused(damage):
    source = source_of(QUICK)
    damage(source)
    with pytest.raises(AssetError, match=rf"exhibit {QUICK} is damaged"):
        parse_exhibit(source)


def test_parameters_fill_in_defaults_and_refuse_what_isnt_there():
    exhibit = find_exhibit(QUICK)
    assert ExhibitParams(QUICK, {}).values == exhibit.defaults
    with pytest.raises(ParameterError, match="has no control 'colour'"):
        ExhibitParams(QUICK, {"colour": 1})
    with pytest.raises(ParameterError, match="exhibit is 'z9'; choose one of a1"):
        ExhibitParams("z9", {})
    with pytest.raises(ParameterError, match="seed"):
        ExhibitParams(QUICK, {}, seed=-1)


def test_equal_parameters_have_equal_keys():
    broken = find_exhibit(QUICK).break_it.values
    assert ExhibitParams(QUICK, broken).key() == ExhibitParams(QUICK, dict(reversed(broken.items()))).key()
    assert ExhibitParams(QUICK, broken).key() != ExhibitParams(QUICK, {}).key()


# -- results ----------------------------------------------------------------------------------------------------------


def test_numbers_keep_five_digits_and_mark_what_isnt_finite():
    assert numbers([math.pi, 1e-12 / 3, math.inf, math.nan]) == (3.1416, 3.3333e-13, None, None)


def test_a_curve_refuses_unequal_axes():
    with pytest.raises(AssertionError, match="3 x and 2 y"):
        Curve.of("c", "experiment", [1, 2, 3], [1, 2])


def test_a_result_survives_json():
    made = result_of()
    assert ExhibitResult.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_the_contract_of_the_command_line():
    found = result_of().as_dict()
    wanted = {"prediction", "experiment", "score", "tolerance", "within_tolerance", "seconds"}
    assert wanted <= set(found)
    assert found["experiment"][0]["name"] == "c" and found["prediction"][0]["name"] == "p"


def test_a_run_is_within_only_if_every_stated_score_is():
    bound = find_exhibit(QUICK).tolerances[0]
    good = bound.high if bound.high is not None else bound.low
    assert result_of(value=good).within
    assert not result_of(value=None).within
    assert not result_of(value=good, diverged=True).within


@pytest.mark.parametrize("damage", [lambda d: d.pop("seed"), lambda d: d["outcome"].update(panels=3)])
def test_a_damaged_result_is_refused(damage):
    found = json.loads(json.dumps(result_of().as_dict()))
    damage(found)
    with pytest.raises(AssetError, match="damaged"):
        ExhibitResult.from_dict(found)


# -- shipped runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_run_meets_its_tolerance(name):
    found = run_mechanics.shipped(variant_params(name))
    assert found is not None, f"run `python -m lm_core exhibit {name} --ship`"
    assert found.within, [score for score in found.scores if score.within is False]
    assert not found.outcome.diverged
    roles = {curve.role for curve in found.outcome.panels[0].curves}
    assert {"prediction", "experiment"} <= roles


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_break_breaks(name):
    found = run_mechanics.shipped(variant_params(name, "broken"))
    assert found is not None, f"run `python -m lm_core exhibit {name} --break --ship`"
    assert not found.scores[0].within or found.outcome.diverged
    assert found.outcome.verdict


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", run_mechanics.VARIANTS)
def test_shipped_runs_are_small_and_say_their_command(name, variant):
    path = run_mechanics.shipped_path(name, variant)
    assert path.stat().st_size <= LARGEST_FILE
    command = json.loads(path.read_text("utf-8"))["command"]
    assert command == f"python -m lm_core exhibit {name}{' --break' if variant == 'broken' else ''} --ship"


# -- running ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE", str(tmp_path))
    return tmp_path


def test_a_default_run_is_kept_for_the_scoreboard_and_others_are_not(own_cache, monkeypatch):
    law = SimpleNamespace(run=lambda values, seed, device, report: result_of().outcome)
    monkeypatch.setattr(run_mechanics.importlib, "import_module", lambda name: law)
    before, ended = run_mechanics.latest(QUICK)
    assert before is not None and ended is None  # shipped
    run_mechanics.exhibit(variant_params(QUICK).with_(seed=1))
    assert run_mechanics.latest(QUICK)[1] is None
    made = run_mechanics.exhibit(variant_params(QUICK))
    kept, ended = run_mechanics.latest(QUICK)
    assert kept == made and ended is not None


def test_a_damaged_kept_run_is_dropped(own_cache):
    path = own_cache / "exhibits" / f"{QUICK}.json"
    path.parent.mkdir()
    path.write_text("{")
    assert run_mechanics.latest(QUICK)[1] is None
    assert not path.exists()


def test_run_all_reports_what_is_there_and_keeps_it_when_cancelled(own_cache, monkeypatch):
    monkeypatch.setattr(run_mechanics, "exhibit", lambda params, **_: result_of(params.exhibit))
    seen = []

    def report(share, message, found):
        seen.append(len(found))
        if len(found) == 3:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run_mechanics.run_all(on_progress=report)
    assert seen[-1] == 3 and seen == sorted(seen)
    assert set(run_mechanics.run_all()) == set(NAMES)


def test_a_shipped_run_of_other_defaults_isnt_shown(monkeypatch, tmp_path):
    other = result_of().as_dict() | {"seed": 5}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(other))
    monkeypatch.setattr(run_mechanics, "shipped_path", lambda name, variant="default": path)
    assert run_mechanics.shipped(variant_params(QUICK)) is None


def test_only_default_and_broken_runs_are_shipped():
    odd = ExhibitResult(variant_params(QUICK).with_(seed=9), result_of().outcome, 1.0, "cpu", "2")
    with pytest.raises(AssetError, match="leave the controls as they are"):
        run_mechanics.ship(odd)


def test_the_command_prints_one_object(own_cache, capsys):
    assert main(["exhibit", QUICK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exhibit"] == QUICK and found["within_tolerance"] is True and found["seconds"] > 0


@pytest.mark.parametrize(
    "arguments", [["exhibit", "z9"], ["exhibit", QUICK, "--set", "nonsense=1"], ["exhibit", QUICK, "--seed", "-1"]]
)
def test_the_command_refuses_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
