"""A prepared data set: rows, columns and estimates, the same whatever the storage."""

from __future__ import annotations

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data import dataset as dataset_module
from epitaxy.data.codec import decode, encode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset, storage
from epitaxy.errors import RecordError, ShardError
from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.graph.spec import GraphSpec

FORMATS = ("lmdb", "zarr")
COUNT = 50


@pytest.fixture(scope="module")
def records(crystals: Any) -> list[CrystalRecord]:
    """Labelled crystals: every third lacks its stress, every fifth its forces, one has no label."""
    made = []
    for index, record in enumerate(crystals.many(COUNT, seed=3)):
        labels = dict(record.labels) | {"gap": Label(np.array(index / 8), "eV", "PBE")}
        dropped = {"stress": index % 3 == 0, "forces": index % 5 == 0, "gap": index < 40}
        kept = {k: v for k, v in labels.items() if not dropped.get(k, False)}
        made.append(record.replace(labels={} if index == 7 else kept))
    return made


@pytest.fixture(scope="module", params=FORMATS)
def dataset(
    request: pytest.FixtureRequest,
    records: list[CrystalRecord],
    tmp_path_factory: pytest.TempPathFactory,
) -> Dataset:
    """The records in three shards of 20, 20 and 10."""
    out = tmp_path_factory.mktemp("data") / request.param
    prepare(records, out, format=request.param, shard_size=20)
    return Dataset.open(out)


@pytest.fixture
def copied(dataset: Dataset, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(dataset.path, tmp_path / "copy"))


def flip(path: Path, position: int, mask: int = 0x04) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(bytes(content))


def test_records_come_back_in_any_order(dataset: Dataset, records: list[CrystalRecord]) -> None:
    rows = [49, 0, 20, 19, 40, 19]
    blobs = dataset.read(rows)
    assert blobs == [encode(records[row]) for row in rows]
    assert [decode(blob) for blob in blobs] == [records[row] for row in rows]
    assert dataset.record(33) == records[33]
    assert dataset.read([]) == []
    assert len(dataset) == COUNT


def test_both_storages_hold_the_same(records: list[CrystalRecord], tmp_path: Path) -> None:
    digests, blobs = set(), []
    for name in FORMATS:
        made = prepare(records, tmp_path / name, format=name)  # type: ignore[arg-type]
        digests.add(made.data_digest)
        blobs.append(Dataset.open(tmp_path / name).read(range(COUNT)))
    assert len(digests) == 1
    assert blobs[0] == blobs[1]


def test_the_digest_ignores_order_but_not_content(
    records: list[CrystalRecord], dataset: Dataset, tmp_path: Path
) -> None:
    turned = prepare(reversed(records), tmp_path / "turned")
    assert turned.data_digest == dataset.data_digest
    changed = [records[0].replace(positions=records[0].positions + 1e-9), *records[1:]]
    assert prepare(changed, tmp_path / "changed").data_digest != dataset.data_digest


def test_ids_groups_and_sizes(dataset: Dataset, records: list[CrystalRecord]) -> None:
    assert dataset.ids.tolist() == [record.id for record in records]
    assert dataset.groups.tolist() == [record.group for record in records]
    assert dataset.num_atoms.tolist() == [record.num_atoms for record in records]
    assert dataset.rows_of(["c0031", "c0002"]).tolist() == [31, 2]
    with pytest.raises(RecordError, match="no record 'c9999'"):
        dataset.rows_of(["c9999"])


def test_the_label_table_agrees_with_the_records(
    dataset: Dataset, records: list[CrystalRecord]
) -> None:
    rows = np.array([45, 7, 5, 3, 44])
    table = dataset.label_table(rows)
    assert set(table.scalars) == {"energy", "gap"}
    assert set(table.largest) == set(table.root_mean_square) == {"forces", "stress"}
    assert table.units == {"energy": "eV", "gap": "eV", "forces": "eV/Å", "stress": "eV/Å^3"}
    for line, row in enumerate(rows):
        record = records[row]
        counts = np.bincount(record.numbers, minlength=119)
        assert table.composition[line].tolist() == counts.tolist()
        assert table.num_atoms[line] == record.num_atoms
        for name in ("energy", "gap"):
            label = record.labels.get(name)
            wanted = np.nan if label is None else float(label.value)
            np.testing.assert_equal(table.scalars[name][line], wanted)
        for name in ("forces", "stress"):
            label = record.labels.get(name)
            values = [np.nan] if label is None else label.value.astype(float).ravel()
            np.testing.assert_allclose(table.largest[name][line], np.abs(values).max(), rtol=1e-12)
            rms = np.linalg.norm(values) / np.sqrt(len(values))
            np.testing.assert_allclose(table.root_mean_square[name][line], rms, rtol=1e-12)


def edges_of(record: CrystalRecord, spec: GraphSpec) -> int:
    offsets = np.array([0, record.num_atoms])
    edges = build_edges(spec, record.positions, record.cell[None], record.pbc[None], offsets)
    return len(edges.source)


def test_edges_are_exact_at_stored_radii(dataset: Dataset, records: list[CrystalRecord]) -> None:
    for cutoff in (3.0, 5.0, 8.0):
        spec = GraphSpec(cutoff=cutoff)
        known = dataset.num_edges(spec)
        assert known[:12].tolist() == [edges_of(record, spec) for record in records[:12]]


