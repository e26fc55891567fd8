import logging

import numpy as np
import pytest

from epitaxy.data.names import StoredNames
from epitaxy.data.selection import (
    Excluded,
    Selection,
    exclude_files,
    read_exclude_list,
    require_records,
    select_rows,
    unknown_excludes,
)
from epitaxy.errors import ConfigError, PlanError

IDS = np.array(["a", "b", "c", "d", "e", "f"])
NAMES = StoredNames.of(IDS.tolist())
NUM_ATOMS = np.array([1, 20, 21, 4, 50, 2])
LARGEST = {
    "forces": np.array([0.1, 30.0, 30.5, np.nan, 99.0, 0.0]),
    "stress": np.array([0.0, 0.2, np.nan, np.nan, 0.5, 0.6]),
}
ALL = np.arange(6)


def select(rows=ALL, **rules):
    return select_rows(NAMES, rows, num_atoms=NUM_ATOMS, largest=LARGEST, **rules)


def test_without_rules_everything_stays():
    selection = select()
    assert selection.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert selection.report() == {"records": 6, "kept": 6, "excluded": 0, "rules": {}}


def test_a_value_at_the_limit_and_a_missing_label_stay():
    selection = select(max_force=30.0, max_atoms=20)
    # c: 21 atoms and 30.5 eV/Å; e: 50 atoms and 99 eV/Å; d has no forces
    assert IDS[selection.rows].tolist() == ["a", "b", "d", "f"]


def test_every_rule_counts_for_itself_and_the_total_counts_once():
    report = select(max_force=30.0, max_stress=0.5, exclude=["c", "a"]).report()
    assert report == {
        "records": 6,
        "kept": 2,
        "excluded": 4,
        "rules": {
            "|forces| > 30": {"excluded": 2, "ids": ["c", "e"]},
            "|stress| > 0.5": {"excluded": 1, "ids": ["f"]},
            "exclude list": {"excluded": 2, "ids": ["a", "c"]},
        },
    }


def test_a_rule_that_takes_nothing_is_listed():
    assert select(max_atoms=1000).rules == {"num_atoms > 1000": Excluded(0, ())}


def test_only_the_given_rows_are_candidates():
    selection = select(np.array([5, 4, 0]), max_atoms=10, exclude=["b"])
    assert selection.rows.tolist() == [5, 0]
    assert selection.rules["exclude list"].count == 0, "b is no candidate"


def test_a_limit_on_an_absent_label_is_refused():
    with pytest.raises(ConfigError, match="needs the label 'forces'"):
        select_rows(NAMES, ALL, num_atoms=NUM_ATOMS, largest={"stress": ALL}, max_force=1.0)


@pytest.mark.parametrize("rule", [{"max_atoms": 0}, {"max_force": -1.0}, {"max_stress": np.nan}])
def test_limits_must_be_positive(rule):
    with pytest.raises(ConfigError, match="must be positive"):
        select(**rule)


def test_unknown_excludes_are_counted_unless_all_are_unknown(caplog):
    with caplog.at_level(logging.WARNING):
        assert unknown_excludes(NAMES, ["a", "zzz", "b", "yyy"]) == ["zzz", "yyy"]
    assert "name 2 ids that the data set does not have, such as ['zzz', 'yyy']" in caplog.text
    assert "the other 2 are left out" in caplog.text
    assert select(exclude=["a", "zzz"]).report()["rules"]["exclude list"]["ids"] == ["a"]
    with pytest.raises(PlanError, match=r"name 2 ids, such as \['x', 'y'\], .*none of them"):
        unknown_excludes(NAMES, ["x", "y"])
    assert unknown_excludes(NAMES, []) == []


def test_heavy_elements_are_left_out():
    heaviest = np.array([80, 81, 1, 92, 79, 80])
    selection = select(heaviest=heaviest, max_atomic_number=80)
    assert IDS[selection.rows].tolist() == ["a", "c", "e", "f"]
    assert selection.rules == {"atomic number > 80": Excluded(2, ("b", "d"))}
    with pytest.raises(ConfigError, match="needs the highest atomic numbers"):
        select(max_atomic_number=80)
    with pytest.raises(ConfigError, match=r"filter\.max_atomic_number must be positive"):
        select(heaviest=heaviest, max_atomic_number=0)


def test_several_exclude_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exclude_files(None) == ()
    assert exclude_files("a.txt") == ("a.txt",)
    assert exclude_files("a.txt, b.txt,") == ("a.txt", "b.txt")
    assert exclude_files(["a,b.txt", "c.txt"]) == ("a,b.txt", "c.txt")
    (tmp_path / "a,b.txt").write_text("x")
    assert exclude_files("a,b.txt") == ("a,b.txt",)


def test_an_empty_split_tells_which_rule_took_how_many():
    selection = select(np.array([2, 4]), max_force=1.0, max_atoms=30)
    with pytest.raises(PlanError, match=r"train split \(2 excluded; \|forces\| > 1: 2, num_atoms"):
        require_records(selection.rows, "train", selection)
    require_records(ALL, "train", Selection(ALL, 0, {}))


def test_exclude_lists_are_one_id_per_line(tmp_path):
    file = tmp_path / "exclude.txt"
    file.write_text("a\n\n  b \r\n")
    assert read_exclude_list(file) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"missing\.txt cannot be read"):
        read_exclude_list(tmp_path / "missing.txt")
