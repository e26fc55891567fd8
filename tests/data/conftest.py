"""Data sets without shards: what a split may look at, as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.names import StoredNames
from epitaxy.graph.labels import LabelTable


@dataclass(frozen=True)
class Columns:
    """Ids, groups, compositions and scalar labels; row order is what the test makes it."""

    ids: np.ndarray
    groups: np.ndarray
    composition: np.ndarray
    scalars: Mapping[str, np.ndarray] = field(default_factory=dict)
    path: Path = Path("/nowhere")
    data_digest: str = "d" * 64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def id_names(self) -> StoredNames:
        return StoredNames.of(self.ids.tolist())

    @property
    def group_names(self) -> StoredNames:
        return StoredNames.of(self.groups.tolist())

    def label_table(self, rows: np.ndarray) -> LabelTable:
        composition = self.composition[rows]
        scalars = {name: values[rows] for name, values in self.scalars.items()}
        return LabelTable(composition.sum(axis=1), composition, scalars, {}, {})

    def take(self, rows: Sequence[int]) -> Columns:
        """The records of ``rows``, in that order."""
        chosen = np.asarray(rows)
        scalars = {name: values[chosen] for name, values in self.scalars.items()}
        return replace(
            self,
            ids=self.ids[chosen],
            groups=self.groups[chosen],
            composition=self.composition[chosen],
            scalars=scalars,
        )


@pytest.fixture(scope="session")
def columns() -> Callable[..., Columns]:
    """Makes ``Columns`` of ids, groups, compositions {atomic number: count} and scalar labels."""

    def make(
        ids: Sequence[str],
        groups: Sequence[str] | None = None,
        compositions: Sequence[Mapping[int, int]] | None = None,
        path: Path = Path("/nowhere"),
        **scalars: Any,
    ) -> Columns:
        table = np.zeros((len(ids), 119), dtype=np.int64)
        for row, counts in enumerate(compositions or ()):
            for number, count in counts.items():
                table[row, number] = count
        values = {name: np.asarray(column, dtype=np.float64) for name, column in scalars.items()}
        names = np.asarray(ids, dtype=np.str_)
        return Columns(names, np.asarray(groups or ids, dtype=np.str_), table, values, path)

    return make
