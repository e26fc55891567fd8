"""Shards as Zarr v3 groups of columns: concatenated arrays, offsets, and each label's values.

Arrays of one group (a folder), ``records`` and ``atoms`` counting over the shard::

    atom_offsets  i8 (records + 1)      numbers  u1 (atoms)         positions  f8 (atoms, 3)
    cell          f8 (records, 3, 3)    pbc      u1 (records, 3)
    id, group     u1: UTF-8 bytes       id_offsets, group_offsets   i8 (records + 1)
    value.<label> f8 (records, …), or f4 (atoms, …) for a label per atom; 0 where missing
    present.<label>  u1 (records)

The group's attributes hold the format, the first row, each label's unit, scheme and kind, the
SHA-256 of the metadata of every array, and one of themselves. Chunks are compressed by zstd and
carry a crc32c. So a shard that is read by ranges is checked wherever it is read. Reading goes by
blocks of records, a few of which stay decoded: fast in order, slow at random.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from epitaxy.data.chunks import METADATA, Column, Files, sha256
from epitaxy.data.codec import decode, join_record, schema_of
from epitaxy.data.order import BLOCK
from epitaxy.errors import EpitaxyError, ShardError
from epitaxy.graph.record import CrystalRecord, LabelField

SUFFIX = ".zarr"
FORMAT = 2
"""Newest format this code reads, and the one it writes; format 1 had no SHA-256 in it."""

_CACHED_BLOCKS = 16
_CACHED_SHARDS = 8
_PER_RECORD = ("atom_offsets", "cell", "pbc", "id", "id_offsets", "group", "group_offsets")
"""Arrays that are one chunk, and read when a shard is opened."""

_lock = Lock()
_shards: OrderedDict[tuple[str, int], _Shard] = OrderedDict()


def write_shard(path: Path, first: int, blobs: Iterable[bytes]) -> int:
    """Writes encoded records as rows ``first``, ``first + 1``, …; returns how many there were."""
    records = [decode(blob) for blob in blobs]
    fields = {name: label.field(name) for r in records for name, label in r.labels.items()}
    group = zarr.create_group(LocalStore(path), zarr_format=3)
    blocks = -(-len(records) // BLOCK)
    columns = _columns(records, fields)
    for name, values in columns.items():
        # Arrays that are read block by block have as many chunks as there are blocks.
        whole = name in _PER_RECORD or name.startswith("present.")
        _write_array(group, name, values, len(values) if whole else -(-len(values) // blocks))
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "first": first,
        "count": len(records),
        "fields": [asdict(fields[name]) for name in sorted(fields)],
        "arrays": {name: sha256((path / name / METADATA).read_bytes()) for name in columns},
    }
    group.attrs.update({**attributes, "checksum": _checksum(attributes)})
    return len(records)


def read_shard(place: Path | str, rows: Sequence[int]) -> list[bytes]:
    """Returns the encoded records of ``rows`` (numbered over the data set).

    Args:
        place: Folder of the group, or its URI (``s3://…``), of which only the chunks that hold
            ``rows`` are fetched.
        rows: Row numbers, in any order.

    Raises:
        ShardError: If the group cannot be read or lacks a row.
    """
    with _lock:
        try:
            shard = _shard(place)
            return [shard.record(row) for row in rows]
        except EpitaxyError:
            raise
        except Exception as error:  # Zarr and its codecs raise whatever a damaged file provokes
            raise ShardError(
                f"{place} is damaged: {type(error).__name__}: {error}; prepare the data set again"
            ) from error


@dataclass
class _Block:
    """Bytes of some consecutive records: per-atom columns start at atom ``first_atom``."""

    first_atom: int
    numbers: memoryview
    positions: memoryview
    values: Mapping[str, memoryview]


class _Shard:
    """An open group: its per-record arrays, and the blocks decoded last."""

    def __init__(self, place: Path | str) -> None:
        self._files = Files(place)
        attributes = json.loads(self._files.read(METADATA))["attributes"]
        if attributes["format"] > FORMAT:
            raise ShardError(
                f"{place} has format {attributes['format']}, written by a newer epitaxy; this one "
                f"reads up to {FORMAT}: upgrade epitaxy"
            )
        if attributes["format"] > 1 and attributes.pop("checksum") != _checksum(attributes):
            raise ShardError(f"{place} is damaged: its attributes were changed")
        self._digests = attributes.get("arrays", {})
        self._first, self._count = attributes["first"], attributes["count"]
        self._fields = [
            LabelField(**{**item, "shape": tuple(item["shape"])}) for item in attributes["fields"]
        ]
        self._offsets = {
            name: self._offsets_of(f"{name}_offsets") for name in ("atom", "id", "group")
        }
        atoms = int(self._offsets["atom"][-1])
        self._texts = {
            name: self._column(name, "u1", int(self._offsets[name][-1])).read()
            for name in ("id", "group")
        }
        self._cell = self._column("cell", "f8", self._count).read()
        pbc = self._column("pbc", "u1", self._count).array()
        self._bits = (pbc.astype(bool) @ np.array([1, 2, 4])).tolist()
        self._numbers = self._column("numbers", "u1", atoms)
        self._positions = self._column("positions", "f8", atoms)
        self._values = {
            f.name: self._column(
                f"value.{f.name}",
                "f4" if f.per_atom else "f8",
                atoms if f.per_atom else self._count,
            )
            for f in self._fields
        }
        self._present = self._label_sets()
        self._blocks: OrderedDict[int, _Block] = OrderedDict()

    def record(self, row: int) -> bytes:
        """Returns the encoded record in ``row`` of the data set."""
        index = row - self._first
        if not 0 <= index < self._count:
            raise ShardError(f"{self._files} is damaged: row {row} is missing; prepare it again")
        block = self._block(index // BLOCK)
        start, stop = self._offsets["atom"][index : index + 2]
        start, stop = start - block.first_atom, stop - block.first_atom
        fields, schema = self._present[index]
        values = []
        for field, size in fields:
            first, last = (start, stop) if field.per_atom else (index % BLOCK, index % BLOCK + 1)
            values.append(block.values[field.name][first * size : last * size])
        return join_record(
            self._cell[72 * index : 72 * (index + 1)],
            block.positions[24 * start : 24 * stop],
            block.numbers[start:stop],
            self._bits[index],
            self._text("id", index),
            self._text("group", index),
            schema,
            values,
        )

    def _label_sets(self) -> list[tuple[list[tuple[LabelField, int]], bytes]]:
        """Returns, for each record, its labels with their bytes per row, and their description."""
        columns = [
            self._column(f"present.{f.name}", "u1", self._count).array() for f in self._fields
        ]
        flags = np.array(columns, dtype=bool).reshape(len(columns), self._count).T
        kinds, kind_of_record = np.unique(flags, axis=0, return_inverse=True)
        sets = []
        for kind in kinds:
            chosen = [field for field, has in zip(self._fields, kind, strict=True) if has]
            sizes = [(field, self._values[field.name].row_bytes) for field in chosen]
            sets.append((sizes, schema_of(chosen)))
        return [sets[kind] for kind in kind_of_record.reshape(-1).tolist()]

    def _block(self, number: int) -> _Block:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        first, last = number * BLOCK, min((number + 1) * BLOCK, self._count)
        start, stop = self._offsets["atom"][first], self._offsets["atom"][last]
        block = _Block(
            start,
            self._numbers.read(start, stop),
            self._positions.read(start, stop),
            {
                field.name: self._values[field.name].read(
                    *((start, stop) if field.per_atom else (first, last))
                )
                for field in self._fields
            },
        )
        self._blocks[number] = block
        if len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return block

    def _offsets_of(self, name: str) -> list[int]:
        offsets = self._column(name, "i8", self._count + 1).array()
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ShardError(f"{self._files} is damaged: array {name!r} does not rise from 0")
        found: list[int] = offsets.tolist()
        return found

    def _text(self, name: str, index: int) -> bytes:
        start, stop = self._offsets[name][index : index + 2]
        return bytes(self._texts[name][start:stop])

    def _column(self, name: str, kind: str, rows: int) -> Column:
        return Column(self._files, name, kind, rows, self._digests.get(name))


def _checksum(attributes: Mapping[str, Any]) -> str:
    return sha256(json.dumps(attributes, sort_keys=True).encode())


def _shard(place: Path | str) -> _Shard:
    if isinstance(place, str):
        key = (place, 0)
    else:
        name = os.path.realpath(place)
        key = (name, os.stat(name).st_ino)
    if key not in _shards:
        _shards[key] = _Shard(place)
        while len(_shards) > _CACHED_SHARDS:
            _shards.popitem(last=False)
    _shards.move_to_end(key)
    return _shards[key]


def _forget() -> None:
    """Runs in a forked child, whose copy of the lock may be held by a thread it does not have."""
    global _lock
    _lock = Lock()
    _shards.clear()


os.register_at_fork(after_in_child=_forget)


def _columns(
    records: Sequence[CrystalRecord], fields: Mapping[str, LabelField]
) -> dict[str, np.ndarray]:
    sizes = [record.num_atoms for record in records]
    columns = {
        "atom_offsets": _offsets(sizes),
        "numbers": np.concatenate([record.numbers for record in records]),
        "positions": np.concatenate([record.positions for record in records]),
        "cell": np.stack([record.cell for record in records]),
        "pbc": np.stack([record.pbc for record in records]).astype(np.uint8),
    }
    for name in ("id", "group"):
        texts = [getattr(record, name).encode() for record in records]
        columns[name] = np.frombuffer(b"".join(texts), np.uint8)
        columns[f"{name}_offsets"] = _offsets([len(text) for text in texts])
    for name, field in fields.items():
        present = [name in record.labels for record in records]
        columns[f"present.{name}"] = np.array(present, dtype=np.uint8)
        columns[f"value.{name}"] = _values(records, field)
    return columns


def _values(records: Sequence[CrystalRecord], field: LabelField) -> np.ndarray:
    if not field.per_atom:
        empty = np.zeros(field.shape)
        return np.stack(
            [r.labels[field.name].value if field.name in r.labels else empty for r in records]
        )
    parts = [
        record.labels[field.name].value
        if field.name in record.labels
        else np.zeros((record.num_atoms, *field.shape), dtype=np.float32)
        for record in records
    ]
    return np.concatenate(parts)


def _offsets(sizes: Iterable[int]) -> np.ndarray:
    return np.array([0, *accumulate(sizes)], dtype=np.int64)


def _write_array(group: zarr.Group, name: str, values: np.ndarray, chunk: int) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *values.shape[1:]),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        # A chunk of fill values must not be left out: a lost chunk would read as zeros.
        config={"write_empty_chunks": True},
    )
    array[...] = values
