import json
import shutil
from itertools import chain

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.filters import RECORD_RULES
from epitaxy.data.partition import make_plans
from epitaxy.data.plan import Cursor
from epitaxy.data.split_files import save_split
from epitaxy.errors import ConfigError, PlanError
from epitaxy.graph.spec import GraphSpec

SPLIT = {"by": "group", "fractions": (0.6, 0.2, 0.2), "sizes": None, "seed": 0, "file": None}
FILTER = {"max_atoms": None, "max_force": None, "max_stress": None, "exclude": None}
BATCH = {"graphs": None, "edges": 300, "atoms": None, "micro_batches": 1}
SPEC = GraphSpec(cutoff=4.0)


@pytest.fixture(scope="module")
def records(crystals):
    return crystals.many(60, max_atoms=5)


@pytest.fixture(scope="module")
def datasets(records, tmp_path_factory):
    """The same records as LMDB and, in reverse order, as Zarr."""
    folder = tmp_path_factory.mktemp("partition")
    prepare(records, folder / "lmdb", format="lmdb", progress=False)
    prepare(records[::-1], folder / "zarr", format="zarr", shard_size=25, progress=False)
    return Dataset.open(folder / "lmdb"), Dataset.open(folder / "zarr")


def plans_of(dataset, **changes):
    arguments = {"split": SPLIT, "filter": FILTER, "batch": BATCH, "spec": SPEC, "seed": 0}
    return make_plans(dataset, **{**arguments, **changes})


def ids_by_step(dataset, plan, epochs=2):
    steps = plan.steps_from(Cursor(), epochs)
    return [dataset.ids[plan.step_rows(step.epoch, step.step)].tolist() for step in steps]


def test_both_storages_give_the_same_plans(datasets):
    lmdb, zarr = datasets
    (first, report), (second, other) = plans_of(lmdb), plans_of(zarr)
    assert report == other
    for name in ("train", "val", "test"):
        assert first[name].digest == second[name].digest
        here, there = ids_by_step(lmdb, first[name]), ids_by_step(zarr, second[name])
        if name == "train":
            assert here == there
        else:  # in the order in which they are stored
            assert sorted(chain(*here)) == sorted(chain(*there))


def test_the_report_accounts_for_every_record(datasets, records):
    fractions = {**SPLIT, "fractions": (0.5, 0.2, 0.2)}
    largest = sorted(np.abs(record.labels["forces"].value).max() for record in records)
    plans, report = plans_of(
        datasets[0], split=fractions, filter={**FILTER, "max_force": float(largest[30])}
    )
    assert json.loads(json.dumps(report)) == report
    kept = sum(part["kept"] for part in report["splits"].values())
    excluded = sum(part["excluded"] for part in report["splits"].values())
    assert kept + excluded + report["in_no_split"] == report["records"] == 60
    assert report["in_no_split"] == 6
    assert report["groups_in_several_splits"] == 0
    assert {name: plan.num_records for name, plan in plans.items()} == {
        name: part["kept"] for name, part in report["splits"].items()
    }


def test_rules_apply_to_train_and_val_but_never_to_test(datasets, records):
    largest = {record.id: np.abs(record.labels["forces"].value).max() for record in records}
    limit = float(np.median(list(largest.values())))
    free, _ = plans_of(datasets[0])
    plans, report = plans_of(datasets[0], filter={**FILTER, "max_force": limit})
    ids = datasets[0].ids
    for name in ("train", "val"):
        expected = {str(i) for i in ids[free[name].rows] if np.float32(largest[str(i)]) <= limit}
        assert set(ids[plans[name].rows].tolist()) == expected
        assert report["splits"][name]["excluded"] > 0
    assert plans["test"].rows.tolist() == free["test"].rows.tolist()


def test_only_training_is_shuffled(datasets):
    plans, _ = plans_of(datasets[0])
    for name in ("val", "test"):
        flat = [i for step in ids_by_step(datasets[0], plans[name], 1) for i in step]
        assert flat == sorted(flat)
    flat = [i for step in ids_by_step(datasets[0], plans["train"], 1) for i in step]
    assert flat != sorted(flat)


def test_files_count_by_content_not_by_path(datasets, tmp_path):
    ids = datasets[0].ids
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ids[:40].tolist(), "val": ids[40:50].tolist()}))
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(f"{ids[0]}\n{ids[45]}\n")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in (split, exclude):
        shutil.copy(file, moved)

    def planned(folder):
        return plans_of(
            datasets[0],
            split={**SPLIT, "file": str(folder / "split.json")},
            filter={**FILTER, "exclude": str(folder / "exclude.txt")},
        )

    (here, report), (there, _) = planned(tmp_path), planned(moved)
    assert here["train"].digest == there["train"].digest
    assert (here["train"].num_records, here["val"].num_records) == (39, 9)
    assert report["splits"]["val"]["rules"]["exclude list"]["ids"] == [str(ids[45])]
    (moved / "exclude.txt").write_text(f"{ids[1]}\n")
    with pytest.raises(PlanError, match=r"selection\.filter\.exclude was"):
        planned(moved)[0]["train"].check(here["train"].description)


