"""Recipes and experiments: each composes to a run, and what the user says wins over both."""

import functools

import pytest
import yaml

from epitaxy.app.compose import compose
from epitaxy.app.groups import options_of, text_of
from epitaxy.app.runs import settings_of
from epitaxy.build import build
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.train.parts import build_parts, make_optimizer

RECIPES, EXPERIMENTS = options_of("train"), options_of("experiment")


@functools.cache
def plain(verb, *overrides):
    """The run without a recipe."""
    return settings_of(compose(verb, overrides))


def verb_of(experiment):
    return yaml.safe_load(text_of("experiment", experiment)).get("verb", "pretrain")


def given(experiment):
    """An experiment with values for what it leaves open."""
    chosen = [f"experiment={experiment}"]
    composed = compose(verb_of(experiment), chosen).config
    values = {"data": "d", "objective.label": "gap", "from": "teacher"}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if (composed[group] if group else composed).get(name) == "???":
            chosen.append(f"{key}={value}")
    return chosen


RUNS = {
    "pretrain": ["data=d", "run.name=r"],
    "finetune": ["data=d", "run.name=r", "objective.label=gap", "finetune=scratch"],
}
CASES = [(verb, recipe) for verb in RUNS for recipe in RECIPES]


@pytest.mark.parametrize(("verb", "recipe"), [*CASES, ("sweep", "gatgnn")])
def test_every_recipe_is_a_run(verb, recipe, monkeypatch):
    monkeypatch.setenv("EPITAXY_HOME", "/home/of/nobody")
    overrides = RUNS.get(verb, RUNS["finetune"])
    composed = compose(verb, [*overrides, f"train={recipe}"])
    settings = settings_of(composed)
    assert composed.choices["train"] == recipe
    untouched = plain(verb, *overrides)
    for section in ("split", "filter", "mix", "encoder", "objective", "compute"):
        assert getattr(settings, section) == getattr(untouched, section)
    assert (settings == untouched) == (recipe == "default")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_a_run_whose_parts_fit(experiment, epitaxy_home):
    verb = verb_of(experiment)
    composed = compose(verb, given(experiment))
    assert composed.config["run"]["name"] == experiment
    assert "verb" not in composed.config
    if verb == "pretrain":
        check_parts(settings_of(composed))


def check_parts(settings):
    objective, encoder = build(settings.objective), build(settings.encoder)
    assert objective.requires <= encoder.provides
    assert sum(settings.split.fractions) == pytest.approx(1.0)
    if objective.needs_teacher:  # which is the user's to give
        with pytest.raises(NeedsError, match="give teacher=NAME"):
            build_parts(settings)
        return
    parts = build_parts(settings)
    make_optimizer(parts.model, parts.report, settings.optimizer)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_opens_with_what_it_is_for(experiment):
    package, purpose = text_of("experiment", experiment).splitlines()[:2]
    assert package == "# @package _global_"
    assert purpose.startswith("# ")


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 500, 500)])
def test_the_five_ratios_of_force_pretraining(weights, epitaxy_home):
    name = "force_pretraining_" + "_".join(map(str, weights))
    settings = settings_of(compose("pretrain", [f"experiment={name}", "data=d"]))
    names = ("energy_weight", "force_weight", "stress_weight")
    assert tuple(settings.objective[key] for key in names) == weights
    assert settings.split.fractions == (0.8, 0.05, 0.15)
    assert settings.encoder["cutoff"] == 8.0
    assert (settings.batch.graphs, settings.loop.epochs) == (120, 100)
    schedule = settings.schedule
    assert (schedule.name, schedule.gamma, schedule.patience) == ("plateau", 0.8, 10)
    assert (schedule.min_rate, schedule.threshold) == (1e-5, 2e-4)


def test_the_user_wins_over_the_experiment_and_the_experiment_over_its_recipe():
    overrides = [
        *("loop.epochs=3", "split.fractions=[0.5,0.2,0.3]", "run.name=mine"),
        *("experiment=force_pretraining_1_1_1", "encoder=torchmd_et_paper"),
    ]
    for order in (overrides, overrides[::-1]):
        composed = compose("pretrain", order)
        config = composed.config
        assert config["loop"]["epochs"] == 3
        assert config["split"]["fractions"] == [0.5, 0.2, 0.3]
        assert config["run"]["name"] == "mine"
        assert composed.choices["encoder"] == "torchmd_et_paper"
        assert composed.choices["train"] == "force_pretraining"
        assert config["encoder"]["layers"] == 8
        assert config["batch"]["graphs"] == 120
    other = compose("pretrain", ["train=gatgnn", "experiment=force_pretraining_1_1_1"])
    assert other.choices["train"] == "gatgnn"
    assert other.config["batch"]["graphs"] == 256


def test_the_user_wins_over_a_recipe_in_either_order():
    for order in (["train=cgcnn", "optimizer.lr=0.5"], ["optimizer.lr=0.5", "train=cgcnn"]):
        config = compose("pretrain", order).config
        assert config["optimizer"]["lr"] == 0.5
        assert config["optimizer"]["name"] == "sgd"


@pytest.fixture
def mine(tmp_path):
    """Writes an experiment into a folder of the user's; returns that folder's name."""

    def write(text):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n" + text)
        return str(tmp_path)

    return write


def test_an_experiment_of_the_users_own(mine):
    folder = mine("defaults:\n  - override /train: cgcnn\n  - _self_\nbatch: {graphs: 7}\n")
    composed = compose("pretrain", ["+experiment=mine"], [folder])
    assert composed.choices["experiment"] == "mine"
    assert "force_pretraining_1_1_1" in composed.options["experiment"]
    assert composed.config["batch"]["graphs"] == 7
    assert composed.config["optimizer"]["name"] == "sgd"
    assert compose("pretrain", ["experiment=null"], [folder]).choices["experiment"] is None


def test_an_experiment_is_for_one_verb(mine):
    folder = mine("verb: finetune\ndefaults:\n  - override /finetune: last_layer\n")
    assert compose("finetune", ["experiment=mine"], [folder]).choices["finetune"] == "last_layer"
    assert compose("sweep", ["experiment=mine"], [folder]).choices["finetune"] == "last_layer"
    with pytest.raises(ConfigError, match="mine is for `epitaxy finetune`, not pretrain"):
        compose("pretrain", ["experiment=mine"], [folder])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimzer: {lr: 1.0}", r"'optimzer' in one of the files of .*experiment=mine"),
        ("loop: {epoch: 3}", r"'loop\.epoch' in .*did you mean 'loop\.epochs'"),
        ("defaults:\n  - override /encoder: cgcn", "configuration: .*cgcn"),
        ("batch: [1", "configuration: "),
    ],
)
def test_slips_in_an_experiment_are_named(mine, text, message):
    with pytest.raises(ConfigError, match=message):
        compose("pretrain", ["experiment=mine"], [mine(text)])
