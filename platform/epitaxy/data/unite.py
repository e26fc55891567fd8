"""Several records of one structure become one record with the labels of all.

A scalar belongs to the crystal and can move to another description of it. Forces, stresses, other
vectors and tensors belong to one cell, order of atoms and orientation, and the total energy to one
number of atoms: a record with such labels is united only with records that agree in these. A
Magpie vector belongs to the composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from epitaxy.data.magpie import MAGPIE
from epitaxy.errors import RecordError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label, LabelField

Rule = Literal["first", "mean", "error"]

SAME_GEOMETRY = 1e-3
"""Å. Cells and positions that differ by less are one description of a structure."""

_EXTENSIVE = ("energy",)
_OF_COMPOSITION = (AMOUNT, MAGPIE)
_EXAMPLES = 5
_TINY = 1e-9


class Member(NamedTuple):
    """A record and the name of the data set it is from."""

    dataset: str
    record: CrystalRecord


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        sources: Name of each data set to its number of records.
        records: Records made.
        united: How many of them were made from several.
        kept_apart: Records that match another one but stay on their own, because of labels that
            belong to another cell, order or number of atoms, or orientation.
        renamed: Records whose id another record had already.
        conflicts: Label to the number of records in which its values disagree.
        examples: Label to the first of those records: its id, and the value in each source.
        dropped: Label to the number of values left out because their scheme, unit or shape is not
            that of the first data set with the label.
    """

    sources: dict[str, int] = field(default_factory=dict)
    records: int = 0
    united: int = 0
    kept_apart: int = 0
    renamed: int = 0
    conflicts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as JSON-ready data."""
        return dict(vars(self))


def fitting(members: Sequence[Member]) -> list[list[Member]]:
    """Returns ``members``, all of one structure, in the parts that can each become one record."""
    parts: list[list[Member]] = []
    for member in members:
        for part in parts:
            if all(_fit(member.record, other.record) for other in part):
                part.append(member)
                break
        else:
            parts.append([member])
    return parts


def unite(
    members: Sequence[Member],
    identity: str,
    fields: Mapping[str, LabelField],
    rule: Rule,
    tolerance: float,
    report: MergeReport,
) -> CrystalRecord:
    """Returns the structure of the first of ``members`` with the labels of all.

    Args:
        members: Records that fit together.
        identity: Id of the new record.
        fields: What a label must look like to be taken.
        rule: Which value a label gets where values disagree; ``mean`` also averages values that
            agree.
        tolerance: Relative difference up to which two values agree.
        report: Receives what was left out and where values disagree.

    Raises:
        RecordError: If values disagree and ``rule`` is ``error``.
    """
    values: dict[str, list[tuple[Member, Label]]] = {}
    for member in members:
        for name, label in member.record.labels.items():
            if name == AMOUNT:
                continue
            if label.field(name) == fields[name]:
                values.setdefault(name, []).append((member, label))
            else:
                report.dropped[name] = report.dropped.get(name, 0) + 1
    head = members[0].record
    labels = {name: head.labels[name] for name in (AMOUNT,) if name in head.labels}
    for name, found in values.items():
        if not all(_agree(one[1], found[0][1], tolerance) for one in found[1:]):
            _note(identity, name, found, rule, report)
        labels[name] = found[0][1] if rule != "mean" else _mean([label for _, label in found])
    return head.replace(id=identity, labels=labels)


def _note(
    identity: str,
    name: str,
    found: Sequence[tuple[Member, Label]],
    rule: Rule,
    report: MergeReport,
) -> None:
    """Counts a label whose values disagree, or refuses it."""
    listed = [
        {
            "dataset": member.dataset,
            "id": member.record.id,
            "value": label.value.tolist() if label.value.ndim == 0 else "not scalar",
        }
        for member, label in found
    ]
    if rule == "error":
        told = ", ".join(f"{one['value']} ({one['dataset']}, {one['id']})" for one in listed)
        raise RecordError(
            f"record {identity!r}: the values of {name!r} disagree: {told}; "
            "conflicts=first or conflicts=mean takes one, or raise the tolerance"
        )
    report.conflicts[name] = report.conflicts.get(name, 0) + 1
    examples = report.examples.setdefault(name, [])
    if len(examples) < _EXAMPLES:
        examples.append({"id": identity, "values": listed})


def _agree(label: Label, other: Label, tolerance: float) -> bool:
    size = np.maximum(np.abs(label.value), np.abs(other.value))
    return bool((np.abs(label.value - other.value) <= tolerance * size + _TINY).all())


def _mean(labels: Sequence[Label]) -> Label:
    if len(labels) == 1:
        return labels[0]
    value = np.mean([label.value.astype(np.float64) for label in labels], axis=0)
    return Label(value, labels[0].unit, labels[0].scheme, labels[0].per_atom)


def _fit(record: CrystalRecord, other: CrystalRecord) -> bool:
    """Whether the labels of both hold for one description of the structure."""
    labels = [
        (name, label) for one in (record, other) for name, label in one.labels.items()
        if name not in _OF_COMPOSITION
    ]  # fmt: skip
    if any(name in _EXTENSIVE for name, _ in labels) and record.num_atoms != other.num_atoms:
        return False
    bound = any(label.per_atom or label.value.ndim for _, label in labels)
    return not bound or _one_geometry(record, other)


def _one_geometry(record: CrystalRecord, other: CrystalRecord) -> bool:
    """Whether two records agree in cell, order of atoms, orientation and positions."""
    if not (
        np.array_equal(record.numbers, other.numbers)
        and np.array_equal(record.pbc, other.pbc)
        and np.abs(record.cell - other.cell)[record.pbc].max(initial=0.0) <= SAME_GEOMETRY
    ):
        return False
    periodic = record.cell[record.pbc]
    apart = record.positions - other.positions
    if len(periodic):
        apart = apart - np.round(apart @ np.linalg.pinv(periodic)) @ periodic
    return float(np.abs(apart).max()) <= SAME_GEOMETRY