def test_unknown_excludes_and_missing_ids_are_in_the_report(datasets, tmp_path):
    ids = datasets[0].ids
    lists = {"train": [*ids[:40].tolist(), "gone"], "val": ids[40:50].tolist()}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    (tmp_path / "one.txt").write_text(f"{ids[0]}\nother-version\n")
    (tmp_path / "two.txt").write_text(f"{ids[1]}\n")
    split = {**SPLIT, "file": str(tmp_path / "split.json"), "missing": "skip"}
    excludes = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
    plans, report = plans_of(datasets[0], split=split, filter={**FILTER, "exclude": excludes})
    assert plans["train"].num_records == 38
    assert report["missing_ids"] == {"train": {"count": 1, "ids": ["gone"]}}
    assert report["unknown_excludes"] == {"count": 1, "ids": ["other-version"]}
    joined = {**FILTER, "exclude": ",".join(excludes)}
    assert plans_of(datasets[0], split=split, filter=joined)[0]["train"].digest == (
        plans["train"].digest
    )
    (tmp_path / "two.txt").write_text("unheard-of\n")
    with pytest.raises(PlanError, match="none of them"):
        plans_of(datasets[0], filter={**FILTER, "exclude": excludes[1]})


def test_heavy_elements_are_left_out_of_training_and_validation(datasets, records):
    gold = {record.id for record in records if 79 in record.numbers}
    plans, report = plans_of(datasets[0], filter={**FILTER, "max_atomic_number": 78})
    free, _ = plans_of(datasets[0])
    for name in ("train", "val"):
        expected = set(datasets[0].ids[free[name].rows].tolist()) - gold
        assert set(datasets[0].ids[plans[name].rows].tolist()) == expected
        assert report["splits"][name]["rules"]["atomic number > 78"]["excluded"] > 0
    assert plans["test"].rows.tolist() == free["test"].rows.tolist()


def test_one_frame_of_each_material_is_trained_on_and_all_are_tested(datasets):
    """Two records make a group, so half of train and val goes, whichever way they are dealt."""
    for by in ("group", "record"):
        free, _ = plans_of(datasets[0], split={**SPLIT, "by": by})
        plans, report = plans_of(
            datasets[0], split={**SPLIT, "by": by}, filter={**FILTER, "frames": "last"}
        )
        lost = [report["splits"][name]["excluded"] for name in ("train", "val")]
        last = set(datasets[0].ids[1::2].tolist())
        for name in ("train", "val"):
            expected = last & set(datasets[0].ids[free[name].rows].tolist())
            assert set(datasets[0].ids[plans[name].rows].tolist()) == expected
        assert sum(lost) == 24 if by == "group" else sum(lost) > 15
        assert plans["test"].rows.tolist() == free["test"].rows.tolist()
        assert plans["train"].digest != free["train"].digest
    rule = "not the last frame of its group"
    assert report["splits"]["train"]["rules"][rule]["excluded"] == lost[0]


def test_a_stored_split_is_planned_by_its_content(datasets):
    lmdb, zarr = datasets
    for dataset in datasets:
        rows = {"train": dataset.rows_of(lmdb.ids[:40]), "val": dataset.rows_of(lmdb.ids[40:50])}
        save_split(dataset, "mine", rows, {}, overwrite=True)
    named = {**SPLIT, "name": "mine"}
    (first, report), (second, _) = (plans_of(data, split=named) for data in (lmdb, zarr))
    assert first["train"].digest == second["train"].digest
    assert set(lmdb.ids[first["train"].rows]) == set(lmdb.ids[:40])
    assert report["in_no_split"] == 10
    with pytest.raises(ConfigError, match="no split 'mien'; did you mean 'mine'"):
        plans_of(lmdb, split={**SPLIT, "name": "mien"})


def test_settings_at_their_default_change_no_plan(datasets):
    """Plans of versions that did not know these settings are resumed."""
    plans, _ = plans_of(datasets[0])
    later = {"time": None, "fold": None, "task": None, "val_fraction": 0.1, "missing": "error"}
    same, _ = plans_of(
        datasets[0],
        split={**SPLIT, **later, "name": None},
        filter={**FILTER, "max_atomic_number": None, **RECORD_RULES},
    )
    selection = plans["train"].description["selection"]
    assert selection == same["train"].description["selection"]
    assert sorted(selection["split"]) == ["by", "fractions", "seed", "sizes"]
    assert sorted(selection["filter"]) == ["exclude", "max_atoms", "max_force", "max_stress"]


def test_a_split_that_was_not_asked_for_is_a_plan_without_steps(datasets):
    plans, _ = plans_of(datasets[0], split={**SPLIT, "fractions": (0.8, 0.2, 0.0)})
    assert plans["test"].num_steps(0) == 0


@pytest.mark.parametrize("split", [{"fractions": (0.0, 0.5, 0.5)}, {}])
def test_training_on_nothing_is_refused(datasets, split):
    with pytest.raises(PlanError, match="no record is left in the train split"):
        plans_of(datasets[0], split={**SPLIT, **split}, filter={**FILTER, "max_force": 1e-9})


def test_edge_budgets_use_the_graph_that_the_encoder_asks_for(datasets):
    near, _ = plans_of(datasets[0])
    far, _ = plans_of(datasets[0], spec=GraphSpec(cutoff=8.0))
    assert far["train"].num_steps(0) > near["train"].num_steps(0)
    assert far["train"].digest != near["train"].digest
