"""Search for duplicates: planted pairs are found, polymorphs stay apart, caches are honest."""

from __future__ import annotations

import csv
import gzip
import logging
from itertools import islice

import numpy as np
import pytest
from planted import KINDS, disguised

from epitaxy.data import duplicates
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.duplicates import (
    Union,
    buckets,
    find_duplicates,
    find_matches,
    load_fingerprints,
    structure_keys,
)
from epitaxy.data.fingerprint import Fingerprints, distance
from epitaxy.data.recipe import load_recipe
from epitaxy.data.sources.structures import parse_cif
from epitaxy.errors import ConfigError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label


def read(recipe, path, count=None):
    return list(islice(load_recipe(recipe).open_source().read(str(path)), count))


def composition(name, numbers, amounts):
    return CrystalRecord(
        name, np.array(numbers), np.zeros((len(numbers), 3)), np.zeros((3, 3)), np.zeros(3, bool),
        {AMOUNT: Label(np.array(amounts), "", per_atom=True)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def real(data_dir):
    """The first 150 crystals of a table of the Materials Project, at most 20 atoms each."""
    return read("mp_csv", data_dir / "small/mp_2000.csv.gz", 150)


@pytest.fixture(scope="module")
def small_set(real, tmp_path_factory):
    """A data set of 30 real crystals, of which numbers 0 to 4 occur twice."""
    rng = np.random.default_rng(4)
    copies = [disguised(r, KINDS["all"], rng).replace(id=f"copy-{r.id}") for r in real[:5]]
    path = tmp_path_factory.mktemp("duplicates") / "set"
    prepare([*real[:30], *copies], path, progress=False)
    return Dataset.open(path)


def members(fingerprints, clusters):
    return {frozenset(fingerprints.ids[rows].tolist()) for rows in clusters}


def test_planted_pairs_are_found_and_nothing_else(real):
    rng = np.random.default_rng(0)
    copies = [disguised(r, KINDS["all"], rng).replace(id=f"copy-{r.id}") for r in real]
    everything = Fingerprints.of([*real, *copies])
    planted = {frozenset((record.id, f"copy-{record.id}")) for record in real}
    found = members(everything, find_duplicates(everything))
    assert len(found & planted) >= 0.99 * len(planted)
    assert len(found - planted) <= 0.01 * len(planted)


@pytest.mark.slow
def test_a_thousand_planted_pairs_and_the_verdict_of_pymatgen(data_dir):
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure

    records = read("mp_csv", data_dir / "small/mp_2000.csv.gz", 1200)
    rng = np.random.default_rng(1)
    copies = [disguised(r, KINDS["all"], rng).replace(id=f"copy-{r.id}") for r in records]
    first, second = Fingerprints.of(records), Fingerprints.of(copies)
    pairs = [
        (row, other)
        for match in find_matches(first, second)
        for row in match.first.tolist()
        for other in match.second.tolist()
    ]
    hits = sum(row == other for row, other in pairs)
    assert hits >= 0.99 * len(records)
    referee = StructureMatcher(ltol=0.01, stol=0.02, angle_tol=0.5, scale=False)

    def structure(record):
        lattice, species = Lattice(record.cell), record.numbers.tolist()
        return Structure(lattice, species, record.positions, coords_are_cartesian=True)

    strangers = [(structure(records[a]), structure(copies[b])) for a, b in pairs if a != b]
    wrong = sum(not referee.fit(a, b) for a, b in strangers)
    assert hits / (hits + wrong) >= 0.99


def test_two_copies_of_one_set_match_completely(data_dir):
    # The phonon set of transfer learning is the one of Matbench, in other files and notations.
    ours = read("phonons", data_dir / "transfer7/ph_train.json.gz", 150)
    theirs = read("matbench_phonons", data_dir / "matbench/matbench_phonons.json.gz", 150)
    found = [
        (match.first.tolist(), match.second.tolist())
        for match in find_matches(Fingerprints.of(ours), Fingerprints.of(theirs[::-1]))
    ]
    assert sorted(found) == [([row], [149 - row]) for row in range(150)]


def test_polymorphs_of_silica_stay_apart(data_dir):
    silica = []
    with gzip.open(data_dir / "small/mp_2000.csv.gz", "rt", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["formula"] == "SiO2":
                silica.append(CrystalRecord(row["material_id"], *parse_cif(row["cif"], "table")))
    assert len(silica) > 4
    assert find_duplicates(Fingerprints.of(silica)) == []


def test_the_other_settings_of_a_relaxation_are_similar(real):
    # 2 % longer, with positions that moved by a hundredth of an ångström.
    rng = np.random.default_rng(3)
    relaxed = []
    for record in real[:50]:
        positions = record.positions * 1.02 + rng.uniform(-0.01, 0.01, record.positions.shape)
        relaxed.append(record.replace(positions=positions, cell=record.cell * 1.02))
    first, second = Fingerprints.of(real[:50]), Fingerprints.of(relaxed)
    levels = {}
    for level in ("same", "similar"):
        matches = find_matches(first, second, level=level)
        levels[level] = {row for match in matches for row in match.first.tolist()}
    assert levels == {"same": set(), "similar": set(range(50))}


def test_matches_are_all_pairs_within_the_tolerance(crystals):
    rng = np.random.default_rng(7)
    base = crystals.triclinic(2, 5)
    moved = [
        base.replace(positions=base.positions + rng.normal(size=(5, 3)) * 0.02) for _ in range(60)
    ]
    first, second = Fingerprints.of(moved[:40]), Fingerprints.of(moved[20:])
    for level, limit in (("same", 0.03), ("similar", 0.015)):
        found = {
            (row, other): apart
            for match in find_matches(first, second, level=level, tolerance=limit)
            for row in match.first.tolist()
            for other, apart in zip(match.second.tolist(), match.distance.tolist(), strict=True)
        }
        expected = {
            (row, other): distance(first[row], second[other], level)
            for row in range(40)
            for other in range(40)
            if distance(first[row], second[other], level) <= limit
        }
        assert found == pytest.approx(expected, abs=1e-6)
        assert 20 <= len(expected) < 1600, "a test of some, not of all or none"


def test_chains_are_one_cluster(crystals):
    lattices = [3.600, 3.603, 3.606, 3.609, 3.700, 3.703]
    records = [crystals.fcc(lattice=a).replace(id=f"{a}") for a in lattices]
    fingerprints = Fingerprints.of(records)
    assert distance(fingerprints[0], fingerprints[3]) > 0.015
    assert [rows.tolist() for rows in find_duplicates(fingerprints)] == [[0, 1, 2, 3], [4, 5]]
    assert find_duplicates(fingerprints, tolerance=1e-4) == []


def test_clusters_are_the_connected_components(crystals):
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(5)
    base = crystals.triclinic(2, 5)
    frames = [
        base.replace(positions=base.positions + rng.normal(size=(5, 3)) * rng.uniform(0, 0.03))
        for _ in range(80)
    ]
    fingerprints = Fingerprints.of(frames)
    table = [[distance(one, other) for other in fingerprints] for one in fingerprints]
    number, labels = connected_components(np.array(table) <= 0.02)
    sizes = sorted(size for size in np.bincount(labels).tolist() if size > 1)
    found = find_duplicates(fingerprints, tolerance=0.02)
    assert sorted(len(rows) for rows in found) == sizes
    assert all(len(set(labels[rows].tolist())) == 1 for rows in found)
    assert 1 < number < 80


def test_many_copies_are_one_cluster_and_quick(crystals):
    record, other = crystals.triclinic(0, 4), crystals.fcc(lattice=4.0)
    one = Fingerprints.of([record, other])
    fingerprints = one.take([0, 1] * 3000)
    found = find_duplicates(fingerprints)
    assert [len(rows) for rows in found] == [3000, 3000]


def test_compositions_match_by_formula_and_never_a_crystal(crystals):
    records = [
        composition("a", [26, 28], [0.5, 0.5]),
        crystals.rocksalt((26, 28)),
        composition("b", [28, 26], [2, 2]),
        composition("c", [26, 28], [0.4, 0.6]),
    ]
    assert [rows.tolist() for rows in find_duplicates(Fingerprints.of(records))] == [[0, 2]]


def test_nothing_has_no_duplicates():
    nothing = Fingerprints.of([])
    assert find_duplicates(nothing) == []
    assert list(find_matches(nothing, nothing)) == []


def test_unknown_levels_are_refused(crystals):
    fingerprints = Fingerprints.of([crystals.fcc()])
    with pytest.raises(ConfigError, match="Known: same, similar"):
        find_duplicates(fingerprints, level="formula")


def test_buckets_and_unions():
    keys = np.array(["b", "a", "b", "c"])
    assert {k: v.tolist() for k, v in buckets(keys).items()} == {"a": [1], "b": [0, 2], "c": [3]}
    union = Union(6)
    union.join([4, 1], [2, 4])
    union.join([5], [3])
    assert [rows.tolist() for rows in union.clusters()] == [[0], [1, 2, 4], [3, 5]]
    assert union.find(4) == 1


def test_structure_keys_do_not_depend_on_the_order_of_rows(small_set, tmp_path):
    keys = dict(zip(small_set.ids.tolist(), structure_keys(small_set).tolist(), strict=True))
    turned = [small_set.record(row) for row in reversed(range(len(small_set)))]
    prepare(turned, tmp_path / "turned", progress=False)
    other = Dataset.open(tmp_path / "turned")
    assert keys == dict(zip(other.ids.tolist(), structure_keys(other).tolist(), strict=True))
    assert len(set(keys.values())) == 30
    for name, key in keys.items():
        assert key == (name if keys.get(f"copy-{name}") is None else f"copy-{name}")


def test_fingerprints_are_kept(small_set, tmp_path, monkeypatch):
    made = load_fingerprints(small_set, cache=tmp_path / "cache")

    def never(_):
        raise AssertionError("made again")

    monkeypatch.setattr(duplicates, "fingerprint", never)
    kept = load_fingerprints(small_set, cache=tmp_path / "cache")
    assert kept.ids.tolist() == small_set.ids.tolist()
    assert all(distance(made[row], kept[row]) == 0 for row in range(len(small_set)))
    monkeypatch.setattr(duplicates, "VERSION", duplicates.VERSION + 1)
    with pytest.raises(AssertionError, match="made again"):
        load_fingerprints(small_set, cache=tmp_path / "cache")


def test_kept_fingerprints_follow_the_order_of_rows(small_set, tmp_path):
    # The digest that names the cache is the same for every order of the records.
    load_fingerprints(small_set, cache=tmp_path / "cache")
    turned = [small_set.record(row) for row in reversed(range(len(small_set)))]
    prepare(turned, tmp_path / "turned", progress=False)
    other = Dataset.open(tmp_path / "turned")
    assert other.data_digest == small_set.data_digest
    kept = load_fingerprints(other, cache=tmp_path / "cache")
    assert kept.ids.tolist() == other.ids.tolist()
    fresh = load_fingerprints(other)
    assert all(distance(kept[row], fresh[row]) == 0 for row in range(len(other)))


def test_a_damaged_cache_is_made_again(small_set, tmp_path, caplog):
    load_fingerprints(small_set, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        fingerprints = load_fingerprints(small_set, cache=tmp_path)
    assert "damaged" in caplog.text
    assert len(fingerprints) == len(small_set)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
