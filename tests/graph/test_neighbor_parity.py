"""The same edges as two independent routes, on real crystals and on cells chosen to hurt."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.graph.record import CrystalRecord


def from_parameters(lengths, angles, fractions) -> CrystalRecord:
    alpha, beta, gamma = np.radians(angles)
    x = (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    rows = [
        [1, 0, 0],
        [np.cos(gamma), np.sin(gamma), 0],
        [np.cos(beta), x, np.sqrt(1 - np.cos(beta) ** 2 - x**2)],
    ]
    cell = np.array(rows) * np.array(lengths)[:, None]
    fractions = np.array(fractions)
    return CrystalRecord("cell", np.ones(len(fractions)), fractions @ cell, cell)


TWO = [[0.1, 0.2, 0.3], [0.6, 0.45, 0.8]]
ADVERSARIAL = {
    "angle of 6 degrees": from_parameters((14, 15, 7), (90, 90, 6), TWO),
    "three small angles": from_parameters((25, 25, 25), (6, 6, 6), TWO),
    "angle of 174 degrees": from_parameters((14, 15, 7), (90, 90, 174), TWO),
    "160 Å long": from_parameters((4, 4, 160), (90, 90, 90), TWO),
    "160 Å long and thin, skewed": from_parameters((3, 3, 160), (80, 95, 65), TWO),
    "one atom": from_parameters((2.5, 2.5, 2.5), (60, 60, 60), [[0.2, 0.3, 0.4]]),
    "one atom, tiny": from_parameters((1.2, 1.3, 1.4), (85, 95, 100), [[0.9, 0, 0]]),
    "flat": from_parameters((20, 20, 1.1), (90, 90, 90), TWO),
    "far outside": from_parameters((5, 6, 7), (80, 90, 100), [[17.3, -40.2, 9], [-300, 2, 0.5]]),
    "on the boundary": from_parameters((4, 4, 4), (90, 90, 90), [[0, 0, 0], [1, 1, 1 - 1e-17]]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("cutoff", [5.0, 8.0])
def test_adversarial_cells_agree_with_pymatgen(rows, pymatgen_route, name, cutoff):
    record = ADVERSARIAL[name]
    expected = pymatgen_route(record, cutoff)
    assert np.array_equal(rows(record, cutoff), expected)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_left_handed_cells_agree_with_pymatgen(rows, pymatgen_route, name):
    record = ADVERSARIAL[name].replace(cell=ADVERSARIAL[name].cell[[1, 0, 2]])
    assert np.linalg.det(record.cell) < 0
    assert np.array_equal(rows(record, 6.0), pymatgen_route(record, 6.0))


@pytest.mark.parametrize("pbc", [(1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)])
def test_axes_that_are_not_periodic_agree_with_pymatgen(crystals, rows, pymatgen_route, pbc):
    record = crystals.triclinic(21, 6).replace(pbc=np.array(pbc, bool))
    assert np.array_equal(rows(record, 8.0), pymatgen_route(record, 8.0))


@pytest.mark.parametrize("pbc", [(1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)])
def test_rows_of_axes_that_are_not_periodic_may_be_zero(crystals, rows, brute_force_route, pbc):
    """A slab, wire or cluster with atoms far outside what would be its cell."""
    record = crystals.triclinic(22, 5)
    positions = record.positions + np.array([12.0, -9, 14]) * np.arange(5)[:, None] / 5
    cell = record.cell * np.array(pbc)[:, None]
    record = CrystalRecord("open", record.numbers, positions, cell, np.array(pbc, bool))
    found = rows(record, 8.0)
    assert np.array_equal(found, brute_force_route(record, 8.0))
    assert len(found)


def test_rows_of_axes_that_are_not_periodic_are_not_looked_at(crystals, rows):
    """A wire along (1, 1, 1) whose other two rows are junk, or point along the wire themselves."""
    positions = crystals.triclinic(23, 4).positions
    expected = None
    for second in ([0, 0, 0], [5, 1, 1], [2, 2, 2]):
        cell = np.array([[2.0, 2, 2], second, [-3, 7, 1e4]])
        record = CrystalRecord("wire", np.ones(4), positions, cell, np.array([True, False, False]))
        found = rows(record, 8.0)
        expected = found if expected is None else expected
        assert np.array_equal(found, expected)
    assert len(expected)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_atoms=st.integers(1, 6),
    scale=st.floats(1.5, 9.0),
    shear=st.floats(0.0, 3.0),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.5, 7.0),
)
def test_random_cells_agree_with_brute_force(
    rows, brute_force_route, seed, num_atoms, scale, shear, spread, pbc, cutoff
):
    rng = np.random.default_rng(seed)
    cell = scale * (np.eye(3) + np.triu(rng.uniform(-shear, shear, (3, 3)), 1))
    cell = cell[rng.permutation(3)] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    fractions = rng.uniform(-spread, 1 + spread, (num_atoms, 3))
    record = CrystalRecord("any", np.ones(num_atoms), fractions @ cell, cell, np.array(pbc))
    assert np.array_equal(rows(record, cutoff), brute_force_route(record, cutoff))


@pytest.mark.parametrize("cutoff", [5.0, 8.0])
def test_every_structure_of_mp_2000_agrees_with_pymatgen(mp_2000, rows, pymatgen_route, cutoff):
    assert len(mp_2000) == 2000
    different = [
        record.id
        for record in mp_2000
        if not np.array_equal(rows(record, cutoff), pymatgen_route(record, cutoff))
    ]
    assert different == []


@pytest.mark.parametrize("part", [slice(150), pytest.param(slice(900), marks=pytest.mark.slow)])
def test_real_trajectory_frames_agree_with_pymatgen(data_dir, rows, pymatgen_route, part):
    import ase.io

    with gzip.open(data_dir / "forces" / "mattersim" / "mptrj-random-1k.xyz.gz", "rt") as stream:
        frames = ase.io.read(stream, index=part, format="extxyz")
    assert len(frames) == part.stop
    for atoms in frames:
        record = CrystalRecord("frame", atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
        assert np.array_equal(rows(record, 8.0), pymatgen_route(record, 8.0))
