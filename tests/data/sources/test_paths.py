"""Dotted paths and the names made of what they lead to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epitaxy.data.sources.paths import fill, find, first_present, lookup, printable, slots
from epitaxy.errors import RecordError

ENTRY = {
    "energy": -1.5,
    "outputs": {"energy": -2.5, "forces": [[1, 2, 3]], "a.b": {"c": 7}},
    "last phdos peak": 98.6,
    "x.y": 3,
    "sites": [{"p": {"magmom": 1.0}}, {"p": {"magmom": -1.0}}],
    "array": np.array([4.0, 5.0]),
    "null": None,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("energy", -1.5),
        ("outputs.energy", -2.5),
        ("outputs.forces.0.2", 3),
        ("outputs.forces.-1.0", 1),
        ("last phdos peak", 98.6),
        ("x.y", 3),
        ("outputs.a.b.c", 7),
        ("sites.*.p.magmom", [1.0, -1.0]),
        ("sites.1.p.magmom", -1.0),
        ("outputs.forces.*", [[1, 2, 3]]),
        ("outputs.forces.*.1", [2]),
        ("array.1", 5.0),
        ("null", None),
    ],
)
def test_paths(path: str, value: Any) -> None:
    assert lookup(ENTRY, path) == value
    assert find(ENTRY, path) == value


@pytest.mark.parametrize(
    "path",
    [
        "Energy", "outputs.x", "energy.x", "sites.2", "sites.x", "sites.*.q", "*", "outputs.*",
        "null.x", "sites.--1", "sites.9999999999999999999", "", ".", "array.2", "sites.²",
    ],
)  # fmt: skip
def test_what_is_not_there(path: str) -> None:
    with pytest.raises(KeyError):
        lookup(ENTRY, path)
    assert find(ENTRY, path) is None


def test_the_first_that_is_there_and_not_empty() -> None:
    assert first_present({"a": None, "b": 0, "c": 1}, ("a", "b", "c")) == 0
    assert first_present({}, ("a",)) is None


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("jid", "JVASP-7"),
        ("{jid}-{number}", "JVASP-7-3"),
        ("mb-{row:04d}", "mb-0004"),
        ("{meta.task}/{jid}", "t1/JVASP-7"),
        ("number", "3"),
        ("{energy:.2f}", "-1.50"),
        ("{numpy}", "12"),
        ("plain", "here"),
    ],
)
def test_templates(template: str, text: str) -> None:
    entry = {"jid": " JVASP-7 ", "meta": {"task": "t1"}, "energy": -1.5, "numpy": np.int64(12)}
    context = {"number": 3, "row": 4, "jid": "never", "plain": "here"}
    assert fill(template, "id", entry, context) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'k' is empty, and the id is made of it"),
        ("", "'k' is empty"),
        ("  ", "'k' is empty"),
        (float("nan"), "'k' is empty"),
        ([1], "'k' is list, expected a text or a number"),
        ({}, "'k' is dict, expected"),
        ("\ud800", "surrogates not allowed"),
        pytest.param(10**5000, "integer string conversion", id="long"),
    ],
)
def test_values_that_name_nothing(value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        fill("{k}", "id", {"K": 1, "k": value})


def test_a_name_that_is_not_there_gets_a_hint() -> None:
    with pytest.raises(RecordError, match=r"there is no 'jid' for the group; did you mean 'Jid'\?"):
        fill("x-{jid}", "group", {"Jid": 1, "@structure": ""})


def test_values_that_do_not_fit_the_template() -> None:
    with pytest.raises(RecordError, match=r"id '\{k:04d\}': 'k' cannot be used: Unknown format"):
        fill("{k:04d}", "id", {"k": "five"})


def test_slots() -> None:
    assert slots("{a.b}-{row:04d}") == ["a.b", "row"]
    assert slots("a.b") == ["a.b"]


def test_printable_texts_can_be_written() -> None:
    assert printable("Å\ud800" + "x" * 300).encode() == ("Å\\ud800" + "x" * 198).encode()
