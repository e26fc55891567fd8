"""A bounded, order-independent sample of a data set's frames, grouped by ordered atomic numbers."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from epitaxy.graph.record import CrystalRecord

FAMILY_FRAMES = 300
"""Frames kept of one family; fewer where a frame has more than about 700 atoms."""
FAMILY_ATOMS = 200_000
BLOCK = 16
"""Frames whose ids differ in a trailing number are kept or left out in blocks of this many, so
that neighbours of a trajectory stay together."""
_BYTES_PER_ATOM = 40
_BYTES_PER_FRAME = 1500
MAX_BYTES = 80_000_000

_TRAILING_NUMBER = re.compile(r"\d{1,15}$")


@dataclass(frozen=True, slots=True)
class Frame:
    """What the checks need of one record; ``None`` where it has no such label.

    Attributes:
        id: Of the record.
        numbers: Atomic numbers.
        positions: Cartesian, Å.
        cell: Lattice vectors as rows, Å.
        pbc: Periodic axes.
        energy: As declared: total, eV.
        forces: As declared: eV/Å.
        stress: As declared: eV/Å³, tension positive.
    """

    id: str
    numbers: UInt8[np.ndarray, " atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    cell: Float64[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, "3"]
    energy: float | None
    forces: Float32[np.ndarray, "atoms 3"] | None
    stress: Float64[np.ndarray, "3 3"] | None

    @classmethod
    def of(cls, record: CrystalRecord) -> Frame | None:
        """Returns the frame of ``record``; ``None`` for a composition or without any label."""
        if record.is_composition:
            return None
        labels = record.labels
        energy, forces, stress = (labels.get(name) for name in ("energy", "forces", "stress"))
        if energy is not None and energy.value.size != 1:
            energy = None
        if forces is not None and forces.value.shape != (len(record.numbers), 3):
            forces = None
        if stress is not None and (stress.value.shape != (3, 3) or not record.pbc.all()):
            stress = None
        if energy is None and forces is None and stress is None:
            return None
        return cls(
            record.id,
            _own(record.numbers),
            _own(record.positions),
            _own(record.cell),
            _own(record.pbc),
            None if energy is None else float(energy.value.reshape(())),
            None if forces is None else _own(forces.value),
            None if stress is None else _own(stress.value),
        )

    @property
    def num_atoms(self) -> int:
        """Atoms in the cell."""
        return len(self.numbers)

    @property
    def volume(self) -> float:
        """Of the cell, Å³."""
        return float(abs(np.linalg.det(self.cell)))


class Sample:
    """Whole families with the smallest keyed hash, as many as fit into ``max_bytes``.

    Of each family (same atomic numbers in the same order, same periodic axes, same labels) the
    blocks of frames with the smallest keyed hash of their ids are kept. What is kept depends on the
    set of frames only, not on their order or on how readers shared them.
    """

    def __init__(self, seed: int, max_frames: int, max_bytes: int = MAX_BYTES) -> None:
        self._key = str(seed).encode()
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._families: dict[int, list[tuple[int, int, Frame]]] = {}
        self._hashes: list[int] = []
        self._threshold = 1 << 64
        self._frames = 0
        self._bytes = 0
        self._added = 0

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[Frame]:
        for family in self.families():
            yield from family

    def families(self) -> list[list[Frame]]:
        """Returns the families in the order of their hashes, frames in the natural order of ids."""
        return [
            sorted((item[2] for item in self._families[key]), key=_natural)
            for key in sorted(self._families)
        ]

    def add(self, frame: Frame) -> None:
        """Offers a frame."""
        content = bytes(
            [
                *frame.pbc.tobytes(),
                frame.energy is not None,
                frame.forces is not None,
                frame.stress is not None,
            ]
        )
        family = self._hash(frame.numbers.tobytes() + content)
        if family < self._threshold:
            self._insert(family, self._priority(frame.id), frame)

    def merge(self, other: Sample) -> None:
        """Adds what another reader has sampled."""
        self._threshold = min(self._threshold, other._threshold)
        for family, items in other._families.items():
            for priority, _, frame in items:
                if family < self._threshold:
                    self._insert(family, -priority, frame)
        while self._hashes and -self._hashes[0] >= self._threshold:
            self._drop_last()

    def _insert(self, family: int, priority: int, frame: Frame) -> None:
        items = self._families.get(family)
        if items is None:
            items = self._families[family] = []
            heapq.heappush(self._hashes, -family)
        self._added += 1
        item = (-priority, self._added, frame)
        capacity = min(FAMILY_FRAMES, max(BLOCK, FAMILY_ATOMS // frame.num_atoms))
        if len(items) >= capacity:
            heapq.heappushpop(items, item)
            return
        heapq.heappush(items, item)
        self._frames += 1
        self._bytes += _cost(frame)
        while self._frames > self._max_frames or self._bytes > self._max_bytes:
            if len(self._hashes) == 1:
                return
            self._threshold = -self._hashes[0]
            self._drop_last()

    def _drop_last(self) -> None:
        items = self._families.pop(-heapq.heappop(self._hashes))
        self._frames -= len(items)
        self._bytes -= sum(_cost(frame) for _, _, frame in items)

    def _priority(self, name: str) -> int:
        found = _TRAILING_NUMBER.search(name)
        if found is None:
            return self._hash(name.encode())
        block = f"{name[: found.start()]}/{int(found.group()) // BLOCK}"
        return (self._hash(block.encode()) << 64) | self._hash(name.encode())

    def _hash(self, content: bytes) -> int:
        digest = hashlib.blake2b(content, key=self._key, digest_size=8).digest()
        return int.from_bytes(digest, "little")


def _own(array: np.ndarray) -> np.ndarray:
    # A view would keep alive all that it was cut from, a whole shard perhaps.
    return array if array.base is None else array.copy()


def _cost(frame: Frame) -> int:
    return _BYTES_PER_FRAME + _BYTES_PER_ATOM * frame.num_atoms


def _natural(frame: Frame) -> tuple[str, int, str]:
    found = _TRAILING_NUMBER.search(frame.id)
    if found is None:
        return frame.id, -1, frame.id
    return frame.id[: found.start()], int(found.group()), frame.id
