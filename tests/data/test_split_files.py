"""Splits stored with a data set: by id, whole or not at all, and nothing that was tampered with."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.split_files import (
    check_name,
    copy_splits,
    list_splits,
    load_split,
    save_split,
)
from epitaxy.errors import ConfigError, PlanError, ShardError

ROWS = {"train": np.array([4, 0]), "val": np.array([2]), "test": np.array([3])}


@pytest.fixture
def data(columns, tmp_path):
    return columns(list("abcde"), path=tmp_path)


def test_ids_are_stored_and_rows_come_back(data):
    path = save_split(data, "mine", ROWS, {"by": "hand", "sizes": (2, 1, 1)})
    content = json.loads(path.read_text())
    assert path == data.path / "splits" / "mine.json"
    assert {name: content[name] for name in ROWS} == {
        "train": ["a", "e"], "val": ["c"], "test": ["d"],
    }  # fmt: skip
    assert (content["format"], content["data_digest"]) == (1, data.data_digest)
    stored = load_split(data, "mine")
    assert {name: rows.tolist() for name, rows in stored.rows.items()} == {
        "train": [0, 4], "val": [2], "test": [3],
    }  # fmt: skip
    assert stored.settings == {"by": "hand", "sizes": [2, 1, 1]}
    assert list_splits(data) == ["mine"]
    assert [path.name for path in path.parent.iterdir()] == ["mine.json"], "no leftovers"


def test_the_order_of_the_records_changes_neither_file_nor_records(data, tmp_path):
    first = save_split(data, "mine", ROWS, {}).read_text()
    shuffled = data.take([3, 1, 4, 0, 2])
    rows = load_split(shuffled, "mine").rows
    assert shuffled.ids[rows["train"]].tolist() == ["e", "a"]
    assert np.all(np.diff(rows["train"]) > 0)
    assert save_split(shuffled, "mine", rows, {}, overwrite=True).read_text() == first


def test_a_part_that_is_left_out_is_empty(data):
    save_split(data, "all", {"train": np.arange(5)}, {})
    assert {name: len(rows) for name, rows in load_split(data, "all").rows.items()} == {
        "train": 5, "val": 0, "test": 0,
    }  # fmt: skip


def test_a_split_is_replaced_only_when_told(data):
    save_split(data, "mine", ROWS, {})
    with pytest.raises(ConfigError, match="has a split 'mine' already"):
        save_split(data, "mine", {"train": np.arange(5)}, {})
    assert len(load_split(data, "mine").rows["train"]) == 2
    save_split(data, "mine", {"train": np.arange(5)}, {}, overwrite=True)
    assert len(load_split(data, "mine").rows["train"]) == 5


def test_a_write_that_fails_leaves_what_was_there(data, monkeypatch):
    path = save_split(data, "mine", ROWS, {})
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("epitaxy.data.split_files.os.fsync", full)
    with pytest.raises(ConfigError, match=r"cannot be written: .*No space left"):
        save_split(data, "mine", {"train": np.arange(5)}, {}, overwrite=True)
    assert path.read_text() == before
    assert [path.name for path in path.parent.iterdir()] == ["mine.json"]


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", ".hidden", "-x", "a b", "x.json", "ä", "a\n", "n" * 129]
)
def test_names_that_cannot_be_files_are_refused(data, name):
    for action in (
        check_name,
        lambda name: load_split(data, name),
        lambda name: save_split(data, name, ROWS, {}),
    ):
        with pytest.raises(ConfigError, match="use letters, digits"):
            action(name)
    check_name("gap-trial1-100_v1.5")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"train": [0], "test": [0]}, PlanError, "'a' in train and again in test"),
        ({"train": [1, 1]}, PlanError, "again in train"),
        ({"tests": [1]}, ConfigError, "no part 'tests'; did you mean 'test'"),
    ],
)
def test_splits_that_make_no_sense_are_not_stored(data, rows, error, message):
    with pytest.raises(error, match=message):
        save_split(data, "mine", {name: np.array(part) for name, part in rows.items()}, {})
    assert list_splits(data) == []


def test_an_unknown_split_is_answered_with_the_closest(data):
    save_split(data, "by-formula", ROWS, {})
    with pytest.raises(ConfigError, match="no split 'by-formla'; did you mean 'by-formula'"):
        load_split(data, "by-formla")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], "is damaged: .*make it again"),
        (lambda text: text.replace('"c"', '"b"'), "checksum does not match"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "has format 2, .* up to 1"),
        (lambda _: '{"train": ["a"]}', r"states no format\. .*split\.file="),
        (lambda _: "[]", "is no stored split"),
    ],
)
def test_damaged_files_are_refused(data, damage, message):
    path = save_split(data, "mine", ROWS, {})
    path.write_text(damage(path.read_text()))
    with pytest.raises(ShardError, match=message):
        load_split(data, "mine")


def test_other_data_is_accepted_only_if_every_id_is_there(data, caplog):
    save_split(data, "mine", ROWS, {})
    with caplog.at_level(logging.WARNING):
        assert len(load_split(data, "mine").rows["train"]) == 2
    assert not caplog.text
    newer = dataclasses.replace(data, data_digest="e" * 64)
    with caplog.at_level(logging.WARNING):
        assert len(load_split(newer, "mine").rows["train"]) == 2
    assert "made for other data (digest dddddddddddddddd, here eeeeeeeeeeeeeeee)" in caplog.text
    with pytest.raises(PlanError, match=r"mine\.json names 1 ids .*'e'"):
        load_split(data.take([0, 1, 2, 3]), "mine")


def test_copies_keep_what_the_target_has(data, columns, tmp_path, caplog):
    save_split(data, "mine", ROWS, {"by": "hand"})
    save_split(data, "lost", {"train": np.array([1])}, {})
    target = columns(["x", "e", "c", "a"], path=tmp_path / "target")
    target.path.mkdir()
    with caplog.at_level(logging.WARNING):
        paths = copy_splits(data, target)
    assert [path.name for path in paths] == ["mine.json"]
    assert "'lost' is not copied" in caplog.text
    stored = load_split(target, "mine")
    assert {name: target.ids[rows].tolist() for name, rows in stored.rows.items()} == {
        "train": ["e", "a"], "val": ["c"], "test": [],
    }  # fmt: skip
    assert stored.settings == {"by": "hand", "left_out": {"train": 0, "val": 0, "test": 1}}


def test_a_stored_split_is_no_part_of_the_data(crystals, tmp_path):
    records = crystals.many(6, max_atoms=2)
    prepare(records, tmp_path / "data", progress=False)
    dataset = Dataset.open(tmp_path / "data")
    save_split(dataset, "mine", ROWS, {})
    again = Dataset.open(tmp_path / "data")
    again.verify()
    assert again.data_digest == dataset.data_digest
    # ids of many() are c0000, c0001, …
    assert again.ids[load_split(again, "mine").rows["train"]].tolist() == ["c0000", "c0004"]
