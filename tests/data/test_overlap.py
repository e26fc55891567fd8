"""Overlap of data sets: counted at every level, across splits, and turned into exclude lists."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import KINDS, disguised

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.overlap import LEVELS, exclude_list, overlap, write_exclude_list
from epitaxy.data.selection import read_exclude_list, select_rows
from epitaxy.errors import ConfigError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label


def dataset(path, records):
    prepare(records, path, progress=False)
    return Dataset.open(path)


def rows(**parts):
    return {name: np.array(listed, dtype=np.int64) for name, listed in parts.items()}


def records_of(report, level, first="all", second="all"):
    return report.counts[first][second][level]["records"]


def composition(name, numbers):
    return CrystalRecord(
        name, np.array(numbers), np.zeros((len(numbers), 3)), np.zeros((3, 3)), np.zeros(3, bool),
        {AMOUNT: Label(np.ones(len(numbers)), "", per_atom=True)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(crystals, tmp_path_factory):
    """Two sets with everything in common that records can have.

    First set, with groups: ``salt`` and its frame ``salt-far`` (group NaCl), ``copper`` (Cu),
    ``titanate`` (BaTiO3), ``other`` (Pb). Second set: the salt otherwise written down, copper with
    lattice vectors 2 % longer, CsCl-like NaCl, another crystal named ``other``.
    """
    rng = np.random.default_rng(0)
    salt, copper = crystals.rocksalt(), crystals.fcc(29, 3.61)
    far = salt.replace(
        positions=salt.positions + rng.uniform(-0.5, 0.5, salt.positions.shape), id="salt-far"
    )
    first = [
        salt.replace(id="salt", group="NaCl"),
        far.replace(group="NaCl"),
        copper.replace(id="copper", group="Cu"),
        crystals.perovskite().replace(id="titanate", group="BaTiO3"),
        crystals.fcc(82, 4.95).replace(id="other", group="Pb"),
    ]
    cesium_like = crystals.record("b2", [11, 17], np.array([[0] * 3, [0.5] * 3]), np.eye(3) * 3.3)
    second = [
        disguised(salt, KINDS["all"], rng).replace(id="halite"),
        crystals.fcc(29, 3.61 * 1.02).replace(id="Cu-relaxed"),
        cesium_like,
        crystals.fcc(47, 4.09).replace(id="other"),
    ]
    folder = tmp_path_factory.mktemp("overlap")
    return dataset(folder / "ours", first), dataset(folder / "theirs", second)


def test_every_level_is_counted(pair):
    counts = overlap(*pair).counts["all"]["all"]
    assert counts == {
        "id": {"records": 1, "others": 1},  # other
        "formula": {"records": 3, "others": 3},  # NaCl twice, Cu; halite, b2, Cu-relaxed
        "similar": {"records": 2, "others": 2},  # salt, copper
        "same": {"records": 1, "others": 1},  # salt
    }


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("id", [("other", "other")]),
        ("formula", [("salt", "halite"), ("salt-far", "halite"), ("copper", "Cu-relaxed")]),
        ("similar", [("salt", "halite"), ("copper", "Cu-relaxed")]),
        ("same", [("salt", "halite")]),
    ],
)
def test_matches_go_by_the_level(pair, level, expected):
    report = overlap(*pair, level=level)
    assert report.level == level
    assert [(match.id, match.other) for match in report.matches] == expected


def test_a_frame_is_found_by_the_name_of_its_material(crystals, tmp_path):
    salt = crystals.rocksalt()
    frames = [salt.replace(id=f"mp-1-{step}", group="mp-1") for step in range(2)]
    frames.append(crystals.fcc().replace(id="mp-2-0", group="mp-2"))
    far = dataset(tmp_path / "frames", frames)
    relaxed = dataset(tmp_path / "relaxed", [crystals.perovskite().replace(id="mp-1", group="x")])
    found = [(m.id, m.other) for m in overlap(far, relaxed, level="id").matches]
    assert found == [("mp-1-0", "mp-1"), ("mp-1-1", "mp-1")]
    assert [(m.id, m.other) for m in overlap(relaxed, far, level="id").matches] == [
        ("mp-1", "mp-1-0")
    ]
    # Groups that are no ids, such as formulas, are no names of records.
    assert records_of(overlap(far, far), "id") == 3
    assert overlap(far, far).counts["all"]["all"]["id"]["others"] == 3


def test_a_tolerance_widens_the_level_it_is_for(pair):
    report = overlap(*pair, level="same", tolerance=0.2)
    assert [match.id for match in report.matches] == ["salt", "copper"]
    # ℓ of copper is 2.553 Å; it and all distances grow by 2 %, the farthest u is 1 + ln 5.5.
    expected = 0.02 * 2.553 * (1 + np.log(5.5))
    assert report.matches[1].distance == pytest.approx(expected, rel=0.05)
    assert records_of(report, "similar") == 2


def test_matches_name_the_splits_of_both_sets(pair):
    report = overlap(
        *pair,
        first_splits=rows(train=[0, 1, 2], test=[4]),  # titanate is in none
        second_splits=rows(train=[1], val=[2], test=[0, 3]),
        level="formula",
    )
    found = [(m.id, m.split, m.other, m.other_split) for m in report.matches]
    assert found == [
        ("salt", "train", "b2", "val"),
        ("salt", "train", "halite", "test"),
        ("salt-far", "train", "b2", "val"),
        ("salt-far", "train", "halite", "test"),
        ("copper", "train", "Cu-relaxed", "train"),
    ]
    assert records_of(report, "same", "train", "test") == 1
    assert records_of(report, "same", "train", "val") == 0
    assert records_of(report, "id", "test", "test") == 1
    assert records_of(report, "formula", "train", "val") == 2
    assert report.counts["train"]["val"]["formula"]["others"] == 1


def test_a_record_outside_all_splits_is_no_match_of_theirs(pair):
    report = overlap(*pair, second_splits=rows(test=[1, 2, 3]))
    assert report.matches == ()


def test_the_exclude_list_takes_the_whole_group(pair):
    report = overlap(*pair)
    assert exclude_list(report) == ["salt", "salt-far"]
    assert exclude_list(report, groups=False) == ["salt"]


def test_the_exclude_list_goes_by_the_test_split(pair):
    splits = rows(train=[0], val=[2], test=[1])
    report = overlap(*pair, second_splits=splits, level="similar")
    assert exclude_list(report) == ["copper"]
    assert exclude_list(report, splits=["train"]) == ["salt", "salt-far"]
    assert exclude_list(report, splits=["test", "train"]) == ["salt", "salt-far", "copper"]
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        exclude_list(report, splits=["trane"])


def test_training_honours_the_list_and_then_nothing_overlaps(pair, tmp_path):
    ours, theirs = pair
    file = tmp_path / "exclude.txt"
    write_exclude_list(file, exclude_list(overlap(ours, theirs, level="similar")))
    assert file.read_text() == "salt\nsalt-far\ncopper\n"
    selection = select_rows(
        ours.id_names,
        np.arange(5),
        num_atoms=ours.num_atoms,
        largest={},
        exclude=read_exclude_list(file),
    )
    assert ours.ids[selection.rows].tolist() == ["titanate", "other"]
    left = overlap(ours, theirs, first_splits={"train": selection.rows}, level="similar")
    assert records_of(left, "similar", "train") == 0


@pytest.fixture(scope="module")
def leaky(crystals, tmp_path_factory):
    """Salt in train, again in test and twice in val; a trajectory across train and test."""
    rng = np.random.default_rng(1)
    salt = crystals.rocksalt()
    again = [disguised(salt, KINDS["all"], rng) for _ in range(3)]
    far = crystals.triclinic(1, 4)
    records = [
        salt.replace(id="train-salt", group="a"),
        far.replace(id="frame-1", group="walk"),
        crystals.fcc().replace(id="copper", group="c"),
        again[0].replace(id="val-1", group="d"),
        again[1].replace(id="val-2", group="e"),
        again[2].replace(id="test-salt", group="walk"),
        crystals.perovskite().replace(id="titanate", group="f"),
    ]
    splits = rows(train=[0, 1, 2], val=[3, 4], test=[5, 6])
    return dataset(tmp_path_factory.mktemp("leaky") / "set", records), splits


def test_a_set_is_compared_with_itself_across_splits(leaky):
    data, splits = leaky
    report = overlap(data, first_splits=splits)
    found = {
        (split, other): counts["same"]
        for split, others in report.counts.items()
        for other, counts in others.items()
    }
    assert found == {
        ("train", "val"): {"records": 1, "others": 2},
        ("train", "test"): {"records": 1, "others": 1},
        ("val", "train"): {"records": 2, "others": 1},
        ("val", "test"): {"records": 2, "others": 1},
        ("test", "train"): {"records": 1, "others": 1},
        ("test", "val"): {"records": 1, "others": 2},
    }
    assert records_of(report, "id", "train", "test") == 0, "no record is in two splits"


def test_leaks_are_taken_from_training_not_from_the_test(leaky):
    data, splits = leaky
    report = overlap(data, first_splits=splits)
    assert exclude_list(report) == ["train-salt", "val-1", "val-2"]
    # A group in two splits goes along, but its tested record stays.
    split = rows(train=[0, 1, 2, 5], test=[3, 6])
    report = overlap(data, first_splits=split)
    assert exclude_list(report) == ["train-salt", "frame-1", "val-2", "test-salt"]
    split = rows(train=[1, 3], test=[0, 5])
    report = overlap(data, first_splits=split)
    assert exclude_list(report) == ["val-1", "val-2"]


def test_comparing_with_itself_needs_splits(leaky):
    data, splits = leaky
    with pytest.raises(ConfigError, match="give first_splits with two"):
        overlap(data)
    with pytest.raises(ConfigError, match="give first_splits with two"):
        overlap(data, first_splits={"train": splits["train"]})


def test_splits_that_share_records_are_refused(leaky):
    data, _ = leaky
    with pytest.raises(ConfigError, match="splits 'train' and 'test' share records"):
        overlap(data, first_splits=rows(train=[0, 1], test=[1, 2]))


def test_levels_are_checked(pair):
    with pytest.raises(ConfigError, match="did you mean 'similar'"):
        overlap(*pair, level="similiar")
    with pytest.raises(ConfigError, match="level 'id' has no tolerance"):
        overlap(*pair, level="id", tolerance=0.1)


def test_compositions_meet_crystals_at_the_level_of_formulas_only(pair, tmp_path):
    alloys = dataset(tmp_path / "alloys", [composition("salt", [11, 17]), composition("x", [26])])
    report = overlap(alloys, pair[0])
    counted = {level: records_of(report, level) for level in LEVELS}
    assert counted == {"id": 1, "formula": 1, "similar": 0, "same": 0}
    itself = overlap(alloys, alloys)
    assert {level: records_of(itself, level) for level in LEVELS} == dict.fromkeys(LEVELS, 2)


def test_the_report_is_json_and_a_table(pair):
    report = overlap(*pair, second_splits=rows(train=[1], test=[0, 2, 3]))
    content = json.loads(json.dumps(report.to_dict()))
    assert content["first"] == {"name": "ours", "records": 5, "splits": {"all": 5}}
    assert content["second"] == {"name": "theirs", "splits": {"train": 1, "test": 3}}
    assert content["counts"]["all"]["test"]["same"] == {"records": 1, "others": 1}
    assert content["examples"]["all"] == {"train": [], "test": [["salt", "halite"]]}
    assert content["matches"][0]["group"] == "NaCl"
    header, train, test = report.table().splitlines()
    assert header.split() == ["ours", "records", "theirs", "records", *LEVELS, "examples"]
    assert train.split() == ["all", "5", "train", "1", "0", "1", "1", "0"]
    assert test.split() == ["all", "5", "test", "3", "1", "2", "1", "1", "salt", "=", "halite"]


def test_real_phonons_occur_in_the_elastic_set(data_dir, tmp_path):
    # Both sets are of the Materials Project; what one calls by row numbers the other does as well,
    # so names mean nothing here, and structures have to tell.
    from epitaxy.data.recipe import load_recipe

    sets = []
    for recipe, file, numbers in (
        ("phonons", "ph_train.json.gz", range(60)),
        ("dielectric", "dc_train.json.gz", range(60)),
    ):
        items = list(load_recipe(recipe).open_source().read(str(data_dir / "transfer7" / file)))
        sets.append(dataset(tmp_path / recipe, [items[number] for number in numbers]))
    report = overlap(*sets, cache=tmp_path / "cache")
    counts = report.counts["all"]["all"]
    numbers = [counts[level]["records"] for level in ("same", "similar", "formula")]
    assert numbers == sorted(numbers)
    assert counts["id"]["records"] == 0
    for match in report.matches:
        one = sets[0].record(int(sets[0].rows_of([match.id])[0]))
        other = sets[1].record(int(sets[1].rows_of([match.other])[0]))
        shares = [record.volume / record.num_atoms for record in (one, other)]
        assert shares[0] == pytest.approx(shares[1], rel=0.02)
    assert len(list((tmp_path / "cache").iterdir())) == 2
