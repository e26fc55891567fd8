import numpy as np
import pytest

from epitaxy.data.selection import (
    Excluded,
    Selection,
    read_exclude_list,
    require_records,
    select_rows,
)
from epitaxy.errors import ConfigError, PlanError

IDS = np.array(["a", "b", "c", "d", "e", "f"])
NUM_ATOMS = np.array([1, 20, 21, 4, 50, 2])
LARGEST = {
    "forces": np.array([0.1, 30.0, 30.5, np.nan, 99.0, 0.0]),
    "stress": np.array([0.0, 0.2, np.nan, np.nan, 0.5, 0.6]),
}
ALL = np.arange(6)


def select(rows=ALL, **rules):
    return select_rows(IDS, rows, num_atoms=NUM_ATOMS, largest=LARGEST, **rules)


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
        select_rows(IDS, ALL, num_atoms=NUM_ATOMS, largest={"stress": ALL}, max_force=1.0)


@pytest.mark.parametrize("rule", [{"max_atoms": 0}, {"max_force": -1.0}, {"max_stress": np.nan}])
def test_limits_must_be_positive(rule):
    with pytest.raises(ConfigError, match="must be positive"):
        select(**rule)


def test_unknown_excludes_are_refused():
    with pytest.raises(PlanError, match=r"the exclude list names 1 ids .*'zzz'"):
        select(exclude=["a", "zzz"])


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
