"""Several data sets as one row space."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.mixture import Mixture, conflicts_of, open_data
from epitaxy.data.names import JoinedNames, find_rows
from epitaxy.data.partition import make_plans
from epitaxy.data.split_files import save_split
from epitaxy.errors import ConfigError, PlanError
from epitaxy.graph.record import Label
from epitaxy.graph.spec import GraphSpec

SPLIT = {"by": "group", "fractions": (0.6, 0.2, 0.2)}
BATCH = {"graphs": 8}


def renamed(records: list[Any], prefix: str, groups: int) -> list[Any]:
    return [
        record.replace(id=f"{prefix}{index:03d}", group=f"m{index % groups}")
        for index, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def folders(crystals: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sets that share materials (groups m0 … m9); the second lacks stresses, in Zarr."""
    root = tmp_path_factory.mktemp("mixture")
    first = renamed(crystals.many(40, max_atoms=5), "a", 20)
    second = [
        record.replace(labels={k: v for k, v in record.labels.items() if k != "stress"})
        for record in renamed(crystals.many(60, max_atoms=5)[40:], "b", 10)
    ]
    prepare(first, root / "first", shard_size=16, progress=False)
    prepare(second, root / "second", format="zarr", progress=False)
    return [root / "first", root / "second"]


@pytest.fixture(scope="module")
def mixed(folders: list[Path]) -> Mixture:
    data = open_data([str(folder) for folder in folders])
    assert isinstance(data, Mixture)
    return data


def plans(data: Any, **changes: Any) -> Any:
    arguments = {"split": SPLIT, "filter": {}, "batch": BATCH, "spec": GraphSpec(cutoff=4.0)}
    return make_plans(data, **{**arguments, "seed": 0, **changes})


def test_rows_are_those_of_the_members_one_after_the_other(
    mixed: Mixture, folders: list[Path]
) -> None:
    first, second = (Dataset.open(folder) for folder in folders)
    rows = [59, 0, 40, 39, 59]
    expected = [*second.read([19]), *first.read([0]), *second.read([0]), *first.read([39])]
    assert mixed.read(rows) == [*expected, expected[0]]
    ids = [decode(blob).id for blob in mixed.read(rows)]
    assert ids == mixed.id_names.at(np.array(rows)).tolist()
    assert mixed.record(40).id == "b000"
    assert len(mixed) == 60
    assert mixed.num_atoms.tolist() == [*first.num_atoms, *second.num_atoms]
    with pytest.raises(IndexError, match="rows must be 0 to 59"):
        mixed.read([60])


def test_a_copy_in_another_process_reads_the_same(mixed: Mixture) -> None:
    payload = pickle.dumps(mixed)
    assert len(payload) < 20_000
    assert pickle.loads(payload).read([3, 45]) == mixed.read([3, 45])


def test_columns_follow_the_rows_whatever_their_order(mixed: Mixture) -> None:
    rows = np.array([50, 3, 41, 20])
    table = mixed.label_table(rows)
    for place, row in enumerate(rows.tolist()):
        record = mixed.record(row)
        counts = np.bincount(record.numbers, minlength=119)
        assert table.composition[place].tolist() == counts.tolist()
        assert table.scalars["energy"][place] == record.labels["energy"].value
        assert np.isnan(table.largest["stress"][place]) == ("stress" not in record.labels)


def test_a_material_of_two_sets_is_in_one_split(mixed: Mixture) -> None:
    made, report = plans(mixed)
    groups = {name: set(mixed.groups[plan.rows]) for name, plan in made.items()}
    assert not groups["train"] & (groups["val"] | groups["test"])
    assert report["groups_in_several_splits"] == 0
    assert sum(len(plan.rows) for plan in made.values()) == 60


def test_without_weights_every_record_comes_once(mixed: Mixture) -> None:
    plan = plans(mixed)[0]["train"]
    rows = np.concatenate([plan.step_rows(0, step) for step in range(plan.num_steps(0))])
    assert sorted(rows.tolist()) == sorted(plan.rows.tolist())


def test_weights_rule_training_and_never_validation(mixed: Mixture) -> None:
    plain, _ = plans(mixed)
    made, report = plans(mixed, mix={"weights": [1.0, 3.0], "records": 80})
    assert made["train"].draws == [20, 60]
    assert report["splits"]["train"]["records_per_epoch"] == [20, 60]
    for epoch in (0, 1):
        steps = range(made["train"].num_steps(epoch))
        rows = np.concatenate([made["train"].step_rows(epoch, step) for step in steps])
        assert ((rows >= 40).sum(), len(rows)) == (60, 80)
    for name in ("val", "test"):
        assert made[name].digest == plain[name].digest
    assert made["train"].digest != plain["train"].digest


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"weights": [1.0]}, "1 numbers for 2 data sets"),
        ({"weights": [1.0, -1.0]}, "none negative"),
        ({"records": 10}, "mix.weights says"),
        ({"weights": [1.0, 1.0], "records": 0}, "must be positive"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(
    mixed: Mixture, mix: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, PlanError), match=message):
        plans(mixed, mix=mix)


def test_an_exclude_list_reaches_every_set(mixed: Mixture, tmp_path: Path) -> None:
    train = plans(mixed)[0]["train"].rows
    listed = mixed.id_names.at(np.array([train.min(), train.max()])).tolist()
    file = tmp_path / "exclude.txt"
    file.write_text("\n".join(listed))
    left = plans(mixed, filter={"exclude": str(file)})[0]["train"].rows
    assert set(train) - set(left) == {train.min(), train.max()}


def test_an_id_that_two_sets_have_is_excluded_from_both(folders: list[Path]) -> None:
    names = Dataset.open(folders[0]).id_names
    joined = JoinedNames([names, names])
    rows, unknown = find_rows(joined, ["a007", "nobody"])
    assert (rows.tolist(), unknown) == ([7, 47], ["nobody"])


def test_stored_splits_are_those_of_the_members(folders: list[Path]) -> None:
    members = [Dataset.open(folder) for folder in folders]
    for member in members:
        half = len(member) // 2
        rows = {"train": np.arange(half), "val": np.arange(half, half + 2), "test": np.arange(0)}
        save_split(member, "mine", rows, {}, overwrite=True)
    made, _ = plans(Mixture(members), split={"name": "mine"})
    assert sorted(made["train"].rows.tolist()) == [*range(20), *range(40, 50)]
    assert sorted(made["val"].rows.tolist()) == [20, 21, 50, 51]


def test_labels_that_differ_are_told_apart(
    folders: list[Path], crystals: Any, tmp_path: Path
) -> None:
    other = [
        record.replace(labels={**record.labels, "energy": Label(1.0, "eV", "r2SCAN")})
        for record in renamed(crystals.many(3, max_atoms=4), "c", 3)
    ]
    prepare(other, tmp_path / "other", progress=False)
    data = open_data([str(folders[0]), str(tmp_path / "other")])
    assert "energy" not in data.fields
    assert {"forces", "stress"} <= data.fields.keys()
    assert "scheme 'r2SCAN'" in conflicts_of(data)["energy"]
    assert str(tmp_path / "other") in conflicts_of(data)["energy"]


def test_one_set_twice_is_refused(folders: list[Path]) -> None:
    with pytest.raises(ConfigError, match="more than once"):
        open_data([str(folders[0]), str(folders[0])])
    assert isinstance(open_data([str(folders[0])]), Dataset)
