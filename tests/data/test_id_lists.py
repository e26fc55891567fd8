"""Split files of every layout that is understood, and what is said of others."""

import gzip
import json

import pytest

from epitaxy.data.id_lists import read_id_lists
from epitaxy.errors import ConfigError, PlanError

PLAIN = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
FOLDS = {f"fold_{k}": {"train": [f"t{k}"], "test": [f"x{k}"]} for k in range(5)}


def written(tmp_path, content, name="split.json"):
    file = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"splits": PLAIN, "metadata": {"by": "hand"}},
        {"id_train": ["a", "b"], "id_val": ["c"], "id_test": ["d"]},
        {"train": {"a": 0.5, "b": 1}, "validation": {"c": None}, "test": {"d": 2.0}},
        {**PLAIN, "seed": 7, "format": 1, "settings": {"by": "record"}},
    ],
    ids=["plain", "wrapped", "alignn", "targets", "stored"],
)
def test_plain_lists(tmp_path, content):
    found = read_id_lists(written(tmp_path, content))
    assert (dict(found.lists), found.needs_val) == (PLAIN, False)


def test_a_list_that_is_absent_is_empty_and_nothing_is_carved(tmp_path):
    found = read_id_lists(written(tmp_path, {"train": ["a"], "test": ["b"]}))
    assert dict(found.lists) == {"train": ["a"], "val": [], "test": ["b"]}
    assert not found.needs_val


@pytest.mark.parametrize(
    "content",
    [
        {"splits": {"matbench_phonons": FOLDS}, "metadata": {"n_splits": 5, "fold": {"a": []}}},
        {"matbench_phonons": FOLDS, "version": "0.1", "notes": {"author": "x"}},
        FOLDS,
        {"splits": FOLDS},
        {name.removeprefix("fold_"): fold for name, fold in FOLDS.items()},
    ],
    ids=["matbench", "by task", "bare", "wrapped", "numbers"],
)
def test_folds_in_every_wrapping(tmp_path, content):
    file = written(tmp_path, content)
    for fold in (0, 4):
        found = read_id_lists(file, fold=fold)
        assert dict(found.lists) == {"train": [f"t{fold}"], "val": [], "test": [f"x{fold}"]}
        assert found.needs_val


def test_a_fold_with_its_own_validation_list_is_not_carved(tmp_path):
    file = written(tmp_path, {"fold_0": {"train": ["a"], "valid": ["b"], "test": ["c"]}})
    found = read_id_lists(file)
    assert dict(found.lists) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert not found.needs_val


def test_tasks_are_chosen_by_name(tmp_path):
    other = {"fold_0": {"train": ["o"], "test": ["p"]}}
    tasks = {"matbench_phonons": FOLDS, "matbench_jdft2d": other}
    file = written(tmp_path, {"splits": tasks, "metadata": {}})
    assert read_id_lists(file, fold=2, task="matbench_phonons").lists["test"] == ["x2"]
    assert read_id_lists(file, task="matbench_jdft2d").lists["test"] == ["p"]
    with pytest.raises(ConfigError, match=r"2 tasks .*split\.task=matbench_jdft2d"):
        read_id_lists(file, fold=0)
    with pytest.raises(ConfigError, match="no task 'phonons'; did you mean 'matbench_phonons'"):
        read_id_lists(file, fold=0, task="phonons")


@pytest.mark.parametrize(
    ("content", "choice", "message"),
    [
        (FOLDS, {}, r"holds 5 folds; choose one with split.fold: 0, 1, 2, 3, 4"),
        (FOLDS, {"fold": 5}, r"no fold 5; known: 0, 1, 2, 3, 4"),
        (FOLDS, {"fold": 0, "task": "x"}, r"folds of one task; leave split.task=x out"),
        (PLAIN, {"fold": 0}, r"holds no folds; leave split.fold=0 out"),
        (PLAIN, {"task": "x"}, r"holds no tasks; leave split.task=x out"),
        ({"trainn": ["a"]}, {}, "did you mean 'train'"),
        ({"train": ["a"], "tset": {"b": 1}}, {}, "'tset'; did you mean 'test'"),
        ({"train": [1]}, {}, "list of record ids"),
        ({"train": "a"}, {}, "list of record ids"),
        ({"title": "x"}, {}, "must hold id lists under train, val and test, .*'title'"),
        ({}, {}, "it has nothing"),
        (["a"], {}, "object of id lists, got list"),
        ("{", {}, "cannot be read as JSON"),
    ],
)
def test_files_that_are_not_understood_are_refused(tmp_path, content, choice, message):
    with pytest.raises(ConfigError, match=message):
        read_id_lists(written(tmp_path, content), **choice)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a"], "test": ["a"]}, "'a' in train and again in test"),
        ({"train": ["a", "a"]}, "again in train"),
        ({"fold_0": {"train": ["a"], "test": ["a"]}}, "'a' in train and again in test"),
    ],
)
def test_an_id_twice_is_refused(tmp_path, content, message):
    with pytest.raises(PlanError, match=message):
        read_id_lists(written(tmp_path, content))


def test_a_folder_of_text_files(tmp_path):
    written(tmp_path, "a\n\n b \r\n", "train.txt")
    written(tmp_path, "\ufeffc\n", "valid.txt")
    with gzip.open(tmp_path / "test.txt.gz", "wt") as stream:
        stream.write("d")
    written(tmp_path, "nothing to read here\n", "README.txt")
    assert dict(read_id_lists(tmp_path).lists) == PLAIN
    with pytest.raises(ConfigError, match="is one list; name the folder"):
        read_id_lists(tmp_path / "train.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"holds no train\.txt, val\.txt or test\.txt"):
        read_id_lists(empty)
    with pytest.raises(ConfigError, match="holds no folds"):
        read_id_lists(tmp_path, fold=1)


def test_tables(tmp_path):
    text = "\ufeffgap,ID,Split\n1.5,a,train\n,b,TRAIN\n0,c,validation\n3,d,test\n2,e,\n"
    assert dict(read_id_lists(written(tmp_path, text, "s.csv")).lists) == PLAIN
    assert dict(read_id_lists(written(tmp_path, text.replace(",", "\t"), "s.tsv")).lists) == PLAIN
    with gzip.open(tmp_path / "s.csv.gz", "wt") as stream:
        stream.write(text)
    assert dict(read_id_lists(tmp_path / "s.csv.gz").lists) == PLAIN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,split\na,train\n", "needs the columns id and split, it has: name, split"),
        ("", "it has: none"),
        ("id,split\na,train\nb,trian\n", "line 3: .*'b' and 'trian'"),
        ("id,split\n,train\n", "line 2: expected an id"),
        ("id,split\na\n", None),  # a short row is in no split
    ],
)
def test_tables_that_are_wrong(tmp_path, text, message):
    file = written(tmp_path, text, "s.csv")
    if message is None:
        assert not any(read_id_lists(file).lists.values())
        return
    with pytest.raises(ConfigError, match=message):
        read_id_lists(file)


def test_packed_and_missing_files(tmp_path):
    with gzip.open(tmp_path / "s.json.gz", "wt") as stream:
        json.dump(PLAIN, stream)
    assert dict(read_id_lists(tmp_path / "s.json.gz").lists) == PLAIN
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        read_id_lists(tmp_path / "nowhere.json")
    cut = (tmp_path / "s.json.gz").read_bytes()[:-12]
    (tmp_path / "cut.json.gz").write_bytes(cut)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_id_lists(tmp_path / "cut.json.gz")
