"""The rules that deal records, on plain columns."""

import csv
import gzip
import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.data.names import StoredNames, find_rows
from epitaxy.data.split_rules import (
    cluster_keys,
    leaking_groups,
    rows_by_rule,
    rows_of_ids,
    scalar_column,
    take_units,
    units_of,
)
from epitaxy.errors import ConfigError, PlanError
from epitaxy.graph.symbols import ATOMIC_NUMBERS

IDS = [f"r{index:03d}" for index in range(100)]
GROUPS = [f"g{index // 4:02d}" for index in range(100)]
NA, CL, K, O, SI = 11, 17, 19, 8, 14  # noqa: E741 - element symbols


@pytest.fixture
def hundred(columns):
    """100 records in 25 groups of four."""
    return columns(IDS, GROUPS)


def named(data, rows):
    return {split: set(data.ids[part].tolist()) for split, part in rows.items()}


def test_by_record_the_numbers_are_exact(hundred):
    rows = rows_by_rule(hundred, by="record", sizes=(70, 20, 7))
    assert [len(rows[name]) for name in ("train", "val", "test")] == [70, 20, 7]
    assert len(np.unique(np.concatenate(list(rows.values())))) == 97


def test_fractions_of_one_use_every_record(hundred):
    rows = rows_by_rule(hundred.take(range(37)), by="record", fractions=(0.8, 0.1, 0.1))
    # 0.8 * 37 = 29.6 and 0.9 * 37 = 33.3 round to 30 and 33
    assert [len(part) for part in rows.values()] == [30, 3, 4]


def test_matches_a_walk_over_hashed_groups(hundred):
    def key(group):
        return hashlib.blake2b(group.encode(), key=b"7", digest_size=8).digest()

    expected = {"train": set(), "val": set(), "test": set()}
    wanted = {"train": 50, "val": 10, "test": 40}
    for group in sorted(set(GROUPS), key=key):
        members = {name for name, of in zip(IDS, GROUPS, strict=True) if of == group}
        name = next((n for n in expected if len(expected[n]) < wanted[n]), None)
        if name:
            expected[name] |= members
    rows = rows_by_rule(hundred, fractions=(0.5, 0.1, 0.4), seed=7)
    assert named(hundred, rows) == expected
    assert len(rows["val"]) == 12, "three groups of four: one starts while the count is below 10"


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 30), min_size=20, max_size=120),
    seed=st.integers(0, 5),
    by=st.sampled_from(["group", "formula", "chemical_system", "time"]),
    order=st.randoms(use_true_random=False),
)
def test_no_unit_leaks_and_the_order_of_the_data_set_does_not_matter(
    columns, groups, seed, by, order
):
    ids = [f"id{index}" for index in range(len(groups))]
    data = columns(
        ids, [f"g{group}" for group in groups], [{group + 1: 2, 99: 4} for group in groups],
        year=groups,
    )  # fmt: skip
    rule = {"by": by, "fractions": (0.6, 0.2, 0.2), "seed": seed}
    if by == "time":
        rule["time"] = "year"
    try:
        rows = rows_by_rule(data, **rule)
    except PlanError:
        assert len(set(groups)) < 20, "only few units can leave a split empty"
        return
    assert leaking_groups(data.group_names, rows) == []
    assert sum(len(part) for part in rows.values()) == len(ids)
    shuffled = list(range(len(ids)))
    order.shuffle(shuffled)
    again = data.take(shuffled)
    assert named(again, rows_by_rule(again, **rule)) == named(data, rows)


def test_the_seed_decides(hundred):
    first = named(hundred, rows_by_rule(hundred, seed=0))
    assert first == named(hundred, rows_by_rule(hundred, seed=0))
    assert first != named(hundred, rows_by_rule(hundred, seed=1))


def test_a_fraction_of_zero_is_an_empty_split(hundred):
    rows = rows_by_rule(hundred, fractions=(0.9, 0.1, 0.0))
    assert len(rows["test"]) == 0
    assert len(rows["train"]) + len(rows["val"]) == 100


