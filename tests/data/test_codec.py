"""Records as bytes: every value comes back bit for bit, every damage is noticed."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from epitaxy.data.codec import decode, encode, pack, record_digest, unpack
from epitaxy.errors import RecordError, ShardError
from epitaxy.graph.record import CrystalRecord, Label


def small_record() -> CrystalRecord:
    return CrystalRecord(
        id="a",
        numbers=np.array([11, 17]),
        positions=np.array([[0.0, 0, 0], [-0.0, 1.25, 2.5]]),
        cell=np.diag([4.0, 5.0, 6.0]),
        pbc=np.array([True, False, True]),
        labels={
            "energy": Label(np.array(-3.5), "eV", "PBE"),
            "forces": Label(np.ones((2, 3)), "eV/Å", "PBE", per_atom=True),
        },
        group="salt",
    )


numbers_8 = st.floats(-1e6, 1e6, allow_subnormal=True)
short_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@st.composite
def records(draw: st.DrawFn) -> CrystalRecord:
    atoms = draw(st.integers(1, 5))
    labels = {}
    for name in draw(st.lists(short_text, max_size=4, unique=True)):
        per_atom = draw(st.booleans())
        shape = draw(st.just(()) | array_shapes(max_dims=3, max_side=3))
        width = 32 if per_atom else 64
        value = draw(
            arrays(
                f"f{width // 8}",
                (atoms, *shape) if per_atom else shape,
                elements=st.floats(-9, 9, width=width),
            )
        )
        labels[name] = Label(value, draw(st.text(max_size=5)), draw(st.text(max_size=5)), per_atom)
    return CrystalRecord(
        id=draw(short_text),
        numbers=draw(arrays(np.uint8, atoms, elements=st.integers(1, 118))),
        positions=draw(arrays(np.float64, (atoms, 3), elements=numbers_8)),
        cell=np.diag(draw(st.lists(st.floats(0.5, 300), min_size=3, max_size=3))),
        pbc=np.array(draw(st.lists(st.booleans(), min_size=3, max_size=3))),
        labels=labels,
        group=draw(st.just("") | short_text),
    )


@given(records())
@settings(max_examples=150, deadline=None)
def test_every_record_comes_back(record: CrystalRecord) -> None:
    blob = encode(record)
    decoded = decode(blob)
    assert decoded == record
    assert encode(decoded) == blob
    assert len(blob) % 8 == 0
    for name in ("positions", "cell"):  # bit for bit: equality takes -0.0 for 0.0
        assert getattr(decoded, name).tobytes() == getattr(record, name).tobytes()


def test_the_layout_is_the_documented_one() -> None:
    """An independent reading of the bytes, by the table in the module's docstring."""
    blob = encode(small_record())
    assert blob[:4] == b"EPXR"
    version, pbc = struct.unpack_from("<HB", blob, 4)
    assert (version, pbc) == (1, 0b101)
    crc, length, atoms, schema, identity, group = struct.unpack_from("<IIIIHH", blob, 8)
    assert (length, atoms, identity, group) == (len(blob), 2, 1, 4)
    assert crc == zlib.crc32(blob[:8] + blob[12:])
    assert struct.unpack_from("<9d", blob, 32) == (4, 0, 0, 0, 5, 0, 0, 0, 6)
    assert struct.unpack_from("<6d", blob, 104) == (0, 0, 0, 0, 1.25, 2.5)
    assert blob[152:159] == bytes([11, 17]) + b"asalt"
    # energy: flags 0, lengths 6 2 3; forces: per atom, one further axis of 3; the unit is UTF-8.
    entries = struct.pack("<BBBH", 0, 6, 2, 3) + b"energyeVPBE"
    entries += struct.pack("<BBBH", 0x81, 6, 5, 3) + b"forceseV/\xc3\x85PBE" + struct.pack("<I", 3)
    assert blob[159 : 159 + schema] == entries
    values = 159 + schema + -(159 + schema) % 8
    assert struct.unpack_from("<d6f", blob, values) == (-3.5, *[1.0] * 6)
    assert len(blob) == values + 8 + 24


def test_equal_records_give_equal_bytes_whatever_the_order_of_labels() -> None:
    record = small_record()
    turned = record.replace(labels=dict(reversed(list(record.labels.items()))))
    assert encode(turned) == encode(record)
    assert record_digest(encode(turned)) == record_digest(encode(record))


