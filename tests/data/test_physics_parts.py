"""Parts of the physics checks: work along a way, the sample of frames, walls, orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epitaxy.data.physics.check import closest_mistake, mistakes
from epitaxy.data.physics.frames import BLOCK, FAMILY_FRAMES, Frame, Sample
from epitaxy.data.physics.orders import ORDERS, describe, reorder
from epitaxy.data.physics.pairs import decompose, find_pairs
from epitaxy.data.physics.wall import RADII, SOFTNESS, wall_of
from epitaxy.graph.record import CrystalRecord, Label


def frame(
    name: str,
    cell: np.ndarray,
    fractions: np.ndarray,
    energy: float = 0.0,
    forces: np.ndarray | None = None,
    stress: np.ndarray | None = None,
    pbc: Any = True,
) -> Frame:
    numbers = np.full(len(fractions), 14, np.uint8)
    periodic = np.broadcast_to(pbc, 3).copy()
    return Frame(name, numbers, fractions @ cell, cell, periodic, energy, forces, stress)


def elastic_frames(bulk: float = 0.6, shear: float = 0.3) -> list[Frame]:
    """Strained cubes of 5 Å whose energy is quadratic in the logarithmic strain H.

    E = V₀ (½ K tr(H)² + G dev(H):dev(H)), so V σ = V₀ (K tr(H) 1 + 2 G dev(H)).
    """
    rng = np.random.default_rng(1)
    volume, found = 125.0, []
    for index in range(8):
        strain = rng.normal(0, 0.02, (3, 3))
        strain = (strain + strain.T) / 2
        lengths, axes = np.linalg.eigh(strain)
        cell = 5.0 * (axes * np.exp(lengths)) @ axes.T
        deviator = strain - np.trace(strain) / 3 * np.eye(3)
        energy = volume * (bulk * np.trace(strain) ** 2 / 2 + shear * (deviator**2).sum())
        work = volume * (bulk * np.trace(strain) * np.eye(3) + 2 * shear * deviator)
        fractions = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
        stress = work / abs(np.linalg.det(cell))
        found.append(frame(f"e{index}", cell, fractions, energy, np.zeros((2, 3)), stress))
    return found


def test_work_of_the_stress_is_the_energy_of_a_quadratic_crystal() -> None:
    """To second order in strains of 2 %: H of a then b is not H_b - H_a exactly."""
    pairs = find_pairs([elastic_frames()])
    assert len(pairs) == 28
    scale = np.abs(pairs.stress[:, 0]) + np.abs(pairs.stress_bend[:, 0])
    assert (np.abs(pairs.energy - pairs.stress[:, 0]) < 0.03 * scale).all()
    assert (pairs.forces == 0).all()
    # Shears in other slots do other work, unless a permutation happens to keep it.
    assert np.abs(pairs.stress[:, 1:6] - pairs.energy[:, None]).max() > 0.05 * scale.max()


def test_work_of_the_forces_across_boundaries() -> None:
    """E = ½ k |u|² of the second atom against the first, with the boundary between them."""
    cell, stiffness = np.eye(3) * 6.0, 2.5
    frames = []
    for index, place in enumerate(([0.48, 0.5, 0.5], [0.52, 0.51, 0.5], [0.5, 0.45, 0.53])):
        shift = (np.array(place) - 0.5) @ cell
        forces = stiffness * np.array([shift, -shift])
        moved = np.array([[0.97, 0.99, 0.0], np.add(place, [0.97, 0.99, 0.0])]) % 1.0
        energy = stiffness * (shift**2).sum() / 2
        frames.append(frame(f"s{index}", cell, moved, energy, forces, np.zeros((3, 3))))
    # A rigid translation by half a cell does no work and is no displacement.
    frames[2] = frame(
        "s2", cell, (frames[2].positions / 6.0 + 0.5) % 1.0, frames[2].energy or 0.0,
        frames[2].forces, frames[2].stress,
    )  # fmt: skip
    pairs = find_pairs([frames])
    np.testing.assert_allclose(pairs.forces, pairs.energy, atol=1e-12)
    assert pairs.displacement.max() < 0.3


def test_a_rotated_copy_is_the_same_frame() -> None:
    frames = elastic_frames()[:2]
    angle = 0.7
    turn = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    old = frames[1]
    turned = Frame(
        "t", old.numbers, old.positions @ turn, old.cell @ turn, old.pbc, old.energy,
        old.forces, turn.T @ old.stress @ turn,
    )  # fmt: skip
    straight, rotated = find_pairs([frames]), find_pairs([[frames[0], turned]])
    # As declared; in another order the components belong to the axes the file was written in.
    for name in ("stress", "stress_bend"):
        found, expected = getattr(rotated, name)[:, 0], getattr(straight, name)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_far_frames_and_frames_without_labels_make_no_pairs() -> None:
    cube = np.eye(3) * 5.0
    atoms = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    far = [frame("a", cube, atoms, 0.0, np.zeros((2, 3)), np.zeros((3, 3)))]
    far.append(frame("b", cube * 1.3, atoms, 1.0, np.zeros((2, 3)), np.zeros((3, 3))))
    assert len(find_pairs([far])) == 0
    strained = [frame("a", cube, atoms, 0.0, np.zeros((2, 3)))]
    strained.append(frame("b", cube * 1.01, atoms, 1.0, np.zeros((2, 3))))
    assert len(find_pairs([strained])) == 0  # no stress: the work of the strain is unknown


def test_polar_decomposition() -> None:
    rng = np.random.default_rng(4)
    deformation = np.eye(3) + rng.normal(0, 0.1, (5, 3, 3))
    stretch, log_stretch, rotation = decompose(deformation)
    np.testing.assert_allclose(stretch @ rotation, deformation, atol=1e-12)
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(
        np.trace(log_stretch, axis1=1, axis2=2), np.log(np.linalg.det(deformation))
    )


def test_open_systems_have_no_minimum_image() -> None:
    """An atom that moves by 0.3 Å in a vacuum of 10 Å."""
    first = frame(
        "a", np.eye(3), np.array([[0.0, 0, 0], [9.0, 0, 0]]), 0.0, np.ones((2, 3)), pbc=False
    )
    second = frame(
        "b", np.eye(3), np.array([[0.0, 0, 0], [9.3, 0, 0]]), 0.1, np.ones((2, 3)), pbc=False
    )
    pairs = find_pairs([[first, second]])
    assert pairs.displacement == pytest.approx(0.15)  # ±0.15 Å after the common shift


def test_orders() -> None:
    """xx, yy, zz, yz, xz, xy = 1 to 6."""
    declared = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    seen = reorder(declared[None])[0]
    np.testing.assert_array_equal(seen[0], declared)
    assert len({tuple(tensor.ravel()) for tensor in seen}) == len(ORDERS) == 12
    np.testing.assert_array_equal(seen, seen.transpose(0, 2, 1))
    # A file with xx, xy, xz, yy, yz, zz read as xx, yy, zz, yz, xz, xy: 1 2 3 4 5 6 are then
    # the true xx, xy, xz, yy, yz, zz.
    triangle = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert any((tensor == triangle).all() for tensor in seen[6:])
    swap = next(index for index, order in enumerate(ORDERS) if order == (0, 1, 2, 4, 3, 5))
    assert describe(swap) == "the numbers declared as xz, yz behave like yz, xz"


def test_mistakes_are_told_apart() -> None:
    factors = [mistake.factor for mistake in mistakes("stress")]
    assert len(factors) == len(set(factors))
    found = closest_mistake("stress", -1540.0)
    assert found is not None
    assert "kbar" in found.cause
    assert "opposite sign" in found.cause
    assert closest_mistake("forces", 3.3) is None
    energy = closest_mistake("energy", 0.0368)
    assert energy is not None
    assert energy.remedy == "declare unit: Ha"


def records(count: int, family: int = 0) -> list[CrystalRecord]:
    label = {"energy": Label(np.array(-1.0), "eV")}
    numbers = np.array([1 + family, 8])
    cell = np.eye(3) * 4
    places = np.array([[0.0, 0, 0], [2, 2, 2]])
    return [
        CrystalRecord(f"m{family}-{index}", numbers, places, cell, labels=label)
        for index in range(count)
    ]


def test_a_sample_keeps_neighbours_together() -> None:
    sample = Sample(0, 20_000)
    for record in records(3000):
        found = Frame.of(record)
        assert found is not None
        sample.add(found)
    assert len(sample) == FAMILY_FRAMES
    kept = np.sort([int(item.id.split("-")[1]) for item in sample])
    blocks = np.unique(kept // BLOCK)
    assert len(blocks) <= FAMILY_FRAMES / BLOCK + 1  # whole blocks, but for the last
    assert len(set(blocks) ^ set(range(int(blocks.max())))) > 10  # and not just the first


def test_a_sample_is_bounded_and_keeps_whole_families() -> None:
    sample = Sample(0, 50)
    for family in range(40):
        for record in records(7, family):
            found = Frame.of(record)
            assert found is not None
            sample.add(found)
    assert 43 < len(sample) <= 50
    assert {len(family) for family in sample.families()} == {7}
    assert len({family[0].numbers[0] for family in sample.families()}) == 7


def test_a_sample_keeps_no_view_of_a_large_array() -> None:
    shard = np.zeros((10_000, 3))
    shard[1] = 2.0
    label = {"energy": Label(np.array(-1.0), "eV")}
    cut = CrystalRecord("a", np.array([1, 8]), shard[:2], np.eye(3) * 4, labels=label)
    found = Frame.of(cut)
    assert found is not None
    assert found.positions.base is None


def test_the_wall_of_a_simple_cubic_crystal() -> None:
    """Six neighbours at a: no force, and a stress of -½ · 2 · push · a/V along each axis."""
    lattice = 1.1 * 2 * RADII[14]
    forces, stress = wall_of(frame("sc", np.eye(3) * lattice, np.zeros((1, 3))))
    push = np.exp(-0.1 / SOFTNESS)
    np.testing.assert_allclose(forces, 0, atol=1e-12)
    # Neighbours at √2 a and beyond stand at 1.556 sums of radii, where the wall is all but gone.
    np.testing.assert_allclose(
        stress, -push * lattice / lattice**3 * np.eye(3), rtol=0.02, atol=1e-9
    )


def test_the_wall_pushes_apart() -> None:
    dimer = frame("d", np.eye(3), np.array([[0.0, 0, 0], [1.8, 0, 0]]), pbc=False)
    forces, stress = wall_of(dimer)
    push = np.exp((1 - 1.8 / (2 * 1.11)) / SOFTNESS)
    np.testing.assert_allclose(forces, [[-push, 0, 0], [push, 0, 0]])
    assert np.isnan(stress).all()
