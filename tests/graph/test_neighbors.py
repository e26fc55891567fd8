from __future__ import annotations

import numpy as np
import pytest

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.neighbors import build_edges, count_neighbors
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

RADIUS = GraphSpec(cutoff=8.0)


def cubic(length: float, fractions, name: str = "cubic", pbc=(True, True, True)) -> CrystalRecord:
    fractions = np.atleast_2d(np.array(fractions, dtype=float))
    cell = np.eye(3) * length
    return CrystalRecord(name, np.ones(len(fractions)), fractions @ cell, cell, np.array(pbc))


def dimer(distance: float) -> CrystalRecord:
    positions = np.array([[0.0, 0, 0], [distance, 0, 0]])
    return CrystalRecord("dimer", [1, 1], positions, np.zeros((3, 3)), np.zeros(3, bool))


FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
DIAMOND = FCC + [[x + 0.25 for x in corner] for corner in FCC]


@pytest.mark.parametrize(
    ("record", "cutoff", "per_atom"),
    [
        # Sums of squares up to 7: 6 + 12 + 8 + 6 + 24 + 24 + 0 lattice points.
        (cubic(3.0, [0, 0, 0]), 8.0, 80),
        # Shells of fcc at a/√2·√n: 12, 6, 24, 12, 24, 8, 48 and the 6 at exactly 2a.
        (cubic(4.0, FCC), 8.0, 140),
        (cubic(4.0, FCC), 7.999, 134),
        (cubic(4.0, FCC), 2.9, 12),
        # CsCl type: 8, 6, 12, 24, 8 and the 6 at exactly 8 Å.
        (cubic(4.0, [[0, 0, 0], [0.5, 0.5, 0.5]]), 8.0, 64),
        (cubic(4.0, [[0, 0, 0], [0.5, 0.5, 0.5]]), 7.999, 58),
        # Diamond: 4 at a√3/4, 12 at a/√2.
        (cubic(3.567, DIAMOND), 1.6, 4),
        (cubic(3.567, DIAMOND), 2.6, 16),
        # A 160 Å cell with one atom: nobody there.
        (cubic(160.0, [0.3, 0.4, 0.5]), 8.0, 0),
    ],
)
def test_shells_of_perfect_crystals(edges, record, cutoff, per_atom):
    found = edges(record, GraphSpec(cutoff=cutoff))
    counts = np.bincount(found.target, minlength=record.num_atoms)
    assert (counts == per_atom).all()


@pytest.mark.parametrize(
    ("distance", "inside"),
    [(8.0, True), (8.0 - 1e-6, True), (8.0 + 1e-6, False), (0.01, False), (0.0101, True)],
)
def test_limits_of_the_radius(edges, distance, inside):
    assert len(edges(dimer(distance), RADIUS).source) == (2 if inside else 0)


@pytest.mark.parametrize("turn", range(5))
def test_a_tie_at_the_cutoff_is_inside_in_any_orientation(crystals, rows, turn):
    """Rounding puts tied neighbours on either side of 8 Å; none may be lost."""
    record = crystals.fcc(lattice=4.0, primitive=False)
    rotation, _ = np.linalg.qr(np.random.default_rng(turn).normal(size=(3, 3)))
    offset = np.random.default_rng(turn + 100).normal(size=3) * 50
    moved = record.replace(
        positions=record.positions @ rotation + offset, cell=record.cell @ rotation
    )
    assert len(rows(moved, 8.0)) == 4 * 140


def test_edges_are_in_canonical_order(crystals, edges):
    found = edges(crystals.triclinic(3, 7), RADIUS)
    keys = np.column_stack([found.target, found.source, found.shifts])
    assert (np.lexsort(keys.T[::-1]) == np.arange(len(keys))).all()


def test_edge_vectors_reach_the_images(crystals, edges, distances):
    record = crystals.triclinic(4, 5)
    lengths = distances(record, edges(record, RADIUS))
    assert lengths.min() > 0.01
    assert lengths.max() <= 8.0


def test_every_edge_has_its_reverse(crystals, rows):
    forward = rows(crystals.triclinic(5, 6), 8.0)
    reverse = np.column_stack([forward[:, 1], forward[:, 0], -forward[:, 2:]])
    assert (reverse[np.lexsort(reverse.T[::-1])] == forward).all()


