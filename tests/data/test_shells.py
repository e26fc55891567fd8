"""Sorted distances: against shells of textbook structures and against a brute-force search."""

from __future__ import annotations

import numpy as np
import pytest

from epitaxy.data.shells import FAR, NEAREST, REACH, neighbor_shells
from epitaxy.graph.record import CrystalRecord


def test_copper_has_the_shells_of_the_face_centred_lattice(crystals):
    length, near, far = neighbor_shells(crystals.fcc(lattice=4.0))
    # 12 neighbours at a/√2, 6 at a, 24 at a √(3/2), 12 at a √2
    shells = np.repeat(4.0 * np.sqrt([0.5, 1.0, 1.5, 2.0]), [12, 6, 24, 12])
    assert length == pytest.approx(4 / np.sqrt(2))
    for row in range(3):  # one kind of atom: smallest, mean and largest are the same
        np.testing.assert_allclose(far[row, :54], shells)
        np.testing.assert_allclose(near[0, 0, row], shells[:NEAREST])


def test_rocksalt_is_resolved_by_species(crystals):
    _, near, _ = neighbor_shells(crystals.rocksalt(lattice=6.0))
    sodium_chlorine = 6.0 * np.sqrt([1 / 4] * 6 + [3 / 4] * 8 + [5 / 4] * 10)
    sodium_sodium = 6.0 * np.sqrt([1 / 2] * 12 + [1.0] * 6 + [3 / 2] * 6)
    np.testing.assert_allclose(near[0, 1, 1], sodium_chlorine)
    np.testing.assert_allclose(near[1, 0, 1], sodium_chlorine)
    np.testing.assert_allclose(near[0, 0, 1], sodium_sodium)
    np.testing.assert_allclose(near[1, 1, 1], sodium_sodium)


def test_extremes_and_mean_are_taken_over_atoms():
    # On a line at 0, 1 and 3 Å: nearest neighbours at 1, 1 and 2 Å, second ones at 3, 2 and 3 Å.
    record = CrystalRecord(
        "chain", np.array([6, 6, 6]), np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0]], float),
        np.zeros((3, 3)), np.zeros(3, bool),
    )  # fmt: skip
    length, near, far = neighbor_shells(record)
    np.testing.assert_allclose(near[0, 0, :, 0], [1, 4 / 3, 2])
    np.testing.assert_allclose(near[0, 0, :, 1], [2, 8 / 3, 3])
    # Ten of the first twelve neighbours are missing and count as 12 Å away.
    assert length == pytest.approx((4 / 3 + 8 / 3 + 120) / 12)
    np.testing.assert_allclose(near[0, 0, :, 2:], REACH * length)
    np.testing.assert_allclose(far[:, 2:], REACH * length)


def test_a_lonely_atom_has_no_neighbours():
    record = CrystalRecord(
        "He", np.array([2]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool)
    )
    length, near, far = neighbor_shells(record)
    assert length == 12.0
    assert (near == 66.0).all()
    assert (far == 66.0).all()


def test_distances_are_those_of_a_brute_force_search(crystals):
    record = crystals.triclinic(3, 5, numbers=(8, 26))
    length, near, far = neighbor_shells(record)
    images = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3), -1).reshape(-1, 3) @ record.cell
    apart = record.positions[None, :, None] - record.positions[:, None, None] + images
    distances = np.sort(np.linalg.norm(apart, axis=-1), axis=-1)  # (centre, neighbour, image)
    everything = np.sort(distances.reshape(5, -1), axis=1)[:, 1:]
    cap = REACH * length
    assert length == pytest.approx(everything[:, :12].mean())
    capped = np.minimum(everything[:, :FAR], cap)
    np.testing.assert_allclose(far, [capped.min(0), capped.mean(0), capped.max(0)])
    oxygen, iron = record.numbers == 8, record.numbers == 26
    assert oxygen.any()
    assert iron.any()
    pairs = np.sort(distances[oxygen][:, iron].reshape(oxygen.sum(), -1), axis=1)[:, :NEAREST]
    np.testing.assert_allclose(near[0, 1], [pairs.min(0), pairs.mean(0), pairs.max(0)])


def test_a_cell_of_six_degrees_gives_the_shells_of_the_cube():
    cube = CrystalRecord("Po", np.array([84]), np.zeros((1, 3)), np.eye(3) * 3.3)
    sheared = cube.replace(cell=np.array([[1, 0, 0], [9, 1, 0], [-40, 7, 1]]) * 3.3)
    a, b = sheared.cell[0], sheared.cell[1]
    angle = np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    assert angle < 6.4
    for found, expected in zip(neighbor_shells(sheared), neighbor_shells(cube), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)
