"""Leaves out of a batch what its views hide: elements of atoms, and edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, UInt8, UInt64
from torch import Tensor

from epitaxy.errors import ConfigError
from epitaxy.graph.batch import Graph, LineGraph
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

_ROUNDING = 1e-9
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def hide_elements(record: CrystalRecord) -> UInt8[np.ndarray, " atoms"]:
    """Returns the atomic numbers that an encoder is shown: 0 where the view hides the element."""
    if record.hiding is None or record.hiding.atoms is None:
        return record.numbers
    return np.where(record.hiding.atoms, 0, record.numbers).astype(np.uint8)


def hide_edges(graph: Graph, spec: GraphSpec, records: Sequence[CrystalRecord]) -> Graph:
    """Returns ``graph`` without the edges that the views hide.

    Of the ``m`` edges that arrive at an atom ``⌈(1 − share) m⌉`` stay. Which ones follows from the
    key, the two atoms and the image alone, so every builder of the graph hides the same. In a
    padded graph a hidden edge becomes fill, as in the authors' code of Crystal Twins.

    Args:
        graph: Edges of all records.
        spec: What it was built by.
        records: In the order of the batch.

    Raises:
        ConfigError: If a graph of this kind cannot lose edges.
    """
    shares = np.array([record.hiding.edges if record.hiding else 0.0 for record in records])
    if not shares.any():
        return graph
    if spec.rule == "composition" or spec.reverse:
        what = "lists which edges run back" if spec.reverse else "has all pairs of elements"
        raise ConfigError(f"views cannot hide edges of a graph that {what}; set edge_mask=0")
    kept = torch.from_numpy(_kept(graph, records, shares))
    if graph.padded is not None:
        return _filled(graph, kept, records)
    return replace(
        graph,
        source=graph.source[kept],
        target=graph.target[kept],
        shifts=graph.shifts[kept],
        line=None if graph.line is None else _pairs(graph.line, kept),
    )


def _kept(
    graph: Graph, records: Sequence[CrystalRecord], shares: np.ndarray
) -> Bool[np.ndarray, " edges"]:
    target = graph.target.numpy()
    crystal = _crystal_of(records)[target]
    real = np.ones(len(target), bool) if graph.padded is None else ~graph.padded.numpy()
    words = _words(graph, records, crystal)
    # By target, real edges first, in random order: an edge's place in it is its rank.
    order = np.lexsort((words, ~real, target))
    firsts = np.searchsorted(target, target)
    rank = np.empty(len(target), np.int64)
    rank[order] = np.arange(len(target)) - firsts[order]
    atoms = int(target.max(initial=-1)) + 1
    degree = np.bincount(target[real], minlength=atoms)[target]
    return (rank < np.ceil((1.0 - shares[crystal]) * degree - _ROUNDING)) | ~real


def _words(
    graph: Graph, records: Sequence[CrystalRecord], crystal: np.ndarray
) -> UInt64[np.ndarray, " edges"]:
    """Returns a random word for each edge, from the key of its crystal and what the edge is."""
    first = np.cumsum([0, *(record.num_atoms for record in records)])[crystal]
    keys = np.array([record.hiding.key if record.hiding else 0 for record in records], np.uint64)
    words = keys[crystal]
    columns = [graph.source.numpy() - first, graph.target.numpy() - first, *graph.shifts.numpy().T]
    for column in columns:
        words = _mixed(words ^ column.astype(np.int64).astype(np.uint64))
    return words


def _mixed(words: UInt64[np.ndarray, " edges"]) -> UInt64[np.ndarray, " edges"]:
    """Returns words of which each depends on all bits of one (SplitMix64, Steele et al. 2014)."""
    increment, first, second = (np.uint64(number) for number in _MULTIPLIERS)
    words = words + increment
    words = (words ^ (words >> np.uint64(30))) * first
    words = (words ^ (words >> np.uint64(27))) * second
    return words ^ (words >> np.uint64(31))


def _crystal_of(records: Sequence[CrystalRecord]) -> np.ndarray:
    return np.repeat(np.arange(len(records)), [record.num_atoms for record in records])


def _filled(graph: Graph, kept: Tensor, records: Sequence[CrystalRecord]) -> Graph:
    """Returns a padded graph in which edges that are not ``kept`` are fill."""
    firsts = np.cumsum([0, *(record.num_atoms for record in records)])
    first = torch.from_numpy(firsts[_crystal_of(records)])[graph.target]
    padded = torch.zeros_like(kept) if graph.padded is None else graph.padded
    return replace(
        graph,
        source=torch.where(kept, graph.source, first),
        shifts=torch.where(kept.unsqueeze(-1), graph.shifts, 0),
        padded=padded | ~kept,
    )


def _pairs(line: LineGraph, kept: Tensor) -> LineGraph:
    """Returns the pairs of which both edges are kept, with the edges' new numbers."""
    number = kept.cumsum(0) - 1
    both = kept[line.source] & kept[line.target]
    return LineGraph(number[line.source[both]], number[line.target[both]])