def test_translation_changes_nothing(crystals, rows):
    record = crystals.triclinic(6, 5)
    moved = record.replace(positions=record.positions + np.array([13.7, -250.1, 4.2]))
    assert (rows(moved, 8.0) == rows(record, 8.0)).all()


def test_moving_an_atom_by_a_lattice_vector_moves_its_images(crystals, rows):
    record = crystals.triclinic(7, 5)
    positions = record.positions.copy()
    translation = np.array([40, -7, 3])
    positions[2] += translation @ record.cell
    expected = rows(record, 8.0)
    expected[expected[:, 0] == 2, 2:] += translation
    expected[expected[:, 1] == 2, 2:] -= translation
    found = rows(record.replace(positions=positions), 8.0)
    assert (found == expected[np.lexsort(expected.T[::-1])]).all()


def test_permutation_relabels(crystals, rows):
    record = crystals.triclinic(8, 6)
    order = np.random.default_rng(0).permutation(6)
    expected = rows(record, 8.0)
    place = np.argsort(order)
    expected[:, :2] = place[expected[:, :2]]
    found = rows(record.replace(positions=record.positions[order]), 8.0)
    assert (found == expected[np.lexsort(expected.T[::-1])]).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_rotations_and_mirrors_change_nothing(crystals, rows, sign):
    record = crystals.triclinic(9, 5)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation[0] *= sign * np.sign(np.linalg.det(rotation))
    moved = record.replace(positions=record.positions @ rotation, cell=record.cell @ rotation)
    assert (rows(moved, 8.0) == rows(record, 8.0)).all()


def test_a_supercell_repeats_the_neighbours(crystals, edges, distances):
    record = crystals.triclinic(10, 3)
    repeats = np.array([[i, j, k] for i in range(2) for j in range(3) for k in range(2)])
    cell = record.cell * np.array([2, 3, 2])[:, None]
    positions = (record.positions[None] + (repeats @ record.cell)[:, None]).reshape(-1, 3)
    supercell = CrystalRecord("super", np.tile(record.numbers, 12), positions, cell)
    small, large = edges(record, RADIUS), edges(supercell, RADIUS)
    for atom in range(3):
        expected = np.sort(distances(record, small)[small.target == atom])
        for copy in range(12):
            found = np.sort(distances(supercell, large)[large.target == copy * 3 + atom])
            np.testing.assert_allclose(found, expected, atol=1e-9)


def test_another_basis_of_the_same_lattice(crystals, edges, distances):
    """A cell sheared by whole lattice vectors describes the same crystal."""
    record = crystals.triclinic(11, 4)
    sheared = record.replace(cell=np.array([[1, 0, 0], [9, 1, 0], [-4, 7, 1]]) @ record.cell)
    expected = np.sort(distances(record, edges(record, RADIUS)))
    found = np.sort(distances(sheared, edges(sheared, RADIUS)))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_batch_equals_its_crystals(crystals, edges):
    records = crystals.many(7, seed=1, max_atoms=9)
    records.insert(3, dimer(2.0))
    records.insert(5, cubic(160.0, [0, 0, 0]))
    offsets = np.concatenate([[0], np.cumsum([r.num_atoms for r in records])])
    batch = build_edges(
        RADIUS,
        np.concatenate([r.positions for r in records]),
        np.stack([r.cell for r in records]),
        np.stack([r.pbc for r in records]),
        offsets,
    )
    for index, record in enumerate(records):
        single = edges(record, RADIUS)
        part = slice(*batch.edge_offsets[index : index + 2])
        assert (batch.source[part] - offsets[index] == single.source).all()
        assert (batch.target[part] - offsets[index] == single.target).all()
        assert (batch.shifts[part] == single.shifts).all()
    assert batch.edge_offsets[-1] == len(batch.source)


def test_an_empty_batch_has_no_edges():
    empty = (np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3), bool), np.zeros(1, int))
    for spec in (RADIUS, GraphSpec("nearest", 8.0, 12, padded=True)):
        found = build_edges(spec, *empty)
        assert found.source.shape == (0,)
        assert found.shifts.shape == (0, 3)
        assert found.edge_offsets.tolist() == [0]
    assert count_neighbors(*empty, [5.0, 8.0]).shape == (0, 2)