SALTS = [
    {NA: 1, CL: 1},  # NaCl
    {NA: 4, CL: 4},  # NaCl in its cubic cell
    {SI: 2, O: 4},  # SiO2
    {SI: 3, O: 6},  # SiO2, quartz
    {SI: 1, O: 1},  # SiO: same elements, another formula
    {K: 1, CL: 1},
]


def test_formulas_are_reduced_by_their_greatest_common_divisor(columns):
    data = columns(list("abcdef"), compositions=SALTS)
    units = units_of(data, "formula")
    assert units[0] == units[1]
    assert units[2] == units[3]
    assert len(set(units.tolist())) == 4
    assert units[:5].tolist() == ["ClNa", "ClNa", "O2Si", "O2Si", "OSi"]
    systems = units_of(data, "chemical_system").tolist()
    assert systems == ["Cl-Na", "Cl-Na", "O-Si", "O-Si", "O-Si", "Cl-K"]


def test_no_formula_and_no_system_is_in_two_splits_of_real_crystals(columns, data_dir):
    """The table's own formula column is the independent route."""
    with gzip.open(data_dir / "small" / "mp_2000.csv.gz", "rt") as stream:
        table = list(csv.DictReader(stream))
    cells = []
    for row in table:
        reduced = {
            ATOMIC_NUMBERS[symbol]: int(count or 1)
            for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*)", _flat(row["formula"]))
        }
        times, rest = divmod(int(row["n_sites"]), sum(reduced.values()))
        assert rest == 0
        cells.append({number: count * times for number, count in reduced.items()})
    data = columns(
        [row["material_id"] for row in table], [row["formula"] for row in table], cells
    )  # fmt: skip

    by_record = rows_by_rule(data, by="record")
    assert len(leaking_groups(data.group_names, by_record)) > 10, "polymorphs are parted by record"

    rows = rows_by_rule(data, by="formula")
    assert leaking_groups(data.group_names, rows) == []
    assert [len(rows[name]) for name in ("train", "val", "test")] == pytest.approx(
        [1600, 200, 200], abs=10
    )
    systems = np.array(["-".join(sorted(re.findall("[A-Z][a-z]?", f))) for f in data.groups])
    assert leaking_groups(StoredNames.of(systems), rows), "formulas of one system may be parted"
    assert leaking_groups(StoredNames.of(systems), rows_by_rule(data, by="chemical_system")) == []


def _flat(formula):
    """Pretty formulas with one level of brackets, such as Ca(OH)2, written out."""

    def repeat(match):
        times = int(match[2] or 1)
        return "".join(
            f"{symbol}{int(count or 1) * times}"
            for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*)", match[1])
        )

    text = re.sub(r"\(([^)]*)\)(\d*)", repeat, formula)
    totals = {}
    for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*)", text):
        totals[symbol] = totals.get(symbol, 0) + int(count or 1)
    return "".join(f"{symbol}{count}" for symbol, count in totals.items())


def test_time_deals_the_earliest_to_train_and_the_latest_to_test(columns):
    years = [2004, 1999, 2001, 2001, 2003, 2000, 2002, 2001, 1998, 2005]
    data = columns([f"y{index}" for index in range(10)], year=years)
    # in order: 98 99 00 01 01 01 02 03 04 05; train wants 5 and takes all three of 2001
    rows = rows_by_rule(data, by="time", time="year", fractions=(0.5, 0.2, 0.3))
    dealt = {name: sorted(np.array(years)[part].tolist()) for name, part in rows.items()}
    assert dealt == {
        "train": [1998, 1999, 2000, 2001, 2001, 2001],
        "val": [2002, 2003],
        "test": [2004, 2005],
    }
    left = rows_by_rule(data, by="time", time="year", sizes=(2, 1, 1))
    assert sorted(np.array(years)[np.concatenate(list(left.values()))]) == [
        1998, 1999, 2000, 2001, 2001, 2001,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ({"by": "time"}, ConfigError, r"needs split\.time.*scalar labels of the data set: year"),
        ({"by": "time", "time": "yaer"}, ConfigError, r"split\.time=yaer .*did you mean 'year'"),
        ({"by": "time", "time": "year"}, PlanError, r"1 of 3 records have no 'year'.*'b'.*fill"),
        ({"by": "group", "time": "year"}, ConfigError, r"for split\.by=time, not by=group"),
        (
            {"by": "structure"},
            ConfigError,
            r"no clusters were given\. Store .*use split\.by=formula",
        ),
        ({"by": "structure", "keys": np.array(["x"])}, ConfigError, r"each of 3 records.*\(1,\)"),
        ({"by": "record", "keys": np.array(["x"] * 3)}, ConfigError, "by=record takes no keys"),
    ],
)
def test_what_a_rule_lacks_is_said(columns, rule, error, message):
    data = columns(["a", "b", "c"], year=[2000, np.nan, 2001])
    with pytest.raises(error, match=message):
        rows_by_rule(data, **rule)