def test_the_digest_tells_records_apart() -> None:
    record = small_record()
    moved = record.replace(positions=record.positions + 1e-12)
    assert record_digest(encode(moved)) != record_digest(encode(record))


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_any_flipped_byte_is_noticed(mask: int) -> None:
    blob = encode(small_record())
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= mask
        with pytest.raises(ShardError):
            decode(bytes(damaged))


def test_any_missing_or_surplus_byte_is_noticed() -> None:
    blob = encode(small_record())
    for length in range(len(blob)):
        with pytest.raises(ShardError):
            decode(blob[:length])
    with pytest.raises(ShardError, match="checksum"):
        decode(blob + b"\0")


def sealed(blob: bytearray) -> bytes:
    """A forged record whose length and checksum are right."""
    struct.pack_into("<I", blob, 12, len(blob))
    struct.pack_into("<I", blob, 8, zlib.crc32(blob[12:], zlib.crc32(blob[:8])))
    return bytes(blob)


@pytest.mark.parametrize(("offset", "kind"), [(16, "<I"), (20, "<I"), (24, "<H"), (26, "<H")])
def test_forged_lengths_allocate_nothing(offset: int, kind: str) -> None:
    blob = bytearray(encode(small_record()))
    struct.pack_into(kind, blob, offset, 2 ** (8 * struct.calcsize(kind)) - 1)
    forged = sealed(blob)
    tracemalloc.start()
    with pytest.raises(ShardError, match="damaged"):
        decode(forged)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_forged_label_cannot_reach_beyond_the_record() -> None:
    blob = bytearray(encode(small_record()))
    at = blob.index(b"PBE" + struct.pack("<I", 3)) + 3
    struct.pack_into("<I", blob, at, 2**32 - 1)
    with pytest.raises(ShardError, match="'forces' reaches beyond"):
        decode(sealed(blob))


def test_a_newer_format_is_named() -> None:
    blob = bytearray(encode(small_record()))
    struct.pack_into("<H", blob, 4, 2)
    with pytest.raises(ShardError, match=r"format 2 .* newer"):
        decode(sealed(blob))


def test_decoded_arrays_are_read_only_views() -> None:
    blob = encode(small_record())
    decoded = decode(blob)
    assert not decoded.positions.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        decoded.positions[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        decoded.pbc[0] = False
    assert decode(memoryview(blob)) == decoded


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x" * 70_000},
        {"group": "\ud800"},
        {"labels": {"n" * 300: Label(np.array(1.0), "eV")}},
    ],
)
def test_what_cannot_be_stored_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="cannot be stored"):
        encode(small_record().replace(**change))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_packed_blobs_come_back_aligned(blobs: list[bytes]) -> None:
    payload = pack(blobs)
    views = unpack(payload)
    assert [bytes(view) for view in views] == blobs
    whole = np.frombuffer(payload, np.uint8)
    for view in views:
        if len(view):
            start = np.frombuffer(view, np.uint8).ctypes.data - whole.ctypes.data
            assert start % 8 == 0


def test_damaged_payloads_are_noticed() -> None:
    blobs = [encode(small_record()), encode(small_record().replace(id="b"))]
    payload = pack(blobs)
    table = 16 + 8 * len(blobs)
    for position in [*range(12), *range(16, table)]:  # bytes 12 to 15 are fill
        damaged = bytearray(payload)
        damaged[position] ^= 0x10
        with pytest.raises(ShardError):
            unpack(bytes(damaged))
    for length in range(len(payload)):
        with pytest.raises(ShardError):
            unpack(payload[:length])
    damaged = bytearray(payload)
    damaged[table + 40] ^= 1
    with pytest.raises(ShardError):
        [decode(view) for view in unpack(bytes(damaged))]


def test_the_size_is_what_the_layout_says() -> None:
    """Structure only: header 32, cell 72, 25 bytes per atom, the id; filled to 8."""
    record = CrystalRecord("abc", np.full(31, 6), np.zeros((31, 3)), np.eye(3))
    expected = 32 + 72 + 25 * 31 + 3
    assert len(encode(record)) == expected + -expected % 8


def test_the_codec_needs_no_torch() -> None:
    code = "import sys, epitaxy.data.codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
