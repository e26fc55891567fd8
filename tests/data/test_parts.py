"""Sidecar arrays written in parts are those written at once; keys tell ids apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.codec import encode, record_digest
from epitaxy.data.dataset import data_digest
from epitaxy.data.key_table import KeyTable
from epitaxy.data.parts import StoredPart, folder_digest, join, write_part
from epitaxy.data.sidecars import SidecarWriter, neighbor_counts
from epitaxy.graph.record import CrystalRecord


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    """Ids of several lengths, some not ASCII; the first half has no stress."""
    made = []
    for index, record in enumerate(crystals.many(25)):
        labels = {k: v for k, v in record.labels.items() if index >= 12 or k != "stress"}
        made.append(record.replace(id="α" * (index % 3) + f"x{index}", labels=labels))
    return made


def arrays(records: list[CrystalRecord]) -> SidecarWriter:
    writer = SidecarWriter()
    for record, counts in zip(records, neighbor_counts(records), strict=True):
        writer.add(record, record_digest(encode(record)), counts)
    return writer


@pytest.mark.parametrize("sizes", [[25], [12, 13], [1, 23, 1], [5] * 5])
def test_parts_join_to_the_files_of_one(
    records: list[CrystalRecord], sizes: list[int], tmp_path: Path
) -> None:
    arrays(records).write(tmp_path / "whole")
    parts, start = [], 0
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.npz"
        extra = {"place_files": np.zeros(size)}
        write_part(path, arrays(records[start : start + size]).arrays() | extra)
        parts.append(StoredPart(path))
        start += size
    join(parts, tmp_path / "joined", without=["place_files"])
    whole, joined = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "joined")
    )
    assert whole == joined


def test_the_digest_of_arrays_is_that_of_lists(
    records: list[CrystalRecord], tmp_path: Path
) -> None:
    """Sorted by code points, as UTF-8 bytes are: 'x' before 'α', 'x10' before 'x2'."""
    arrays(records).write(tmp_path / "whole")
    digests = [record_digest(encode(record)) for record in records]
    assert folder_digest(tmp_path / "whole") == data_digest([r.id for r in records], digests)


def test_a_table_of_keys_answers_like_a_dictionary() -> None:
    keys = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in range(5000)]
    # The same first half, which decides the place; and a key of zeros.
    keys += [keys[0][:8] + bytes([n]) * 8 for n in range(50)] + [bytes(16)]
    table = KeyTable()
    for row, key in enumerate(keys):
        assert table.find(key) is None
        table.add(key, row)
    assert [table.find(key) for key in keys] == list(range(len(keys)))
    assert len(table) == len(keys)
    assert table.find(b"\1" * 16) is None
