"""Shards as Zarr v3 groups of columns: concatenated arrays, offsets, and each label's values.

Arrays of one group (a folder), ``records`` and ``atoms`` counting over the shard::

    atom_offsets  i8 (records + 1)      numbers  u1 (atoms)         positions  f8 (atoms, 3)
    cell          f8 (records, 3, 3)    pbc      u1 (records, 3)
    id, group     u1: UTF-8 bytes       id_offsets, group_offsets   i8 (records + 1)
    value.<label> f8 (records, …), or f4 (atoms, …) for a label per atom; 0 where missing
    present.<label>  u1 (records)

The group's attributes hold the format, the first row and each label's unit, scheme and kind.
Chunks are compressed by zstd and carry a crc32c. Reading goes by blocks of records, a few of which
stay decoded: fast in order, slow at random.
"""

from __future__ import annotations

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

from epitaxy.data.codec import assemble_label, assemble_record, decode, encode
from epitaxy.errors import EpitaxyError, ShardError
from epitaxy.graph.record import CrystalRecord, Label, LabelField

SUFFIX = ".zarr"
FORMAT = 1

BLOCK = 256
"""Records that are decoded together."""

_CACHED_BLOCKS = 16
_CACHED_SHARDS = 8
_PER_RECORD = ("atom_offsets", "cell", "pbc", "id", "id_offsets", "group", "group_offsets")

_lock = Lock()
_shards: OrderedDict[tuple[str, int], _Shard] = OrderedDict()


def write_shard(path: Path, first: int, blobs: Iterable[bytes]) -> int:
    """Writes encoded records as rows ``first``, ``first + 1``, …; returns how many there were."""
    records = [decode(blob) for blob in blobs]
    fields = {name: label.field(name) for r in records for name, label in r.labels.items()}
    group = zarr.create_group(LocalStore(path), zarr_format=3)
    group.attrs.update(
        {
            "format": FORMAT,
            "first": first,
            "count": len(records),
            "fields": [asdict(fields[name]) for name in sorted(fields)],
        }
    )
    blocks = -(-len(records) // BLOCK)
    for name, values in _columns(records, fields).items():
        # Arrays that are read block by block have as many chunks as there are blocks.
        whole = name in _PER_RECORD or name.startswith("present.")
        _write_array(group, name, values, len(values) if whole else -(-len(values) // blocks))
    return len(records)


def read_shard(path: Path, rows: Sequence[int]) -> list[bytes]:
    """Returns the encoded records of ``rows`` (numbered over the data set).

    Raises:
        ShardError: If the group cannot be read or lacks a row.
    """
    with _lock:
        try:
            shard = _shard(path)
            return [encode(shard.record(row)) for row in rows]
        except EpitaxyError:
            raise
        except Exception as error:  # Zarr and its codecs raise whatever a damaged file provokes
            raise ShardError(
                f"{path} is damaged: {type(error).__name__}: {error}; prepare the data set again"
            ) from error


@dataclass
class _Block:
    """Columns of some consecutive records: per-atom arrays start at atom ``first_atom``."""

    first_atom: int
    numbers: np.ndarray
    positions: np.ndarray
    values: Mapping[str, np.ndarray]


class _Shard:
    """An open group: its per-record arrays, and the blocks decoded last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._group = zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3)
        attributes: Any = self._group.attrs.asdict()
        if attributes["format"] > FORMAT:
            raise ShardError(
                f"{path} has format {attributes['format']}, written by a newer epitaxy; this one "
                f"reads up to {FORMAT}: upgrade epitaxy"
            )
        self._first, self._count = attributes["first"], attributes["count"]
        self._fields = [
            LabelField(**{**item, "shape": tuple(item["shape"])}) for item in attributes["fields"]
        ]
        self._columns = {name: self._read(name) for name in _PER_RECORD}
        self._present = {f.name: self._read(f"present.{f.name}") for f in self._fields}
        self._blocks: OrderedDict[int, _Block] = OrderedDict()

    def record(self, row: int) -> CrystalRecord:
        """Returns the record in ``row`` of the data set."""
        index = row - self._first
        if not 0 <= index < self._count:
            raise ShardError(f"{self._path} is damaged: row {row} is missing; prepare it again")
        block = self._block(index // BLOCK)
        start, stop = self._atoms(index, index + 1)
        atoms = slice(start - block.first_atom, stop - block.first_atom)
        labels: dict[str, Label] = {}
        for field in self._fields:
            if self._present[field.name][index]:
                part: Any = atoms if field.per_atom else index % BLOCK
                labels[field.name] = assemble_label(
                    np.asarray(block.values[field.name][part]), field
                )
        return assemble_record(
            self._text("id", index),
            self._text("group", index),
            block.numbers[atoms],
            block.positions[atoms],
            self._columns["cell"][index],
            self._columns["pbc"][index].astype(bool),
            labels,
        )

    def _block(self, number: int) -> _Block:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        records = slice(number * BLOCK, min((number + 1) * BLOCK, self._count))
        start, stop = self._atoms(records.start, records.stop)
        atoms = slice(start, stop)
        block = _Block(
            start,
            self._read("numbers", atoms),
            self._read("positions", atoms),
            {
                field.name: self._read(f"value.{field.name}", atoms if field.per_atom else records)
                for field in self._fields
            },
        )
        self._blocks[number] = block
        if len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return block

    def _atoms(self, first: int, last: int) -> tuple[int, int]:
        offsets = self._columns["atom_offsets"]
        return int(offsets[first]), int(offsets[last])

    def _text(self, name: str, index: int) -> str:
        start, stop = self._columns[f"{name}_offsets"][index : index + 2]
        return self._columns[name][start:stop].tobytes().decode()

    def _read(self, name: str, part: slice = slice(None)) -> np.ndarray:
        return np.asarray(self._group[name][part])


def _shard(path: Path) -> _Shard:
    name = os.path.realpath(path)
    key = (name, os.stat(name).st_ino)
    if key not in _shards:
        _shards[key] = _Shard(path)
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
