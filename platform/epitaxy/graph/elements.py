"""Element features, read from the tables that ``epitaxy.data.element_tables`` generates."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from epitaxy.errors import ConfigError, closest
from epitaxy.graph.record import MAX_ATOMIC_NUMBER

ElementTable = Literal["cgcnn92"]

_TABLES: tuple[ElementTable, ...] = ("cgcnn92",)


def atom_features(name: ElementTable) -> Float32[np.ndarray, "119 features"]:
    """Returns the features of every element, row = atomic number.

    Row 0 and the rows of elements the table does not know (``known_elements``) are zero.

    Args:
        name: ``cgcnn92``: the 92 one-hot columns of Xie & Grossman 2018 (group, period,
            electronegativity, covalent radius, valence electrons, ionisation energy, electron
            affinity, block, atomic volume), H to Fm.

    Raises:
        ConfigError: If there is no such table.
    """
    table = _read(name)
    features = np.zeros((MAX_ATOMIC_NUMBER + 1, table["width"]), np.float32)
    for number, columns in table["ones"].items():
        features[int(number), columns] = 1.0
    return features


def known_elements(name: ElementTable) -> frozenset[int]:
    """Returns the atomic numbers that table ``name`` has features for.

    Raises:
        ConfigError: If there is no such table.
    """
    return frozenset(int(number) for number in _read(name)["ones"])


@cache
def _read(name: str) -> dict[str, Any]:
    if name not in _TABLES:
        raise ConfigError(f"no element table {name!r}; {closest(name, _TABLES)}")
    file = resources.files("epitaxy.graph") / "tables" / f"{name}.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table
