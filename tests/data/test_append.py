"""``append``: a further version of a data set, and nothing older is touched."""

from __future__ import annotations

import logging
import os
import signal
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data import append as module
from epitaxy.data.append import append, unassigned
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.manifest import tree_sha256
from epitaxy.data.splits import store_split
from epitaxy.errors import ConfigError, RecordError, ShardError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.graph.spec import GraphSpec

ARCHIVE = Path(__file__).parents[1] / "archive"


@pytest.fixture(scope="module")
def records(crystals: Any) -> list[CrystalRecord]:
    made: list[CrystalRecord] = crystals.many(40, seed=5)
    return made


@pytest.fixture(params=["lmdb", "zarr"])
def data(request: pytest.FixtureRequest, records: list[CrystalRecord], tmp_path: Path) -> Path:
    """The first 25 records in three shards."""
    folder = tmp_path / "data"
    prepare(records[:25], folder, format=request.param, shard_size=10, checks="off")
    return folder


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): tree_sha256(path) for path in files}


def test_two_steps_give_what_one_gives(
    data: Path, records: list[CrystalRecord], tmp_path: Path
) -> None:
    """Rows, digests and every column; the label ``gap`` comes with the new records only."""
    gaps = [
        record.replace(labels={**record.labels, "gap": Label(np.array(index / 4), "eV")})
        for index, record in enumerate(records[25:])
    ]
    manifest = append(data, gaps, shard_size=8, checks="off")
    whole = [*records[:25], *gaps]
    prepare(whole, tmp_path / "whole", checks="off")
    grown, expected = Dataset.open(data), Dataset.open(tmp_path / "whole")
    assert grown.data_digest == expected.data_digest == manifest.data_digest
    assert [grown.record(row) for row in (0, 24, 25, 39)] == [whole[r] for r in (0, 24, 25, 39)]
    assert [(s.first, s.count) for s in manifest.shards][3:] == [(25, 8), (33, 7)]
    assert grown.ids.tolist() == [record.id for record in whole]
    assert set(grown.fields) == {"energy", "forces", "stress", "gap"}
    table, other = (d.label_table(np.arange(40)) for d in (grown, expected))
    for name in ("energy", "gap"):
        np.testing.assert_array_equal(table.scalars[name], other.scalars[name])
    assert np.isnan(table.scalars["gap"][:25]).all()
    np.testing.assert_array_equal(table.composition, other.composition)
    spec = GraphSpec(cutoff=5.0)
    np.testing.assert_array_equal(grown.num_edges(spec), expected.num_edges(spec))
    grown.verify()


def test_older_versions_stay(data: Path, records: list[CrystalRecord]) -> None:
    reader = Dataset.open(data)
    before, blobs = sums(data), reader.read(range(25))
    append(data, records[25:30], checks="off")
    append(data, records[30:], checks="off")
    after = sums(data)
    assert {name for name in before if before[name] != after.get(name)} == {"manifest.json"}
    assert reader.read(range(25)) == blobs
    assert len(reader.label_table(np.arange(25)).num_atoms) == 25
    newest = Dataset.open(data)
    assert (newest.manifest.version, len(newest)) == (3, 40)
    assert [(h["version"], h["num_records"]) for h in newest.manifest.history] == [(1, 25), (2, 30)]
    for version, count in ((1, 25), (2, 30), (3, 40)):
        old = Dataset.open(data, version=version)
        assert (len(old), old.manifest.version) == (count, version)
        old.verify()
    assert Dataset.open(data, version=1).data_digest == reader.data_digest
    assert newest.manifest.parent == Dataset.open(data, version=2).data_digest
    with pytest.raises(ConfigError, match="no version 4"):
        Dataset.open(data, version=4)


def test_what_does_not_fit_is_refused_and_nothing_changes(
    data: Path, records: list[CrystalRecord]
) -> None:
    before = sums(data)
    with pytest.raises(RecordError, match=r"id 'c0003' occurs twice: first in .*data, record 3"):
        append(data, [records[30], records[3]], checks="off")
    other = records[31].replace(labels={"energy": Label(np.array(1.0), "eV", "SCAN")})
    with pytest.raises(RecordError, match=r"scheme 'SCAN', but the data set .*data has scheme ''"):
        append(data, [other], checks="off")
    with pytest.raises(ShardError, match="not a prepared data set"):
        append(data.parent / "nowhere", [records[30]])
    assert sums(data) == before
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_records_outside_the_splits_are_counted(
    data: Path, records: list[CrystalRecord], caplog: pytest.LogCaptureFixture
) -> None:
    store_split(Dataset.open(data), "mine", {"by": "record"})
    assert unassigned(Dataset.open(data)) == {}
    with caplog.at_level(logging.WARNING):
        append(data, records[25:], checks="off")
    assert unassigned(Dataset.open(data)) == {"mine": 15}
    assert "the split 'mine'" in caplog.text


@pytest.mark.parametrize("moment", ["join", "sync", "remove", "_write"])
def test_a_killed_append_leaves_the_old_version(
    data: Path, records: list[CrystalRecord], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the new files are complete, half moved, and before the manifest is written."""
    wrapped, calls = getattr(module, moment), []
    last = {"remove": 3, "_write": 2}.get(moment, 1)

    def killing(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return wrapped(*arguments, **keywords)

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if child == 0:
        monkeypatch.setattr(module, moment, killing)
        try:
            append(data, records[25:], shard_size=8, checks="off")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(Dataset.open(data)) == 25
    Dataset.open(data).verify()
    append(data, records[25:], shard_size=8, checks="off")
    assert len(Dataset.open(data)) == 40
    Dataset.open(data).verify()
    assert {path.name for path in data.parent.iterdir()} == {"data"}


@pytest.mark.parametrize("name", ["format-1-lmdb", "format-1-zarr"])
def test_old_formats_grow(name: str, records: list[CrystalRecord], tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVE / f"{name}.zip") as archive:
        archive.extractall(tmp_path / "old")
    bare = [record.replace(labels={}) for record in records[:5]]
    append(tmp_path / "old", bare, checks="off")
    grown = Dataset.open(tmp_path / "old")
    assert grown.ids.tolist()[2:6] == ["kupfer-α", "slab", "c0000", "c0001"]
    assert len(np.unique(grown.id_names.keys())) == 9
    assert grown.num_edges(GraphSpec(cutoff=3.0)).tolist()[:3] == [12, 12, 12]
    grown.verify()
    assert len(Dataset.open(tmp_path / "old", version=1)) == 4
