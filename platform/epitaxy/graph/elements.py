"""Element features: generated tables of this package, and learned ones of installed libraries."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32

from epitaxy.errors import ConfigError, closest
from epitaxy.graph.record import MAX_ATOMIC_NUMBER
from epitaxy.graph.symbols import ATOMIC_NUMBERS

ElementTable = Literal["cgcnn92", "onehot100", "matscholar200"]

_LEARNED = {"matscholar200": ("matminer", "utils/data_files/matscholar_els.json")}
"""Table to the package that ships it as a file of {symbol: values}, and where. The package itself
is not imported, which takes seconds; ``data.element_tables`` checks the file against its API."""


def atom_features(name: ElementTable) -> Float32[np.ndarray, "119 features"]:
    """Returns the features of every element, row = atomic number.

    Row 0 and the rows of elements the table does not know (``known_elements``) are zero.

    Args:
        name: ``cgcnn92``: the 92 one-hot columns of Xie & Grossman 2018 (group, period,
            electronegativity, covalent radius, valence electrons, ionisation energy, electron
            affinity, block, atomic volume), H to Fm. ``onehot100``: column Z − 1 is 1, H to Fm
            (MatDeepLearn). ``matscholar200``: 200 numbers that a language model learnt from the
            literature (Weston et al. 2019, as used by Goodall & Lee 2020), H to Lr; needs matminer.

    Raises:
        ConfigError: If there is no such table, or its package is not installed.
    """
    rows = _read(name)
    features = np.zeros((MAX_ATOMIC_NUMBER + 1, len(next(iter(rows.values())))), np.float32)
    for number, values in rows.items():
        features[number] = values
    return features


def known_elements(name: ElementTable) -> frozenset[int]:
    """Returns the atomic numbers that table ``name`` has features for.

    Raises:
        ConfigError: If there is no such table, or its package is not installed.
    """
    return frozenset(_read(name))


def feature_names(name: ElementTable) -> tuple[str, ...]:
    """Returns what each column of a table stands for, with ranges in the property's unit.

    Raises:
        ConfigError: If there is no such table.
    """
    check_table(name)
    if name == "cgcnn92":
        return tuple(label for group in _generated(name)["groups"] for label in _labels(group))
    if name == "onehot100":
        return tuple(f"Z = {number}" for number in sorted(_read(name)))
    return tuple(f"{name} {column}" for column in range(200))


def check_table(name: str) -> None:
    """Refuses unknown tables.

    Raises:
        ConfigError: With the closest known name.
    """
    if name not in get_args(ElementTable):
        raise ConfigError(f"no element table {name!r}; {closest(name, get_args(ElementTable))}")


def is_installed(name: ElementTable) -> bool:
    """Whether the package that a learned table comes from is at hand."""
    return name not in _LEARNED or _learned_file(name) is not None


@cache
def _read(name: ElementTable) -> dict[int, np.ndarray]:
    """Returns the features by atomic number."""
    check_table(name)
    if name in _LEARNED:
        return _learned(name)
    if name == "onehot100":
        return {number + 1: row for number, row in enumerate(np.eye(100, dtype=np.float32))}
    table = _generated(name)
    one = np.eye(table["width"], dtype=np.float32)
    return {int(number): one[columns].sum(0) for number, columns in table["ones"].items()}


@cache
def _generated(name: str) -> dict[str, Any]:
    file = resources.files("epitaxy.graph") / "tables" / f"{name}.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table


def _learned(name: ElementTable) -> dict[int, np.ndarray]:
    file = _learned_file(name)
    if file is None:
        raise ConfigError(
            f"the element table {name!r} comes with the package {_LEARNED[name][0]}, which is not "
            "installed: pip install 'epitaxy[composition]'"
        )
    given = json.loads(file.read_text(encoding="utf-8"))
    return {
        ATOMIC_NUMBERS[symbol]: np.asarray(values, np.float32) for symbol, values in given.items()
    }


def _learned_file(name: str) -> Path | None:
    package, inner = _LEARNED[name]
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / inner
    return file if file.is_file() else None


def _labels(group: dict[str, Any]) -> list[str]:
    """Returns a label for each bin of a one-hot group."""
    low, high = group["range"]
    edges = np.linspace(low, high, group["columns"] + 1)
    if group["name"] == "block":
        return [f"block {letter}" for letter in "spdf"]
    if group["name"] == "group":
        return ["group none (f block)", *(f"group {number}" for number in range(1, 19))]
    if np.allclose(np.diff(edges), 1.0):
        return [f"{group['name']} {edge:.0f}" for edge in edges[:-1]]
    if group["logarithmic"]:
        edges = np.exp(edges)
    unit = f" {group['unit']}" if group["unit"] else ""
    return [f"{group['name']} {one:.3g} to {other:.3g}{unit}" for one, other in pairwise(edges)]