def test_edges_between_and_beyond_radii_are_estimated(
    dataset: Dataset, records: list[CrystalRecord]
) -> None:
    for cutoff in (6.8, 9.0):
        spec = GraphSpec(cutoff=cutoff)
        true = np.array([edges_of(record, spec) for record in records])
        assert dataset.num_edges(spec).sum() == pytest.approx(true.sum(), rel=0.1)
    assert (
        dataset.num_edges(GraphSpec(cutoff=1.0)) <= dataset.num_edges(GraphSpec(cutoff=3))
    ).all()


def test_a_cap_bounds_the_edges(dataset: Dataset) -> None:
    atoms = dataset.num_atoms
    padded = GraphSpec(rule="nearest", cutoff=8.0, max_neighbors=12, padded=True)
    assert dataset.num_edges(padded).tolist() == (12 * atoms).tolist()
    few = GraphSpec(rule="nearest", cutoff=3.0, max_neighbors=12)
    assert (dataset.num_edges(few) <= dataset.num_edges(GraphSpec(cutoff=3.0))).all()


def test_it_pickles_small_and_reopens(dataset: Dataset) -> None:
    dataset.read([0])
    assert dataset.ids[0] == "c0000"
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    assert pickle.loads(content).read([3, 41]) == dataset.read([3, 41])


def test_two_data_sets_of_one_folder_live_side_by_side(dataset: Dataset) -> None:
    other = Dataset.open(dataset.path)
    assert other.read([1]) == dataset.read([1])
    assert dataset.read([2]) == other.read([2])


def test_it_is_read_after_a_fork(dataset: Dataset) -> None:
    expected = dataset.read([30])  # opens the shard in the parent
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(
                dataset.read([30]) != expected or Dataset.open(dataset.path).read([30]) != expected
            )
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dataset.read([30]) == expected


def test_threads_may_read_at_once(dataset: Dataset) -> None:
    expected = dataset.read(range(COUNT))
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: dataset.read(range(COUNT)), range(20))
        assert all(answer == expected for answer in answers)


@pytest.mark.parametrize("rows", [[-1], [COUNT], [0, 99]])
def test_rows_out_of_range_are_refused(dataset: Dataset, rows: list[int]) -> None:
    with pytest.raises(IndexError, match="rows must be 0 to 49"):
        dataset.read(rows)


def test_an_intact_data_set_verifies(dataset: Dataset) -> None:
    dataset.verify()


def test_any_flipped_byte_of_any_file_is_found(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte in the middle of every file, as a new process sees it."""
    monkeypatch.setattr(dataset_module, "_intact", Forgetful())
    for path in sorted(path for path in copied.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if not content:
            continue
        flip(path, len(content) // 2)
        with pytest.raises(ShardError):
            Dataset.open(copied).verify()
        if path.parent == copied / "sidecars" and path.name != "digests.npy":
            with pytest.raises(ShardError, match=path.name):
                touch_sidecars(Dataset.open(copied))
        if "shard" in str(path.relative_to(copied)):
            with pytest.raises(ShardError, match="shard-0000"):
                Dataset.open(copied).read(range(COUNT))
        path.write_bytes(content)
    Dataset.open(copied).verify()


class Forgetful(set[Any]):
    """A record of checked files that remembers nothing."""

    def __contains__(self, item: object) -> bool:
        return False


def touch_sidecars(dataset: Dataset) -> None:
    dataset.num_edges(GraphSpec(cutoff=5.0))
    dataset.label_table(np.arange(len(dataset)))
    assert len(dataset.ids) == len(dataset.groups)
    assert len(dataset.id_names.keys()) == len(dataset.group_names.keys())


def test_every_byte_of_a_shard_matters(crystals: Any, tmp_path: Path) -> None:
    """A damaged LMDB index makes the library read outside its file, which ends the process by
    SIGBUS: the checksum must come first. Every byte is flipped, in both storages."""
    for name in FORMATS:
        out = tmp_path / name
        prepare(crystals.many(2), out, format=name)
        for path in sorted(path for path in out.glob("shard-*/**/*") if path.is_file()) or sorted(
            out.glob("shard-*")
        ):
            content = path.read_bytes()
            for position in range(0, len(content), 97):
                flip(path, position, 0xFF)
                with pytest.raises(ShardError):
                    Dataset.open(out).read([0, 1])
                path.write_bytes(content)


def test_missing_and_cut_files_are_named(copied: Path) -> None:
    first = copied / "sidecars" / "ids.npy"
    content = first.read_bytes()
    first.write_bytes(content[:-5])
    with pytest.raises(ShardError, match=r"ids.npy is damaged: .* bytes, expected"):
        Dataset.open(copied)
    first.unlink()
    with pytest.raises(ShardError, match=r"ids.npy is missing"):
        Dataset.open(copied)


def test_a_missing_shard_is_named(copied: Path) -> None:
    shard = next(path for path in copied.iterdir() if path.name.startswith("shard-00001"))
    shutil.rmtree(shard) if shard.is_dir() else shard.unlink()
    with pytest.raises(ShardError, match=r"shard-00001.* is missing"):
        Dataset.open(copied)


def test_a_folder_without_manifest_is_no_data_set(copied: Path) -> None:
    (copied / "manifest.json").unlink()
    with pytest.raises(ShardError, match="not a prepared data set"):
        Dataset.open(copied)


def test_an_unknown_storage_gets_a_hint() -> None:
    with pytest.raises(ShardError, match="did you mean 'zarr'"):
        storage("zar")
