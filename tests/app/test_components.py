"""Arguments of components are checked before anything starts."""

import re

import pytest

from epitaxy.app.components import check_components
from epitaxy.app.compose import compose
from epitaxy.errors import ConfigError


def test_components_are_checked_however_deep():
    inner = {"_target_": "epitaxy.train.settings.BatchSettings", "grahps": 3}
    with pytest.raises(ConfigError, match=r"parts\[0\] .*'grahps'; did you mean 'graphs'"):
        check_components({"parts": [inner]})
    with pytest.raises(ConfigError, match="no module named"):
        check_components({"_target_": "epitaxy.encoders.nowhere.Foo"})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("graphs", "many", "batch.graphs must be of type int, got 'many'"),
        ("micro_batches", None, "batch.micro_batches must be of type int, got None"),
        ("micro_batches", True, "batch.micro_batches must be of type int, got True"),
        ("micro_batches", 1.5, "batch.micro_batches must be of type int, got 1.5"),
    ],
)
def test_types(argument, value, message):
    config = {"_target_": "epitaxy.train.settings.BatchSettings", argument: value}
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_components({"batch": config})


def test_choices_get_a_hint_and_fitting_values_pass():
    target = {"_target_": "epitaxy.train.settings.OptimizerSettings"}
    check_components({"a": target | {"name": "sgd", "lr": 1}})
    check_components({"a": {"_target_": "epitaxy.train.settings.BatchSettings", "graphs": None}})
    with pytest.raises(ConfigError, match=r"a\.name is 'sdg'; did you mean 'sgd'"):
        check_components({"a": target | {"name": "sdg"}})


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_every_shipped_choice_passes(verb):
    options = compose(verb).options
    for group in ("encoder", "objective", "finetune"):
        for name in options.get(group, ()):
            label = ["objective.label=gap"] if (group, name) == ("objective", "regression") else []
            config = compose(verb, [f"{group}={name}", *label]).config
            check_components({group: config[group]})