def test_clusters_are_named_by_their_first_id_whatever_the_order():
    ids = np.array(["b", "a", "d", "c", "e"])
    keys = cluster_keys(ids, [np.array([0, 2]), np.array([3, 4])])
    assert keys.tolist() == ["b", "a", "b", "c", "c"]
    again = cluster_keys(ids[::-1], [np.array([0, 1]), np.array([2, 4])])
    assert again[::-1].tolist() == keys.tolist()


def test_given_keys_keep_duplicates_together(columns):
    data = columns([f"s{index}" for index in range(40)])
    keys = np.array([f"cluster{index % 13}" for index in range(40)])
    rows = rows_by_rule(data, by="structure", keys=keys, fractions=(0.6, 0.2, 0.2))
    assert leaking_groups(StoredNames.of(keys.tolist()), rows) == []
    assert leaking_groups(
        StoredNames.of(keys.tolist()), rows_by_rule(data, by="record", fractions=(0.6, 0.2, 0.2))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "recordd"}, "did you mean 'record'"),
        ({"fractions": (0.9, 0.2, 0.1)}, "add up to 1.2"),
        ({"fractions": (0.9, -0.1, 0.1)}, "non-negative"),
        ({"fractions": (float("nan"), 0.1, 0.1)}, "non-negative"),
        ({"fractions": 0.8}, "three non-negative numbers .*got 0.8"),
        ({"sizes": (10, 10)}, "three non-negative numbers"),
    ],
)
def test_wrong_settings_are_refused(hundred, arguments, message):
    with pytest.raises(ConfigError, match=message):
        rows_by_rule(hundred, **arguments)


def test_impossible_sizes_are_refused(hundred):
    with pytest.raises(PlanError, match="ask for 120 records, the data set has 100"):
        rows_by_rule(hundred, sizes=(100, 10, 10))


def test_an_empty_split_is_refused(columns):
    with pytest.raises(PlanError, match=r"val split.*100 records in 1 groups"):
        rows_by_rule(columns(IDS, ["same"] * 100))


def test_units_are_taken_whole_and_as_many_as_needed(hundred):
    taken = take_units(hundred.groups, 10, seed=0)
    assert taken.sum() == 12, "three groups of four"
    assert (
        leaking_groups(hundred.group_names, {"in": np.where(taken)[0], "out": np.where(~taken)[0]})
        == []
    )
    assert not take_units(hundred.groups, 0, seed=0).any()


def test_rows_of_ids_keeps_the_order_asked_for(hundred):
    assert rows_of_ids(hundred.id_names, ["r007", "r003"], "a list").tolist() == [7, 3]
    with pytest.raises(PlanError, match=r"a list names 1 ids .*'x'"):
        rows_of_ids(hundred.id_names, ["r007", "x"], "a list")
    rows, unknown = find_rows(hundred.id_names, ["x", "r009", "y"])
    assert (rows.tolist(), unknown) == ([9], ["x", "y"])


def test_columns_longer_than_a_block_are_put_together(columns, monkeypatch):
    monkeypatch.setattr("epitaxy.data.split_rules._BLOCK", 4)
    values = np.arange(11.0)
    data = columns([f"i{n}" for n in range(11)], None, [{n + 1: 1} for n in range(11)], x=values)
    assert scalar_column(data, "x", "label").tolist() == values.tolist()
    symbols = units_of(data, "formula").tolist()
    assert (len(symbols), symbols[:5], symbols[-2:]) == (
        11,
        ["H", "He", "Li", "Be", "B"],
        ["Ne", "Na"],
    )
