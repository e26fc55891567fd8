"""A structure seen as its composition: what encoders without geometry read."""

from __future__ import annotations

import numpy as np

from epitaxy.graph.record import AMOUNT, CrystalRecord, Label


def as_composition(record: CrystalRecord) -> CrystalRecord:
    """Returns the elements of a structure and their numbers in the cell; a composition stays.

    One "atom" per element, in order of atomic number, at the origin. Labels of the crystal stay,
    labels of its atoms go: there are no atoms to bear them.
    """
    if record.is_composition:
        return record
    numbers, counts = np.unique(record.numbers, return_counts=True)
    labels = {name: label for name, label in record.labels.items() if not label.per_atom}
    return CrystalRecord(
        record.id,
        numbers,
        np.zeros((len(numbers), 3)),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        {**labels, AMOUNT: Label(counts, "", per_atom=True)},
        record.group,
    )


def amounts_of(record: CrystalRecord) -> dict[int, float]:
    """Returns how much of each element (by atomic number) a cell or a composition holds."""
    if not record.is_composition:
        numbers, counts = np.unique(record.numbers, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    amounts: dict[int, float] = {}
    for number, amount in zip(
        record.numbers.tolist(), record.labels[AMOUNT].value.ravel().tolist(), strict=True
    ):
        amounts[number] = amounts.get(number, 0.0) + amount
    return amounts
