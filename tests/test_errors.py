from __future__ import annotations

import inspect

import pytest

from epitaxy import errors
from epitaxy.errors import EpitaxyError, closest


def test_one_base_for_everything_raised_on_purpose():
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    ]
    assert len(classes) > 10
    assert all(issubclass(c, EpitaxyError) for c in classes)
    assert not issubclass(EpitaxyError, ValueError)  # our errors are caught by name, not by luck


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("cgcn", ["cgcnn", "alignn"], "did you mean 'cgcnn'? Known: alignn, cgcnn"),
        ("schnet", ["cgcnn", "alignn"], "Known: alignn, cgcnn"),
        ("x", [], "Known: none"),
        ("energy", ["energy", "energy"], "did you mean 'energy'? Known: energy"),
        ("1", [1, 2], "did you mean '1'? Known: 1, 2"),
    ],
)
def test_closest(name, known, hint):
    assert closest(name, known) == hint
