"""The points of a sweep: a grid, each with a name that also names its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from epitaxy.errors import ConfigError


def grid(axes: Mapping[str, Sequence[Any] | None]) -> list[dict[str, Any]]:
    """Returns every combination of the axes that are set, in order, the last axis fastest.

    Raises:
        ConfigError: If no axis is set, or one is empty or repeats a value.
    """
    set_axes = {name: list(values) for name, values in axes.items() if values is not None}
    if not set_axes:
        names = ", ".join(f"sweep.{name}" for name in axes)
        raise ConfigError(f"a sweep needs at least one axis: set {names} to a list")
    for name, values in set_axes.items():
        if not values:
            raise ConfigError(f"sweep.{name} is empty: give at least one value")
        if len({str(value) for value in values}) < len(values):
            raise ConfigError(f"sweep.{name} repeats a value: {values}")
    return [dict(zip(set_axes, values, strict=True)) for values in product(*set_axes.values())]


def trial_name(point: Mapping[str, Any]) -> str:
    """Returns the name of a point: ``full-lr0.001-seed0``.

    It depends on the point alone, so the runs of a killed sweep are found again.
    """
    parts = [
        str(value) if isinstance(value, str) else f"{axis}{value:g}"
        for axis, value in point.items()
    ]
    return "-".join(parts)
