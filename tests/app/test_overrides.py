"""Overrides: what a user may write on the command line, and hints for what he may not."""

import pytest

from epitaxy.app.overrides import parse, render, suggest
from epitaxy.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=null", None),
        ("a=[1,x,null]", [1, "x", None]),
        ("a={b: 1}", {"b": 1}),
        ("a='x y'", "x y"),
        ("a=NAME@best", "NAME@best"),
        ("a=/data/x.xyz.gz", "/data/x.xyz.gz"),
        ("a=s3://bucket/x", "s3://bucket/x"),
        ("a=", ""),
        # Not Hydra's grammar: taken as text.
        ("a=~/data", "~/data"),
        ("a=/x/k=v", "/x/k=v"),
        ("a=/x/élan (1)", "/x/élan (1)"),
    ],
)
def test_values(text, value):
    assert parse(text) == ("a", value)
    assert type(parse(text)[1]) is type(value)


def test_experiments_may_be_added_as_in_hydra():
    assert parse("+experiment=mine") == parse("experiment=mine") == ("experiment", "mine")


@pytest.mark.parametrize("text", ["--epochs=3", "+a=1", "~a", "a", "=1", "a b=1"])
def test_other_forms_are_refused(text):
    with pytest.raises(ConfigError, match="not of the form key=value"):
        parse(text)


def test_several_values_are_refused():
    with pytest.raises(ConfigError, match="epitaxy sweep"):
        parse("optimizer.lr=1e-3,1e-4")


@pytest.mark.parametrize(
    "value",
    ["x", "NAME@best", "12", "true", "", "a b", "it's", "C:\\x", "a,b", "[1]", 0.1, 3, None],
)
def test_python_values_survive_the_way_through_text(value):
    (text,) = render({"a": value})
    assert parse(text) == ("a", value)
    (nested,) = render({"a": [value, value]})
    assert parse(nested) == ("a", [value, value])


def test_nested_options_and_reserved_words():
    options = {"run": {"name": "a"}, "from_": "t@best", "compute": "local"}
    assert render(options) == ["run.name=a", "from=t@best", "compute=local"]


KNOWN = ["data", "loop", "loop.epochs", "loop.ema_decay", "batch", "batch.edges"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("loop.epoch", "did you mean 'loop.epochs'? Known options of loop: ema_decay, epochs"),
        ("epochs", "did you mean 'loop.epochs'? Known options: batch, data, loop"),
        ("dta", "did you mean 'data'? Known options: batch, data, loop"),
        ("qqqq", "Known options: batch, data, loop"),
        ("loop.x.y", "Known options of loop: ema_decay, epochs"),
    ],
)
def test_suggestions(key, hint):
    assert suggest(key, KNOWN) == hint
