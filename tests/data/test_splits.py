"""What ``split.*`` gives: rules, files, folds and stored splits through one door."""

import gzip
import json
import logging

import numpy as np
import pytest

from epitaxy.data.names import StoredNames
from epitaxy.data.split_files import load_split, save_split
from epitaxy.data.split_rules import leaking_groups, rows_by_rule
from epitaxy.data.splits import make_split, store_split
from epitaxy.errors import ConfigError, PlanError, ShardError

IDS = [f"r{index:03d}" for index in range(100)]
GROUPS = [f"g{index // 4:02d}" for index in range(100)]


@pytest.fixture
def data(columns, tmp_path):
    """100 records in 25 groups of four."""
    return columns(IDS, GROUPS, path=tmp_path, year=np.arange(100) // 10)


def written(tmp_path, content):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(content))
    return file


def ids_of(data, split):
    return {name: data.ids[rows].tolist() for name, rows in split.rows.items()}


def test_a_rule_is_identified_by_its_settings_alone(data):
    split = make_split(data, by="record", sizes=(70, 20, 7), seed=3)
    expected = rows_by_rule(data, by="record", sizes=(70, 20, 7), seed=3)
    assert ids_of(data, split) == {name: data.ids[rows].tolist() for name, rows in expected.items()}
    assert split.identity == {
        "by": "record", "fractions": (0.8, 0.1, 0.1), "sizes": (70, 20, 7), "seed": 3,
    }  # fmt: skip
    assert make_split(data, by="time", time="year").identity["time"] == "year"


def test_given_keys_are_part_of_the_identity(data):
    keys = np.array([f"k{index // 2}" for index in range(100)])
    split = make_split(data, by="structure", keys=keys)
    assert leaking_groups(StoredNames.of(keys.tolist()), split.rows) == []
    order = np.random.default_rng(0).permutation(100)
    again = make_split(data.take(order), by="structure", keys=keys[order])
    assert again.identity == split.identity
    assert make_split(data, by="structure", keys=data.ids).identity != split.identity


def test_file_lists_are_taken_as_they_are(data, tmp_path):
    split = make_split(data, file=written(tmp_path, {"train": ["r005", "r001"], "test": ["r099"]}))
    assert ids_of(data, split) == {"train": ["r001", "r005"], "val": [], "test": ["r099"]}


def test_files_count_by_what_they_list(data, tmp_path):
    first = make_split(data, file=written(tmp_path, {"train": ["r005", "r001"]})).identity
    same = make_split(data, file=written(tmp_path, {"val": [], "train": ["r001", "r005"]}))
    assert same.identity == first
    assert make_split(data, file=written(tmp_path, {"val": ["r001", "r005"]})).identity != first


def test_ids_that_the_data_set_lacks(data, tmp_path, caplog):
    lists = {"train": ["r001", "nope", "never"], "val": ["r002"], "test": ["r003", "no"]}
    file = written(tmp_path, lists)
    with pytest.raises(PlanError, match=r"names 2 ids .*'nope', 'never'.*split\.missing=skip"):
        make_split(data, file=file)
    with caplog.at_level(logging.WARNING):
        split = make_split(data, file=file, missing="skip")
    assert ids_of(data, split) == {"train": ["r001"], "val": ["r002"], "test": ["r003"]}
    assert split.missing_report() == {
        "train": {"count": 2, "ids": ["nope", "never"]},
        "test": {"count": 1, "ids": ["no"]},
    }
    assert "names 3 ids that the data set does not have: skipped" in caplog.text
    file = written(tmp_path, {"train": ["r001"], "test": ["mb-1", "mb-2"]})
    with pytest.raises(PlanError, match=r"none of the 2 ids of test, .*'mb-1'.*like \['r000'"):
        make_split(data, file=file, missing="skip")
    with pytest.raises(ConfigError, match=r"split\.missing is 'skipp'; did you mean 'skip'"):
        make_split(data, file=file, missing="skipp")


