import hashlib
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.data.splits import leaking_groups, rows_of_ids, split_rows
from epitaxy.errors import ConfigError, PlanError

IDS = np.array([f"r{index:03d}" for index in range(100)])
GROUPS = np.array([f"g{index // 4:02d}" for index in range(100)])


def named(ids, rows):
    return {split: set(ids[part].tolist()) for split, part in rows.items()}


def test_by_record_the_numbers_are_exact():
    rows = split_rows(IDS, GROUPS, by="record", sizes=(70, 20, 7))
    assert [len(rows[name]) for name in ("train", "val", "test")] == [70, 20, 7]
    assert len(np.unique(np.concatenate(list(rows.values())))) == 97


def test_fractions_of_one_use_every_record():
    rows = split_rows(IDS[:37], GROUPS[:37], by="record", fractions=(0.8, 0.1, 0.1))
    # 0.8 * 37 = 29.6 and 0.9 * 37 = 33.3 round to 30 and 33
    assert [len(part) for part in rows.values()] == [30, 3, 4]


def test_matches_a_walk_over_hashed_groups():
    def key(group):
        return hashlib.blake2b(group.encode(), key=b"7", digest_size=8).digest()

    expected = {"train": set(), "val": set(), "test": set()}
    wanted = {"train": 50, "val": 10, "test": 40}
    for group in sorted(set(GROUPS.tolist()), key=key):
        members = set(IDS[group == GROUPS].tolist())
        name = next((n for n in expected if len(expected[n]) < wanted[n]), None)
        if name:
            expected[name] |= members
    rows = split_rows(IDS, GROUPS, fractions=(0.5, 0.1, 0.4), seed=7)
    assert named(IDS, rows) == expected
    assert len(rows["val"]) == 12, "three groups of four: one starts while the count is below 10"


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 30), min_size=20, max_size=120),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_no_group_leaks_and_the_order_of_the_data_set_does_not_matter(groups, seed, order):
    ids = np.array([f"id{index}" for index in range(len(groups))])
    names = np.array([f"g{group}" for group in groups])
    try:
        rows = split_rows(ids, names, fractions=(0.6, 0.2, 0.2), seed=seed)
    except PlanError:
        assert len(set(groups)) < 20, "only few groups can leave a split empty"
        return
    assert leaking_groups(names, rows) == []
    assert sum(len(part) for part in rows.values()) == len(ids)
    shuffled = list(range(len(ids)))
    order.shuffle(shuffled)
    again = split_rows(ids[shuffled], names[shuffled], fractions=(0.6, 0.2, 0.2), seed=seed)
    assert named(ids[shuffled], again) == named(ids, rows)


def test_the_seed_decides():
    first = named(IDS, split_rows(IDS, GROUPS, seed=0))
    assert first == named(IDS, split_rows(IDS, GROUPS, seed=0))
    assert first != named(IDS, split_rows(IDS, GROUPS, seed=1))


def test_a_fraction_of_zero_is_an_empty_split():
    rows = split_rows(IDS, GROUPS, fractions=(0.9, 0.1, 0.0))
    assert len(rows["test"]) == 0
    assert len(rows["train"]) + len(rows["val"]) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "recordd"}, "did you mean 'record'"),
        ({"fractions": (0.9, 0.2, 0.1)}, "add up to 1.2"),
        ({"fractions": (0.9, -0.1, 0.1)}, "non-negative"),
        ({"sizes": (10, 10)}, "three non-negative numbers"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        split_rows(IDS, GROUPS, **arguments)


def test_impossible_sizes_are_refused():
    with pytest.raises(PlanError, match="ask for 120 records, the data set has 100"):
        split_rows(IDS, GROUPS, sizes=(100, 10, 10))


def test_an_empty_split_is_refused():
    one_material = np.array(["same"] * 100)
    with pytest.raises(PlanError, match=r"val split.*100 records in 1 groups"):
        split_rows(IDS, one_material)


def test_file_lists_are_taken_as_they_are(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["r005", "r001"], "test": ["r099"]}))
    rows = split_rows(IDS, GROUPS, file=file)
    assert {name: part.tolist() for name, part in rows.items()} == {
        "train": [1, 5],
        "val": [],
        "test": [99],
    }


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"train": ["r001", "nope"]}', PlanError, r"names 1 ids .*'nope'"),
        ('{"train": ["r001"], "test": ["r001"]}', PlanError, "'r001' in train and again in test"),
        ('{"train": ["r001", "r001"]}', PlanError, "again in train"),
        ('{"trainn": ["r001"]}', ConfigError, "did you mean 'train'"),
        ('{"train": [1]}', ConfigError, "list of record ids"),
        ('["r001"]', ConfigError, "object of id lists"),
        ("{", ConfigError, "cannot be read as JSON"),
    ],
)
def test_bad_split_files_are_refused(tmp_path, content, error, message):
    file = tmp_path / "split.json"
    file.write_text(content)
    with pytest.raises(error, match=message):
        split_rows(IDS, GROUPS, file=file)


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        split_rows(IDS, GROUPS, file=tmp_path / "nowhere.json")


def test_a_split_file_that_leaks_groups_is_reported(tmp_path, caplog):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["r000"], "test": ["r001"]}))
    with caplog.at_level(logging.WARNING):
        rows = split_rows(IDS, GROUPS, file=file)
    assert leaking_groups(GROUPS, rows) == ["g00"]
    assert "1 groups into more than one split" in caplog.text


def test_rows_of_ids_keeps_the_order_asked_for():
    assert rows_of_ids(IDS, ["r007", "r003"], "a list").tolist() == [7, 3]
