"""Tables of what a model weighs, as CSV files: edges, atoms, angles and features."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.graph.record import AMOUNT
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.predict.explain import AngleWeights, EdgeWeights, Explained, Explanation

EDGES, ATOMS, ANGLES, FEATURES = "edges.csv", "atoms.csv", "angles.csv", "features.csv"

Row = Sequence[Any]


def write_tables(explained: Explained, folder: Path) -> list[str]:
    """Writes a file for everything that the encoder weighs; returns their names.

    ``edges.csv``: a row for each directed edge; ``atoms.csv``: for each atom; ``angles.csv``: for
    each pair of edges; ``features.csv``: for each element feature of a mask. ``id`` is that of the
    record; edges and atoms are counted from 0 in each record.
    """
    tables = {
        EDGES: edge_rows(explained.crystals),
        ATOMS: atom_rows(explained.crystals),
        ANGLES: angle_rows(explained.crystals),
        FEATURES: feature_rows(explained),
    }
    written = []
    for name, rows in tables.items():
        head = next(rows, None)
        if head is None:
            continue
        with (folder / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(head)
            writer.writerows([_text(value) for value in row] for row in rows)
        written.append(name)
    return written


def edge_rows(crystals: Sequence[Explanation]) -> Iterator[Row]:
    """Yields the header and a row for each edge; nothing without weights of edges."""
    known = [crystal.edges for crystal in crystals if crystal.edges is not None]
    if not known:
        return
    layers = _layers(known[0].layers)
    real = known[0].distances is not None
    faded = known[0].envelope is not None
    yield [
        *("id", "edge", "source", "target", "source_element", "target_element"),
        *(("shift_a", "shift_b", "shift_c", "distance_angstrom") if real else ()),
        *(("envelope",) if faded else ()),
        *layers,
        "weight",
    ]
    for crystal in crystals:
        if crystal.edges is not None:
            yield from _edges(crystal, crystal.edges)


def _edges(crystal: Explanation, edges: EdgeWeights) -> Iterator[Row]:
    symbols = [SYMBOLS[number] for number in crystal.record.numbers]
    mean = edges.mean
    for edge in range(len(edges)):
        source, target = int(edges.source[edge]), int(edges.target[edge])
        row: list[Any] = [crystal.record.id, edge, source, target]
        row += [symbols[source], symbols[target]]
        if edges.distances is not None:
            row += [*edges.shifts[edge].tolist(), edges.distances[edge]]
        if edges.envelope is not None:
            row.append(edges.envelope[edge])
        yield [*row, *edges.layers[edge], mean[edge]]


def atom_rows(crystals: Sequence[Explanation]) -> Iterator[Row]:
    """Yields the header and a row for each atom, or element of a composition."""
    if all(crystal.edges is None and crystal.pooled is None for crystal in crystals):
        return
    composed = crystals[0].record.is_composition
    place = ("amount",) if composed else ("x_angstrom", "y_angstrom", "z_angstrom")
    weighed = crystals[0].edges is not None
    pooled = crystals[0].pooled is not None
    sums = ("received", "sent") if weighed else ()
    yield ["id", "atom", "element", *place, *sums, *(("pooled",) if pooled else ())]
    for crystal in crystals:
        record = crystal.record
        where = record.labels[AMOUNT].value.reshape(-1, 1) if composed else record.positions
        known = [crystal.received, crystal.sent, crystal.pooled]
        weights = np.stack([column for column in known if column is not None], axis=1)
        for atom, number in enumerate(record.numbers):
            yield [record.id, atom, SYMBOLS[number], *where[atom], *weights[atom]]


def angle_rows(crystals: Sequence[Explanation]) -> Iterator[Row]:
    """Yields the header and a row for each pair of edges a → b and b → c; nothing without."""
    known = [crystal.angles for crystal in crystals if crystal.angles is not None]
    if not known:
        return
    atoms = ("atom_a", "atom_b", "atom_c")
    yield [
        "id",
        "first_edge",
        "second_edge",
        *atoms,
        "degrees",
        *_layers(known[0].layers),
        "weight",
    ]
    for crystal in crystals:
        if crystal.angles is not None and crystal.edges is not None:
            yield from _angles(crystal.record.id, crystal.edges, crystal.angles)


def _angles(identity: str, edges: EdgeWeights, angles: AngleWeights) -> Iterator[Row]:
    mean = angles.mean
    pairs = zip(angles.first.tolist(), angles.second.tolist(), strict=True)
    for place, (first, second) in enumerate(pairs):
        atoms = (edges.source[first], edges.target[first], edges.target[second])
        weights = (angles.degrees[place], *angles.layers[place], mean[place])
        yield [identity, first, second, *map(int, atoms), *weights]


def feature_rows(explained: Explained) -> Iterator[Row]:
    """Yields the header and the weight of each element feature; nothing without a mask."""
    if explained.features:
        yield ["feature", "weight"]
        yield from explained.features.items()


def _layers(weights: np.ndarray) -> list[str]:
    return [f"layer_{layer + 1}" for layer in range(weights.shape[1])]


def _text(value: Any) -> Any:
    return f"{float(value):.7g}" if isinstance(value, float | np.floating) else value
