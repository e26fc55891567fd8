from __future__ import annotations

from typing import Any

import pytest

from epitaxy.errors import ConfigError
from epitaxy.objectives.label_choice import chosen_labels, label_weights


def test_what_is_left_keeps_its_order() -> None:
    assert chosen_labels("gap", None) == (("gap",), ("gap",))
    names = ("c", "a", "b")
    assert chosen_labels(names, "a") == (names, ("c", "b"))
    assert chosen_labels(names, ("b", "c")) == (names, ("a",))


@pytest.mark.parametrize(
    ("label", "leave_out", "message"),
    [
        ((), None, "at least one label"),
        (("gap", "gap"), None, "each once"),
        (("spacegroup.number", "gap"), None, "must not contain a dot"),
        (("gap", "modulus"), "gab", "which is no label; did you mean 'gap'"),
        (("gap", "modulus"), ("gap", "modulus"), "leaves none of the labels"),
    ],
)
def test_impossible_choices_are_refused(label: Any, leave_out: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_labels(label, leave_out)


def test_weights_are_1_unless_given() -> None:
    assert label_weights(None, ("a", "b")) == {"a": 1.0, "b": 1.0}
    assert label_weights({"b": 3}, ("a", "b")) == {"a": 1.0, "b": 3.0}
    with pytest.raises(ConfigError, match="has the label 'gab'; did you mean 'gap'"):
        label_weights({"gab": 1.0}, ("gap",))
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"above 0; objective\.leave_out=gap does without"):
            label_weights({"gap": weight}, ("gap",))
