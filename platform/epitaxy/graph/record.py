"""One crystal as plain arrays: what sources produce, shards store and views change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from numpy.typing import ArrayLike

from epitaxy.errors import RecordError

MAX_ATOMIC_NUMBER = 118
MIN_VOLUME_PER_CELL = 1e-6
"""Å³. A periodic cell below this is singular for every purpose."""
AMOUNT = "amount"
"""Per-atom label of a composition: how much of each element; such a record has no structure."""


@dataclass(frozen=True)
class LabelField:
    """What every record's label of one name looks like; the manifest lists them.

    Attributes:
        name: Name of the label, e.g. ``energy``.
        unit: Its unit after import, e.g. ``eV``; empty if it has none.
        shape: Shape of one value: ``()`` for an energy, ``(3,)`` for one atom's force.
        per_atom: Whether a record holds one value per atom.
        scheme: How the value came about (functional, correction), e.g. ``PBE uncorrected``.
    """

    name: str
    unit: str
    shape: tuple[int, ...] = ()
    per_atom: bool = False
    scheme: str = ""


@dataclass(frozen=True, eq=False)
class Label:
    """One label of one record: fp64 for crystals, fp32 per atom (``per_atom``)."""

    value: np.ndarray
    unit: str
    scheme: str = ""
    per_atom: bool = False

    def __post_init__(self) -> None:
        dtype = np.float32 if self.per_atom else np.float64
        # asarray, not ascontiguousarray: the latter turns a scalar into a vector.
        value = np.asarray(self.value, dtype=dtype, order="C")
        object.__setattr__(self, "value", value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Label):
            return NotImplemented
        same = (self.unit, self.scheme, self.per_atom) == (other.unit, other.scheme, other.per_atom)
        return same and np.array_equal(self.value, other.value, equal_nan=True)

    def field(self, name: str) -> LabelField:
        """Returns the description of this label under ``name``."""
        shape = self.value.shape[1:] if self.per_atom else self.value.shape
        return LabelField(name, self.unit, shape, self.per_atom, self.scheme)


@dataclass(frozen=True, eq=False)
class Hiding:
    """What a view hides of its crystal from the encoder. Shards never hold it.

    Attributes:
        atoms: Whose element is hidden: the encoder sees atomic number 0, (atoms,); ``None`` for
            no atom.
        edges: Share of each atom's edges that is left out of every graph, rounded down.
        key: Chooses which edges these are.
    """

    atoms: Bool[np.ndarray, " atoms"] | None = None
    edges: float = 0.0
    key: int = 0


@dataclass(frozen=True, eq=False)
class CrystalRecord:
    """A crystal with its labels.

    Attributes:
        id: Unique within a data set.
        numbers: Atomic numbers, (atoms,).
        positions: Cartesian coordinates in Å, (atoms, 3); atoms may lie outside the cell.
        cell: Lattice vectors as rows in Å, (3, 3); zero rows along non-periodic axes are legal.
        pbc: Whether each lattice vector is periodic, (3,).
        labels: Name to label.
        group: Material the record belongs to, for splits that do not leak; defaults to ``id``.
        hiding: What a view hides.

    Raises:
        RecordError: If shapes disagree, a number is not finite or no element, or a periodic
            cell has no volume.
    """

    id: str
    numbers: UInt8[np.ndarray, " atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    cell: Float64[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, "3"] = field(default_factory=lambda: np.ones(3, dtype=bool))
    labels: Mapping[str, Label] = field(default_factory=dict)
    group: str = ""
    hiding: Hiding | None = None

    def __post_init__(self) -> None:
        _check_numbers(self.id, self.numbers)
        arrays = {
            "numbers": np.ascontiguousarray(self.numbers, dtype=np.uint8),
            "positions": _array(self.id, "positions", self.positions, (len(self.numbers), 3)),
            "cell": _array(self.id, "cell", self.cell, (3, 3)),
            "pbc": np.ascontiguousarray(np.broadcast_to(self.pbc, (3,)), dtype=bool),
        }
        for name, value in arrays.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))
        object.__setattr__(self, "group", self.group or self.id)
        _check_volume(self)
        _check_labels(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "labels": dict(self.labels)}  # a mapping proxy cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, labels=MappingProxyType(state["labels"]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CrystalRecord):
            return NotImplemented
        arrays = ("numbers", "positions", "cell", "pbc")
        return (
            (self.id, self.group) == (other.id, other.group)
            and all(np.array_equal(getattr(self, n), getattr(other, n)) for n in arrays)
            and dict(self.labels) == dict(other.labels)
        )

    @property
    def num_atoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.numbers)

    @property
    def is_composition(self) -> bool:
        """Whether the record is a composition: one "atom" per element, no structure."""
        return AMOUNT in self.labels

    @property
    def volume(self) -> float:
        """|det cell| in Å³; meaningful only where all three axes are periodic."""
        return float(abs(np.linalg.det(self.cell)))

    def replace(self, **changes: Any) -> CrystalRecord:
        """Returns a checked copy with ``changes`` applied."""
        return replace_fields(self, **changes)

    def structure_digest(self) -> str:
        """Returns a hash of ordered atomic numbers, positions, cell and pbc only (hex)."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(len(self.numbers).to_bytes(8, "little"))
        for array in (self.numbers, self.positions, self.cell, self.pbc):
            digest.update(array.tobytes())
        return digest.hexdigest()


def _array(record_id: str, name: str, value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    array = np.ascontiguousarray(value, dtype=np.float64)
    if array.shape != shape:
        raise RecordError(f"record {record_id!r}: {name} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise RecordError(f"record {record_id!r}: {name} holds NaN or infinity")
    return array


def _check_numbers(record_id: str, numbers: ArrayLike) -> None:
    if not record_id:
        raise RecordError("a record needs a non-empty id")
    values = np.asarray(numbers)
    if values.ndim != 1 or len(values) == 0:
        raise RecordError(f"record {record_id!r}: needs at least one atom, got {values.shape}")
    unknown = values[(values < 1) | (values > MAX_ATOMIC_NUMBER)]
    if len(unknown):
        raise RecordError(
            f"record {record_id!r}: atomic number {unknown[0]} is no element "
            f"(1 to {MAX_ATOMIC_NUMBER})"
        )


def _check_volume(record: CrystalRecord) -> None:
    periodic = record.cell[record.pbc]
    if len(periodic) == 3:
        volume = abs(float(np.linalg.det(periodic)))
    else:
        volume = float(np.sqrt(abs(np.linalg.det(periodic @ periodic.T))))
    if len(periodic) and volume < MIN_VOLUME_PER_CELL:
        raise RecordError(
            f"record {record.id!r}: the periodic lattice vectors {periodic.tolist()} span no volume"
        )


def _check_labels(record: CrystalRecord) -> None:
    for name, label in record.labels.items():
        if label.per_atom and len(label.value) != record.num_atoms:
            raise RecordError(
                f"record {record.id!r}: label {name!r} has {len(label.value)} rows "
                f"for {record.num_atoms} atoms"
            )
        if not np.isfinite(label.value).all():
            raise RecordError(f"record {record.id!r}: label {name!r} holds NaN or infinity")
