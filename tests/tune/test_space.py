"""Grids and their names."""

import pytest

from epitaxy.errors import ConfigError
from epitaxy.tune.space import grid, trial_name


def test_grid_is_the_product_last_axis_fastest():
    points = grid({"strategy": ["full", "scratch"], "lr": [1e-3, 3e-4], "seed": None})
    assert points == [
        {"strategy": "full", "lr": 1e-3},
        {"strategy": "full", "lr": 3e-4},
        {"strategy": "scratch", "lr": 1e-3},
        {"strategy": "scratch", "lr": 3e-4},
    ]


def test_names_depend_on_the_point_alone():
    assert trial_name({"strategy": "full", "lr": 3e-4, "seed": 2}) == "full-lr0.0003-seed2"
    assert trial_name({"lr": 1e-6}) == "lr1e-06"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"lr": None, "seed": None}, "at least one axis: set sweep.lr, sweep.seed"),
        ({"lr": []}, "sweep.lr is empty"),
        ({"seed": [1, 2, 1]}, "sweep.seed repeats a value"),
    ],
)
def test_useless_axes_are_refused(axes, message):
    with pytest.raises(ConfigError, match=message):
        grid(axes)
