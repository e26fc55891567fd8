"""Edges of structures that were seen before, packed in memory; off unless asked for.

A structure is recognised by the digest of its atoms, positions and cell, so a view that moves an
atom never gets another's edges. An edge takes 5 bytes instead of 28. The cache lives and dies with
its process, and so with the kernels that filled it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
import torch

from epitaxy.graph.batch import Graph
from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

Key = tuple[str, GraphSpec]

_OVERHEAD = 500
"""Bytes that an entry takes besides its arrays: key, digest, headers."""
_NARROW = (np.uint16, np.uint16, np.int8)
_WIDE = (np.uint32, np.uint32, np.int32)


def is_cacheable(spec: GraphSpec) -> bool:
    """Whether a graph of ``spec`` is nothing but edges sorted by their centres."""
    plain = not (spec.padded or spec.reverse or spec.line_graph)
    return plain and spec.rule in ("radius", "nearest")


@dataclass(frozen=True)
class _Packed:
    """One crystal's edges: neighbours, number of edges per centre, images."""

    source: np.ndarray
    degrees: np.ndarray
    shifts: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.source.nbytes + self.degrees.nbytes + self.shifts.nbytes + _OVERHEAD


class EdgeCache:
    """Edges by structure and graph rule; beyond its capacity the longest unused are forgotten.

    Safe to use from several threads.

    Args:
        capacity: Bytes of packed edges to keep.

    Attributes:
        size: Bytes kept.
        hits: Structures whose edges were found.
        misses: Structures whose edges were built.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self.size = capacity, 0
        self._entries: OrderedDict[Key, _Packed] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def graph(self, spec: GraphSpec, records: Sequence[CrystalRecord]) -> Graph:
        """Returns the graph that ``collate`` builds of ``records``; ``spec`` must be cacheable."""
        keys = [(record.structure_digest(), spec) for record in records]
        found = self._look_up(keys)
        missing = [index for index, packed in enumerate(found) if packed is None]
        built = _pack_all(spec, [records[index] for index in missing])
        for index, packed in zip(missing, built, strict=True):
            found[index] = packed
        self._store([keys[index] for index in missing], built)
        return _unpack_all([packed for packed in found if packed is not None])

    def _look_up(self, keys: Sequence[Key]) -> list[_Packed | None]:
        with self._lock:
            found = [self._entries.get(key) for key in keys]
            for key, packed in zip(keys, found, strict=True):
                if packed is not None:
                    self._entries.move_to_end(key)
                    self.hits += 1
            self.misses += found.count(None)
        return found

    def _store(self, keys: Sequence[Key], built: Sequence[_Packed]) -> None:
        with self._lock:
            for key, packed in zip(keys, built, strict=True):
                if key not in self._entries:
                    self._entries[key] = packed
                    self.size += packed.nbytes
            while self.size > self._capacity:
                _, forgotten = self._entries.popitem(last=False)
                self.size -= forgotten.nbytes


def _pack_all(spec: GraphSpec, records: Sequence[CrystalRecord]) -> list[_Packed]:
    if not records:
        return []
    offsets = np.cumsum([0, *(record.num_atoms for record in records)])
    edges = build_edges(
        spec,
        np.concatenate([record.positions for record in records]),
        np.stack([record.cell for record in records]),
        np.stack([record.pbc for record in records]),
        offsets,
        names=[record.id for record in records],
    )
    degrees = np.bincount(edges.target, minlength=offsets[-1])
    packed = []
    for index, (first, end) in enumerate(pairwise(offsets)):
        part = slice(*edges.edge_offsets[index : index + 2])
        packed.append(_pack(edges.source[part] - first, degrees[first:end], edges.shifts[part]))
    return packed


def _pack(source: np.ndarray, degrees: np.ndarray, shifts: np.ndarray) -> _Packed:
    largest = max(len(degrees), int(degrees.max(initial=0)))
    narrow = largest < 2**16 and int(np.abs(shifts).max(initial=0)) < 2**7
    columns = zip((source, degrees, shifts), _NARROW if narrow else _WIDE, strict=True)
    return _Packed(*(column.astype(dtype) for column, dtype in columns))


def _unpack_all(crystals: Sequence[_Packed]) -> Graph:
    total = sum(len(packed.source) for packed in crystals)
    source, target = np.empty(total, np.int64), np.empty(total, np.int64)
    shifts = np.empty((total, 3), np.int32)
    edge = atom = 0
    for packed in crystals:
        _unpack(packed.source, packed.degrees, packed.shifts, atom, edge, source, target, shifts)
        edge, atom = edge + len(packed.source), atom + len(packed.degrees)
    return Graph(torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(shifts))


@numba.njit(nogil=True, cache=True)
def _unpack(
    neighbours: np.ndarray,
    degrees: np.ndarray,
    images: np.ndarray,
    first_atom: int,
    first_edge: int,
    source: np.ndarray,
    target: np.ndarray,
    shifts: np.ndarray,
) -> None:
    """Writes one crystal's edges into a batch's arrays."""
    number = 0
    for centre in range(len(degrees)):
        for _ in range(degrees[centre]):
            edge = first_edge + number
            source[edge] = neighbours[number] + first_atom
            target[edge] = centre + first_atom
            for axis in range(3):
                shifts[edge, axis] = images[number, axis]
            number += 1
