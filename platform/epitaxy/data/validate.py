"""What ``prepare`` asks of a record beyond the checks that every ``CrystalRecord`` passes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np

from epitaxy.errors import RecordError, UnitError
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.units import ENERGY, FORCE, STRESS

MIN_DISTANCE = 0.1
"""Å. Two atoms (or periodic images) closer than this are one atom listed twice."""

MAX_ATOMS = 10_000
"""Largest cell: the work of a neighbour list grows with the square of its atoms."""

CANONICAL_UNITS = {"energy": ENERGY, "forces": FORCE, "stress": STRESS}
"""Labels whose unit the project fixes; any other label keeps the unit of its recipe."""

_SHAPES: dict[str, tuple[bool, tuple[int, ...]]] = {
    "energy": (False, ()),
    "forces": (True, (3,)),
    "stress": (False, (3, 3)),
}
_LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_PAIRS_PER_BLOCK = 100_000


def check_record(record: CrystalRecord) -> None:
    """Refuses a record that cannot be right.

    Raises:
        RecordError: If an id or group cannot be printed on one line, the cell is too large, or two
            atoms coincide.
    """
    for name in ("id", "group"):
        text = getattr(record, name)
        if not text.isprintable() or text != text.strip():
            raise RecordError(
                f"record {record.id!r}: its {name} {text!r} has unprintable characters or spaces "
                "around it"
            )
    if record.num_atoms > MAX_ATOMS:
        raise RecordError(
            f"record {record.id!r} has {record.num_atoms} atoms, more than {MAX_ATOMS}: too large "
            "for a crystal graph; is it one structure?"
        )
    if record.is_composition:
        return
    first, second, distance = closest_pair(record)
    if distance < MIN_DISTANCE:
        raise RecordError(
            f"record {record.id!r}: atoms {first} and {second} are {distance:.3g} Å apart, "
            f"closer than {MIN_DISTANCE} Å: one atom listed twice?"
        )


def closest_pair(record: CrystalRecord) -> tuple[int, int, float]:
    """Returns two different atoms and their distance in Å, the smallest between nearest images.

    Nearest images are found by rounding fractional coordinates: exact for any distance below half
    the spacing of the lattice planes, and never too small.
    """
    count = record.num_atoms
    best = (0, 0, float("inf"))
    if count < 2:
        return best
    periodic = record.cell[record.pbc]
    inverse = np.linalg.pinv(periodic) if 0 < len(periodic) < 3 else np.zeros((3, 0))
    if len(periodic) == 3:
        inverse = np.linalg.inv(periodic)
    rows = max(1, _PAIRS_PER_BLOCK // count)
    for start in range(0, count - 1, rows):
        block = record.positions[start : start + rows]
        vectors = record.positions[None, start:] - block[:, None]
        vectors = vectors - np.round(vectors @ inverse) @ periodic
        squares = np.einsum("ijk,ijk->ij", vectors, vectors)
        squares[np.tril_indices(len(block), 0, squares.shape[1])] = np.inf
        flat = int(squares.argmin())
        first, second = divmod(flat, squares.shape[1])
        if squares[first, second] < best[2] ** 2:
            best = (start + first, start + second, float(np.sqrt(squares[first, second])))
    return best


class FieldBook:
    """Keeps what every label of a data set looks like and refuses one that differs."""

    def __init__(self) -> None:
        self._fields: dict[str, tuple[LabelField, str]] = {}

    @property
    def fields(self) -> tuple[LabelField, ...]:
        """Labels seen so far, by name."""
        return tuple(self._fields[name][0] for name in sorted(self._fields))

    def know(self, fields: Iterable[LabelField], where: str) -> None:
        """Notes labels that are there already; ``where`` says where, for people."""
        for field in fields:
            self._fields.setdefault(field.name, (field, where))

    def check(self, record: CrystalRecord) -> None:
        """Notes the labels of ``record``.

        Raises:
            UnitError: If energy, forces or stress come in another unit than the project's.
            RecordError: If a label differs from that of an earlier record in unit, shape or scheme.
        """
        found = {name: label.field(name) for name, label in record.labels.items()}
        for name, field in found.items():
            if name in self._fields:
                _check_same(record.id, field, *self._fields[name])
            else:
                _check_new(record.id, field)
        for name, field in found.items():
            self._fields.setdefault(name, (field, f"record {record.id!r}"))


def _check_same(record_id: str, field: LabelField, known: LabelField, known_where: str) -> None:
    if field == known:
        return
    differing = [key for key, value in asdict(field).items() if value != asdict(known)[key]]
    raise RecordError(
        f"record {record_id!r}: label {field.name!r} has "
        + ", ".join(f"{key} {getattr(field, key)!r}" for key in differing)
        + f", but {known_where} has "
        + ", ".join(f"{key} {getattr(known, key)!r}" for key in differing)
        + "; one label must mean one thing in a data set"
    )


def _check_new(record_id: str, field: LabelField) -> None:
    if not _LABEL_NAME.fullmatch(field.name):
        raise RecordError(
            f"record {record_id!r}: label name {field.name!r} must be a letter followed by "
            "letters, digits, '_', '.' or '-'"
        )
    if 0 in field.shape:
        raise RecordError(f"record {record_id!r}: label {field.name!r} has empty values")
    wanted = CANONICAL_UNITS.get(field.name)
    if wanted is not None and field.unit != wanted:
        raise UnitError(
            f"record {record_id!r}: {field.name} is in {field.unit!r}, expected {wanted!r}; "
            "convert it in the source (see epitaxy.units.factor)"
        )
    if field.name in _SHAPES and (field.per_atom, field.shape) != _SHAPES[field.name]:
        per_atom, shape = _SHAPES[field.name]
        raise RecordError(
            f"record {record_id!r}: {field.name} has shape {field.shape} "
            f"({'per atom' if field.per_atom else 'per crystal'}), expected {shape} "
            f"({'per atom' if per_atom else 'per crystal'})"
        )
