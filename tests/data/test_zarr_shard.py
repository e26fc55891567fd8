"""Zarr shards: plain columns that any Zarr reader understands, read in blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

from epitaxy.data import chunks, zarr_shard
from epitaxy.data.codec import encode
from epitaxy.data.zarr_shard import read_shard, write_shard
from epitaxy.errors import ShardError
from epitaxy.graph.record import CrystalRecord, Label


@pytest.fixture
def records(crystals: Any, monkeypatch: pytest.MonkeyPatch) -> list[CrystalRecord]:
    """Eleven records in blocks of four; the second has no label, the third also a charge."""
    monkeypatch.setattr(zarr_shard, "BLOCK", 4)
    made = crystals.many(11, seed=5, max_atoms=9)
    made[1] = made[1].replace(labels={}, pbc=np.array([True, True, False]))
    charge = Label(np.arange(made[2].num_atoms), "e", "Bader", per_atom=True)
    made[2] = made[2].replace(labels={**made[2].labels, "charge": charge}, id="größe", group="β")
    return list(made)


@pytest.fixture
def path(records: list[CrystalRecord], tmp_path: Path) -> Path:
    shard = tmp_path / "a.zarr"
    assert write_shard(shard, 100, [encode(record) for record in records]) == 11
    return shard


def test_columns_are_concatenated_arrays(path: Path, records: list[CrystalRecord]) -> None:
    """Read back with zarr alone."""
    group: Any = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    offsets = np.cumsum([0, *(record.num_atoms for record in records)])
    np.testing.assert_array_equal(group["atom_offsets"], offsets)
    positions = np.concatenate([record.positions for record in records])
    np.testing.assert_array_equal(group["positions"], positions)
    np.testing.assert_array_equal(group["present.energy"], [1, 0, *[1] * 9])
    energies = [r.labels["energy"].value if r.labels else 0.0 for r in records]
    np.testing.assert_array_equal(group["value.energy"], energies)
    forces = group["value.forces"]
    assert forces.dtype == np.float32
    np.testing.assert_array_equal(
        forces[offsets[3] : offsets[4]], records[3].labels["forces"].value
    )
    ids = bytes(group["id"][:]).decode()
    assert ids == "".join(record.id for record in records)
    fields = {field["name"]: field for field in group.attrs["fields"]}
    assert fields["charge"] == {
        "name": "charge", "unit": "e", "shape": [], "per_atom": True, "scheme": "Bader",
    }  # fmt: skip
    assert len(group["positions"].metadata.codecs) == 3  # bytes, zstd, crc32c
    assert {type(codec).__name__ for codec in group["positions"].metadata.codecs} >= {
        "ZstdCodec",
        "Crc32cCodec",
    }


@pytest.mark.parametrize("rows", [range(100, 111), [110, 100, 103, 104, 102], [107]])
def test_rows_come_back_byte_for_byte(path: Path, records: list[CrystalRecord], rows: Any) -> None:
    assert read_shard(path, list(rows)) == [encode(records[row - 100]) for row in rows]


def test_few_blocks_stay_decoded(
    path: Path, records: list[CrystalRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_shard, "_CACHED_BLOCKS", 1)
    rows = [110, 100, 105, 109, 101]
    assert read_shard(path, rows) == [encode(records[row - 100]) for row in rows]


def test_few_shards_stay_open(
    records: list[CrystalRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_shard, "_CACHED_SHARDS", 2)
    for index in range(4):
        write_shard(tmp_path / f"{index}.zarr", index, [encode(records[index])])
    for index in [0, 1, 2, 3, 0]:
        assert read_shard(tmp_path / f"{index}.zarr", [index]) == [encode(records[index])]


@pytest.mark.parametrize("row", [99, 111])
def test_a_row_of_another_shard_is_refused(path: Path, row: int) -> None:
    with pytest.raises(ShardError, match=f"row {row} is missing"):
        read_shard(path, [row])


def test_damage_is_noticed_by_the_chunk_checksum(path: Path) -> None:
    """Even without the manifest's checksum of the whole shard."""
    chunks = sorted(part for part in (path / "positions" / "c").rglob("*") if part.is_file())
    assert len(chunks) == 3  # as many as blocks
    content = bytearray(chunks[0].read_bytes())
    content[len(content) // 2] ^= 1
    chunks[0].write_bytes(content)
    with pytest.raises(ShardError, match=r"a.zarr is damaged"):
        read_shard(path, [100])


def test_chunks_of_zeros_are_stored(
    path: Path, records: list[CrystalRecord], tmp_path: Path
) -> None:
    """Otherwise a lost chunk would silently read as zeros."""
    zero = Label(np.zeros(()), "eV")
    made = [record.replace(labels={"gap": zero}) for record in records]
    shard = tmp_path / "b.zarr"
    write_shard(shard, 0, [encode(record) for record in made])
    assert len([p for p in (shard / "value.gap" / "c").rglob("*") if p.is_file()]) == 3


def test_a_newer_format_is_named(path: Path) -> None:
    zarr.open_group(path, mode="a").attrs["format"] = 3
    with pytest.raises(ShardError, match="format 3, written by a newer epitaxy"):
        read_shard(path, [100])


def test_what_is_no_zarr_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(ShardError, match=r"c.zarr is damaged"):
        read_shard(tmp_path / "c.zarr", [0])


@pytest.fixture
def remote(records: Any, tmp_path: Path) -> Iterator[str]:
    """A shard in a file system that is not a folder."""
    filesystem = fsspec.filesystem("memory")
    write_shard(tmp_path / "r.zarr", 100, [encode(record) for record in records])
    filesystem.put(str(tmp_path / "r.zarr"), "/bucket/r.zarr", recursive=True)
    yield "memory://bucket/r.zarr"
    filesystem.rm("/bucket", recursive=True)
    zarr_shard._shards.clear()


def test_a_shard_behind_a_uri_reads_the_same(remote: str, records: Any) -> None:
    rows = [110, 100, 104]
    assert read_shard(remote, rows) == [encode(records[row - 100]) for row in rows]


def test_only_the_chunks_of_the_rows_are_fetched(
    remote: str, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    read = chunks.Files.read

    def noted(self: Any, key: str) -> bytes:
        fetched.append(key)
        return read(self, key)

    monkeypatch.setattr(chunks.Files, "read", noted)
    read_shard(remote, [100])
    opening = set(fetched)
    assert "positions/c/0/0" in opening
    assert not any(key.startswith("positions/c/2") for key in opening)
    fetched.clear()
    read_shard(remote, [110])
    assert "positions/c/2/0" in fetched
    assert not any(key.startswith(("cell/", "id/")) for key in fetched), "those are held"


LIES = [
    ("positions", ('"float64"', '"float32"'), "expected .* rows of f8"),
    ("cell", ("    11,", "    1000000000000,"), "expected 11 rows of f8"),
    ("positions", ('"crc32c"', '"gzip"'), "not written by epitaxy"),
]


@pytest.mark.parametrize(("array", "change", "message"), LIES)
@pytest.mark.parametrize("forged", [False, True])
def test_metadata_that_lie_are_refused(
    remote: str, array: str, change: tuple[str, str], message: str, forged: bool
) -> None:
    """An accident meets the SHA-256 of the array's metadata; a shard without one, their rules."""
    filesystem = fsspec.filesystem("memory")
    path = f"/bucket/r.zarr/{array}/zarr.json"
    text = filesystem.cat_file(path).decode()
    assert change[0] in text
    filesystem.pipe_file(path, text.replace(*change).encode())
    if forged:
        root = json.loads(filesystem.cat_file("/bucket/r.zarr/zarr.json"))
        root["attributes"]["format"] = 1
        del root["attributes"]["arrays"]
        filesystem.pipe_file("/bucket/r.zarr/zarr.json", json.dumps(root).encode())
    with pytest.raises(ShardError, match=message if forged else f"metadata of array '{array}'"):
        read_shard(remote, [100])


@pytest.mark.parametrize("change", [('"eV"', '"eW"'), ('"first": 100', '"first": 101')])
def test_attributes_that_were_changed_are_refused(remote: str, change: tuple[str, str]) -> None:
    filesystem = fsspec.filesystem("memory")
    text = filesystem.cat_file("/bucket/r.zarr/zarr.json").decode()
    assert change[0] in text
    filesystem.pipe_file("/bucket/r.zarr/zarr.json", text.replace(*change).encode())
    with pytest.raises(ShardError, match="its attributes were changed"):
        read_shard(remote, [101])


def test_a_chunk_that_was_changed_on_the_way_is_refused(remote: str) -> None:
    filesystem = fsspec.filesystem("memory")
    content = bytearray(filesystem.cat_file("/bucket/r.zarr/positions/c/0/0"))
    content[len(content) // 2] ^= 1
    filesystem.pipe_file("/bucket/r.zarr/positions/c/0/0", bytes(content))
    with pytest.raises(ShardError, match="checksum of chunk positions/c/0/0 does not match"):
        read_shard(remote, [100])
