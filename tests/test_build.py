from __future__ import annotations

from fractions import Fraction

import pytest

from epitaxy.build import build, check_arguments, locate
from epitaxy.errors import ConfigError
from epitaxy.graph.record import LabelField
from epitaxy.graph.spec import GraphSpec

SPEC = "epitaxy.graph.spec.GraphSpec"
FIELD = "epitaxy.graph.record.LabelField"


def test_a_description_becomes_its_object():
    config = {"_target_": SPEC, "rule": "nearest", "cutoff": 6.0, "max_neighbors": 12}
    assert build(config) == GraphSpec("nearest", 6.0, 12)
    assert config["_target_"] == SPEC  # the caller's mapping stays as it was


def test_nested_descriptions_are_built_first():
    config = {
        "_target_": FIELD,
        "name": {"_target_": SPEC, "cutoff": 5.0},
        "unit": {"inner": {"_target_": SPEC}, "number": 3},
        "shape": [{"_target_": SPEC, "cutoff": 4.0}, 7],
    }
    built = build(config)
    assert built.name == GraphSpec(cutoff=5.0)
    assert built.unit == {"inner": GraphSpec(), "number": 3}
    assert built.shape == (GraphSpec(cutoff=4.0), 7)


def test_what_no_file_can_say_is_injected():
    spec = GraphSpec()
    assert build({"_target_": FIELD, "name": "e"}, unit=spec) == LabelField("e", spec)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cutoff": 5.0}, r"needs a _target_, got the keys \['cutoff'\]"),
        ({"_target_": "GraphSpec"}, "dotted path"),
        ({"_target_": "epitaxy.graphs.spec.GraphSpec"}, "no module named 'epitaxy.graphs'"),
        ({"_target_": "epitaxy.graph.spec.GrafSpec"}, "did you mean 'GraphSpec'"),
        ({"_target_": SPEC, "cutof": 5.0}, "takes no argument 'cutof'; did you mean 'cutoff'"),
        ({"_target_": FIELD, "name": "e"}, "needs the argument 'unit'"),
        ({"_target_": SPEC, "cutoff": -1.0}, "cutoff must be positive"),
    ],
)
def test_a_wrong_description_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config)


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "epitaxy.graph.spec.GraphSpec", "x": {"_target_": "os.system"}},
        {"_target_": "epitaxy.encodersX.evil.Thing"},
    ],
)
def test_only_trusted_targets_are_built_from_a_foreign_card(config):
    with pytest.raises(ConfigError, match="refused: only"):
        build(config, trusted=("epitaxy.graph.", "epitaxy.encoders."))


def test_trust_reaches_into_nested_descriptions():
    config = {"_target_": SPEC, "cutoff": [{"_target_": "os.getcwd"}]}
    with pytest.raises(ConfigError, match=r"'os\.getcwd' is refused"):
        build(config, trusted=("epitaxy.graph.",))


def test_locate_finds_functions_and_classes():
    assert locate("fractions.Fraction") is Fraction
    assert locate("epitaxy.build.locate") is locate


def test_arguments_are_checked_against_the_signature():
    def two(first, *rest, second, third=3, **others):
        return first, rest, second, third, others

    check_arguments(two, "two", {"anything": 1})  # **others takes it
    with pytest.raises(ConfigError, match="f takes no argument 'secnd'"):
        check_arguments(lambda first, second: None, "f", {"first": 1, "secnd": 2})
    with pytest.raises(ConfigError, match="f needs the argument 'second'"):
        check_arguments(lambda first, second: None, "f", {"first": 1})