def test_a_split_file_that_leaks_groups_is_reported(data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        split = make_split(data, file=written(tmp_path, {"train": ["r000"], "test": ["r001"]}))
    assert leaking_groups(data.group_names, split.rows) == ["g00"]
    assert "1 groups into more than one split" in caplog.text


@pytest.fixture
def folds(data, tmp_path):
    """Five folds of groups in the layout of MatBench, over more records than there are."""
    tasks = {}
    for k in range(5):
        test = [name for name, group in zip(IDS, GROUPS, strict=True) if int(group[1:]) % 5 == k]
        train = [name for name in IDS if name not in test]
        tasks[f"fold_{k}"] = {"train": [*train, f"held-out-{k}"], "test": test}
    return written(tmp_path, {"splits": {"matbench_phonons": tasks}, "metadata": {"n": 5}})


def test_the_folds_of_a_benchmark(data, folds):
    tests = []
    for k in range(5):
        split = make_split(data, file=folds, fold=k, task="matbench_phonons", missing="skip")
        assert [len(split.rows[name]) for name in ("train", "val", "test")] == [72, 8, 20]
        assert leaking_groups(data.group_names, split.rows) == [], "val is carved in whole groups"
        assert split.missing["train"] == [f"held-out-{k}"]
        tests += data.ids[split.rows["test"]].tolist()
    assert sorted(tests) == IDS, "every record is tested once"


def test_the_folds_of_a_part_of_a_benchmark(columns, data_dir, tmp_path):
    """1138 of the 1265 phonon crystals are here; five folds are made over all of them."""
    with gzip.open(data_dir / "matbench" / "matbench_phonons.json.gz") as stream:
        index = json.load(stream)["index"]
    data = columns([f"mb-phonons-{row + 1:04d}" for row in index])
    everyone = np.array([f"mb-phonons-{row + 1:04d}" for row in range(1265)])
    fold_of = np.random.default_rng(0).permutation(1265) % 5
    folds = {
        f"fold_{k}": {
            "train": everyone[fold_of != k].tolist(),
            "test": everyone[fold_of == k].tolist(),
        }
        for k in range(5)
    }
    file = written(tmp_path, {"metadata": {}, "splits": {"matbench_phonons": folds}})
    with pytest.raises(PlanError, match=r"names \d+ ids that the data set does not have"):
        make_split(data, file=file, fold=0)
    tested = []
    for k in range(5):
        split = make_split(data, file=file, fold=k, missing="skip", by="record")
        sizes = {name: len(rows) for name, rows in split.rows.items()}
        assert sum(sizes.values()) == 1138
        assert sum(entry["count"] for entry in split.missing_report().values()) == 127
        assert sizes["val"] == round(0.1 * (sizes["train"] + sizes["val"]))
        assert set(data.ids[split.rows["test"]].tolist()) <= set(folds[f"fold_{k}"]["test"])
        tested += split.rows["test"].tolist()
    assert sorted(tested) == list(range(1138))


def test_the_validation_part_of_a_fold(data, folds):
    def fold(data=data, **changes):
        return make_split(data, file=folds, fold=0, missing="skip", **changes)

    first = fold()
    assert len(fold(val_fraction=0.25).rows["val"]) == 20
    assert len(fold(val_fraction=0.09, by="record").rows["val"]) == 7  # 0.09 · 80 = 7.2
    assert len(fold(val_fraction=0.0).rows["val"]) == 0
    assert ids_of(data, fold(seed=1))["val"] != ids_of(data, first)["val"]
    assert fold(seed=1).identity != first.identity
    shuffled = data.take(np.random.default_rng(0).permutation(100))
    again = fold(shuffled)
    assert again.identity == first.identity
    assert sorted(ids_of(shuffled, again)["val"]) == ids_of(data, first)["val"]
    with pytest.raises(ConfigError, match=r"from 0 to below 1, got 1\.0"):
        fold(val_fraction=1.0)
    with pytest.raises(PlanError, match="of the 80 training records of the fold leaves val empty"):
        fold(val_fraction=0.001)
    with pytest.raises(ConfigError, match=r"by=time cannot divide"):
        fold(by="time")


def test_stored_splits_are_used_by_name(data):
    path = store_split(data, "mine", {"by": "record", "sizes": [50, 20, 30]})
    split = make_split(data, name="mine")
    direct = make_split(data, by="record", sizes=[50, 20, 30])
    assert ids_of(data, split) == ids_of(data, direct)
    assert load_split(data, "mine").settings == {"by": "record", "sizes": [50, 20, 30]}
    # A stored split may travel as a list of ids.
    assert ids_of(data, make_split(data, file=path)) == ids_of(data, direct)
    with pytest.raises(ConfigError, match="exclude each other"):
        make_split(data, name="mine", file=path)


def test_the_identity_of_a_stored_split_is_its_content(data):
    save_split(data, "one", {"train": np.arange(9)}, {"made": "here"})
    save_split(data, "two", {"train": np.arange(9)}, {"made": "there"})
    save_split(data, "three", {"train": np.arange(8)}, {})
    one, two, three = (make_split(data, name=name).identity for name in ("one", "two", "three"))
    assert one == two != three
    data.path.joinpath("splits", "one.json").write_text("{}")
    with pytest.raises(ShardError, match="states no format"):
        make_split(data, name="one")


def test_what_was_missing_is_stored_with_the_split(data, tmp_path):
    file = written(tmp_path, {"train": ["r001", "nope"]})
    store_split(data, "part", {"file": str(file), "missing": "skip"})
    assert load_split(data, "part").settings["missing_ids"] == {
        "train": {"count": 1, "ids": ["nope"]}
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"byy": "group"}, "split 'mine' takes no argument 'byy'; did you mean 'by'"),
        ({"fractions": 0.8}, "three non-negative numbers"),
        ({"fold": 1}, r"split\.fold=1 chooses within split\.file"),
        ({"task": "x"}, r"split\.task=x chooses within split\.file"),
    ],
)
def test_wrong_settings_store_nothing(data, settings, message):
    with pytest.raises(ConfigError, match=message):
        store_split(data, "mine", settings)
    assert not (data.path / "splits").exists()
