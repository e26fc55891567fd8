"""LMDB shards: plain keys, handles that survive forks, replacement and many files."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from epitaxy.data import lmdb_shard
from epitaxy.data.lmdb_shard import read_shard, write_shard
from epitaxy.errors import ShardError


def blobs(count: int, size: int = 100) -> list[bytes]:
    return [bytes([index % 256]) * (size + index) for index in range(count)]


def test_keys_are_big_endian_rows_of_the_data_set(tmp_path: Path) -> None:
    """Read back with lmdb alone."""
    path = tmp_path / "a.lmdb"
    assert write_shard(path, 300, blobs(3)) == 3
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        found = list(transaction.cursor())
    assert found == [((300 + i).to_bytes(8, "big"), blob) for i, blob in enumerate(blobs(3))]


def test_the_map_grows_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_shard, "_INITIAL_BYTES", 1 << 16)
    monkeypatch.setattr(lmdb_shard, "_TRANSACTION_RECORDS", 7)
    path = tmp_path / "a.lmdb"
    many = blobs(100, 5000)
    assert write_shard(path, 0, many) == 100
    assert read_shard(path, range(100)) == many


def test_no_lock_file_is_left(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.lmdb", 0, blobs(2))
    read_shard(tmp_path / "a.lmdb", [0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.lmdb"]


def test_a_missing_row_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.lmdb", 5, blobs(2))
    with pytest.raises(ShardError, match=r"a.lmdb has no row 7"):
        read_shard(tmp_path / "a.lmdb", [5, 7])


def test_what_is_no_lmdb_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.lmdb").write_bytes(b"\1" * 9000)
    with pytest.raises(ShardError, match=r"a.lmdb is damaged"):
        read_shard(tmp_path / "a.lmdb", [0])
    with pytest.raises(ShardError, match=r"b.lmdb is damaged.*No such file"):
        read_shard(tmp_path / "b.lmdb", [0])


def test_a_replaced_file_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    write_shard(path, 0, [b"old"])
    assert read_shard(path, [0]) == [b"old"]
    write_shard(tmp_path / "b.lmdb", 0, [b"new"])
    (tmp_path / "b.lmdb").replace(path)
    assert read_shard(path, [0]) == [b"new"]


def test_only_so_many_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_shard, "_MAX_OPEN", 3)
    paths = [tmp_path / f"{index}.lmdb" for index in range(6)]
    for index, path in enumerate(paths):
        write_shard(path, 0, [bytes([index])])
    for _ in range(2):
        for index, path in enumerate(paths):
            assert read_shard(path, [0]) == [bytes([index])]
    assert len(lmdb_shard._open) <= 3
