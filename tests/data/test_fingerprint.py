"""Fingerprints: blind to the description, sensitive to the structure."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from planted import KINDS, Disguise, disguised, enlarged

from epitaxy.data.fingerprint import (
    TOLERANCES,
    Fingerprints,
    distance,
    fingerprint,
    formula_of,
    tolerance,
)
from epitaxy.data.recipe import load_recipe
from epitaxy.errors import ConfigError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label

SAME = TOLERANCES["same"]
STEP = 4e-4  # Å, twice what rounding of stored entries can make


def composition(numbers, amounts, name="alloy"):
    return CrystalRecord(
        name, np.array(numbers), np.zeros((len(numbers), 3)), np.zeros((3, 3)), np.zeros(3, bool),
        {AMOUNT: Label(np.array(amounts), "", per_atom=True)},
    )  # fmt: skip


def apart(first, second, level="same"):
    return distance(fingerprint(first), fingerprint(second), level)


@pytest.fixture(scope="module")
def real(data_dir):
    """The first 40 crystals of a table of the Materials Project, at most 20 atoms each."""
    source = load_recipe("mp_csv").open_source()
    return list(islice(source.read(str(data_dir / "small/mp_2000.csv.gz")), 40))


@pytest.mark.parametrize("kind", ["permutation", "rotation", "origin", "supercell", "primitive"])
def test_another_description_changes_nothing(real, kind):
    rng = np.random.default_rng(1)
    for record in real:
        assert apart(record, disguised(record, KINDS[kind], rng)) < STEP, record.id


@pytest.mark.parametrize("kind", ["rattle", "strain", "all"])
def test_small_displacements_change_little(real, kind):
    rng = np.random.default_rng(2)
    found = [apart(record, disguised(record, KINDS[kind], rng)) for record in real]
    assert max(found) < SAME
    assert min(found) > 0, "the fingerprint does see them"


def test_the_change_is_bounded_by_the_displacement(crystals):
    # No sorted distance of atoms that move by δ at most changes by more than 2 δ.
    record, rng = crystals.triclinic(5, 6), np.random.default_rng(0)
    for size in (1e-2, 1e-1):
        directions = rng.normal(size=(6, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        moved = record.replace(positions=record.positions + size * directions)
        # ℓ, by which farther distances are measured, changes as well: hence the margin.
        assert apart(record, moved) < 1.5 * (2 * size)


def test_strain_counts_relative_to_the_distance(crystals):
    # ℓ of copper is its 2.55 Å to the nearest neighbours. At a ratio s all distances and ℓ grow
    # alike, so u stays and u ℓ changes by at most (1 + ln 5.5) ℓ (s - 1).
    copper, larger = crystals.fcc(), crystals.fcc(lattice=3.61 * 1.01)
    length = 3.61 / np.sqrt(2)
    assert apart(copper, larger) <= (1 + np.log(5.5)) * length * 0.01 + STEP
    assert apart(copper, larger) > length * 0.01 > SAME
    assert apart(copper, larger, "similar") < STEP


def test_exchanged_elements_are_another_crystal(crystals):
    perovskite = crystals.perovskite((56, 22, 8))
    exchanged = crystals.perovskite((22, 56, 8))
    assert apart(perovskite, exchanged) > 0.2
    # In rocksalt the exchange of both elements is a shift of the origin.
    assert apart(crystals.rocksalt((11, 17)), crystals.rocksalt((17, 11))) < STEP


def test_one_exchanged_pair_is_seen(crystals):
    large = enlarged(crystals.rocksalt(), np.diag([2, 2, 2]))
    numbers = large.numbers.copy()
    sodium, chlorine = np.flatnonzero(numbers == 11)[0], np.flatnonzero(numbers == 17)[0]
    numbers[[sodium, chlorine]] = 17, 11
    antisite = large.replace(numbers=numbers)
    assert apart(large, antisite) > 0.2
    assert apart(large, antisite, "similar") > TOLERANCES["similar"]


def test_stacking_orders_differ(crystals):
    # ABC and AB stacking of close-packed layers: first shells of 12 alike, then 6 against 6 + 2.
    side = 3.61 / np.sqrt(2)
    height = side * np.sqrt(8 / 3)
    cell = side * np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, height / side]])
    hexagonal = crystals.record("hcp", [29, 29], np.array([[0, 0, 0], [2 / 3, 1 / 3, 0.5]]), cell)
    assert apart(crystals.fcc(), hexagonal) > 0.1


def test_a_mirror_image_counts_as_the_same(crystals):
    record = crystals.triclinic(11, 5)
    mirror = record.replace(positions=record.positions * [1, 1, -1], cell=record.cell * [1, 1, -1])
    assert apart(record, mirror) < STEP


def test_a_molecule_in_a_large_box_is_the_molecule():
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    numbers = np.array([8, 1, 1])
    free = CrystalRecord("free", numbers, water, np.zeros((3, 3)), np.zeros(3, bool))
    boxes = [CrystalRecord("box", numbers, water + 70, np.eye(3) * size) for size in (90, 162)]
    slab = CrystalRecord("slab", numbers, water, np.diag([90, 90, 0.0]), np.array([1, 1, 0], bool))
    for boxed in (*boxes, slab):
        assert apart(free, boxed) < STEP
    dense = CrystalRecord("dense", numbers, water, np.eye(3) * 6)
    assert apart(free, dense) > SAME
    bent = CrystalRecord("bent", numbers, water * [1, 1.05, 1], np.zeros((3, 3)), np.zeros(3, bool))
    assert apart(free, bent) > SAME


def test_other_formulas_are_infinitely_far(crystals):
    assert apart(crystals.rocksalt(), crystals.fcc()) == np.inf
    assert apart(crystals.rocksalt((11, 17)), crystals.rocksalt((11, 35))) == np.inf


@pytest.mark.parametrize(
    ("numbers", "amounts", "formula"),
    [
        ([26, 28], [0.5, 0.5], "FeNi"),
        ([26, 28], [2, 2], "FeNi"),
        ([12, 9], [1 / 3, 2 / 3], "F2Mg"),
        ([26, 24, 28], [0.62, 0.19, 0.19], "Cr19Fe62Ni19"),
        ([26, 26, 8], [1, 1, 3], "Fe2O3"),
    ],
)
def test_formulas_of_compositions(numbers, amounts, formula):
    assert formula_of(composition(numbers, amounts)) == formula


def test_the_formula_of_a_crystal_is_reduced(crystals):
    assert formula_of(crystals.rocksalt()) == "ClNa"
    assert formula_of(crystals.perovskite()) == "BaO3Ti"


def test_compositions_are_told_apart_by_formula_only(crystals):
    alloy = composition([26, 28], [0.5, 0.5])
    assert apart(alloy, composition([28, 26], [3, 3])) == 0
    assert apart(alloy, composition([26, 28], [0.4, 0.6])) == np.inf
    salt = composition([11, 17], [1, 1])
    assert apart(salt, crystals.rocksalt()) == np.inf, "a formula is no structure"


def test_columns_hold_what_was_put_in(crystals):
    records = [crystals.rocksalt(), composition([26, 28], [1, 1]), crystals.fcc()]
    whole = Fingerprints.of(records)
    assert whole.ids.tolist() == ["rocksalt", "alloy", "fcc"]
    assert whole.formulas.tolist() == ["ClNa", "FeNi", "Cu"]
    for row, record in enumerate(records):
        assert distance(whole[row], fingerprint(record)) == 0
    turned = whole.take([2, 0, 1])
    assert turned.ids.tolist() == ["fcc", "rocksalt", "alloy"]
    joined = Fingerprints.join([whole, turned])
    for row, expected in enumerate([0, 1, 2, 2, 0, 1]):
        assert distance(joined[row], whole[expected]) == 0


def test_points_differ_as_distances_do(crystals):
    rng = np.random.default_rng(0)
    other = disguised(crystals.perovskite(), Disguise(rattle=0.05), rng)
    both = Fingerprints.of([crystals.perovskite(), other])
    for level in ("same", "similar"):
        first, second = both.points(np.array([0, 1]), level)
        assert np.abs(first - second).max() == pytest.approx(distance(both[0], both[1], level))


def test_levels_and_tolerances_are_checked(crystals):
    with pytest.raises(ConfigError, match="did you mean 'similar'"):
        distance(fingerprint(crystals.fcc()), fingerprint(crystals.fcc()), "similer")
    with pytest.raises(ConfigError, match="must not be negative"):
        tolerance("same", -1.0)