@pytest.mark.parametrize("spec", [RADIUS, GraphSpec("nearest", 8.0, 6), GraphSpec("shell", 8.0, 6)])
@pytest.mark.parametrize("offsets", [[0, 0, 1], [0, 1, 1]])
def test_a_crystal_without_atoms_has_no_edges(spec, offsets):
    cells, pbc = np.stack([np.eye(3) * 8.0] * 2), np.ones((2, 3), bool)
    found = build_edges(spec, np.zeros((1, 3)), cells, pbc, np.array(offsets))
    assert found.edge_offsets.tolist() == [6 * offset for offset in offsets]


def test_counts_agree_with_the_edges(crystals, edges):
    record = crystals.triclinic(12, 6)
    arguments = (record.positions, record.cell[None], record.pbc[None], np.array([0, 6]))
    counts = count_neighbors(*arguments, [3.0, 5.0, 8.0])
    expected = [len(edges(record, GraphSpec(cutoff=r)).source) for r in (3.0, 5.0, 8.0)]
    assert counts.tolist() == [expected]


def test_memory_order_and_precision_of_the_input_do_not_matter(crystals):
    record = crystals.triclinic(13, 5)
    positions = np.round(record.positions, 3).astype(np.float32)
    cell, pbc, offsets = record.cell[None], record.pbc[None], np.array([0, 5])
    plain = build_edges(RADIUS, positions.astype(float), cell, pbc, offsets)
    odd = build_edges(
        RADIUS,
        np.asfortranarray(positions),
        np.asfortranarray(cell),
        pbc.astype(int),
        offsets.astype(np.int32),
    )
    assert (odd.source == plain.source).all()
    assert (odd.shifts == plain.shifts).all()


def test_a_dense_cluster_in_an_empty_box(rows, brute_force_route):
    """The number of edges is guessed from the volume first; here the guess is far too low."""
    positions = np.random.default_rng(0).uniform(0, 7, (250, 3))
    cluster = CrystalRecord("cluster", np.ones(250), positions, np.eye(3) * 400)
    found = rows(cluster, 12.2)
    assert len(found) == 250 * 249
    assert (found == brute_force_route(cluster, 12.2)).all()


def test_a_tiny_cell_is_refused_by_name(crystals):
    record = crystals.fcc().replace(cell=np.eye(3) * 0.011, id="nano")
    arguments = (record.positions, record.cell[None], record.pbc[None], np.array([0, 1]))
    with pytest.raises(RecordError, match=r"'nano'.*units of the cell"):
        build_edges(RADIUS, *arguments, names=["nano"])
    with pytest.raises(RecordError, match="crystal 0 of the batch"):
        count_neighbors(*arguments, [8.0])


@pytest.mark.parametrize("value", [1e30, -1e12])
def test_an_atom_too_far_away_is_refused(value):
    cell, pbc, offsets = np.eye(3)[None] * 5, np.ones((1, 3), bool), np.array([0, 1])
    with pytest.raises(RecordError, match="cells away"):
        build_edges(RADIUS, np.array([[0, value, 0]]), cell, pbc, offsets)


def test_input_that_is_not_finite_is_refused():
    cell, pbc, offsets = np.eye(3)[None] * 5, np.ones((1, 3), bool), np.array([0, 1])
    with pytest.raises(RecordError, match="NaN"):
        build_edges(RADIUS, np.array([[0, np.nan, 0]]), cell, pbc, offsets)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positions", np.zeros((2, 2))),
        ("cells", np.zeros((2, 3, 3))),
        ("pbc", np.zeros((1, 2), bool)),
        ("atom_offsets", np.array([0, 3])),
        ("atom_offsets", np.array([1, 2])),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, value):
    arguments = {
        "positions": np.zeros((2, 3)),
        "cells": np.eye(3)[None],
        "pbc": np.ones((1, 3), bool),
        "atom_offsets": np.array([0, 2]),
    }
    with pytest.raises(ConfigError, match=r"expects|must rise"):
        build_edges(RADIUS, **{**arguments, name: value})
