"""Records as bytes: versioned, self-describing, checksummed, never pickled.

Layout of one record, format 1, little-endian, offsets in bytes from its start::

    0   magic "EPXR"      4   format (u2)      6   pbc bits (u1)    7   zero
    8   crc32 of all other bytes               12  length of the record (u4)
    16  number of atoms   20  bytes of the label schema
    24  bytes of the id   26  bytes of the group (0: the group is the id)    28  zero
    32  cell (9 f8), positions (3 f8 per atom), atomic numbers (u1 per atom), id, group, schema,
        fill to a multiple of 8, then each label's values (f8, or f4 per atom) filled likewise

The schema lists the labels by name: u1 flags (bit 7: per atom; low bits: number of dimensions),
u1 length of the name, u1 of the unit, u2 of the scheme, these three texts, then the dimensions
(u4 each; the axis over atoms is left out). Records of one data set share it, so it is parsed once.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from epitaxy.errors import RecordError, ShardError
from epitaxy.graph.record import CrystalRecord, Label, LabelField

FORMAT = 1
"""Newest record format this code reads and the one it writes."""

_HEADER = struct.Struct("<4sHBxIIIIHHI")
_CRC_END = 12
_SCHEMA_ENTRY = struct.Struct("<BBBH")
_MAGIC = b"EPXR"
_PACK_MAGIC = b"EPXP"
_PACK_HEADER = struct.Struct("<4sII4x")
_PER_ATOM = 0x80
_FILL = [bytes(-size % 8) for size in range(8)]
_U1, _F4, _F8 = np.dtype("u1"), np.dtype("<f4"), np.dtype("<f8")
_PBC = tuple(np.array([bool(bits >> axis & 1) for axis in range(3)]) for bits in range(8))
for _flags in _PBC:
    _flags.setflags(write=False)

Blob = bytes | memoryview


def encode(record: CrystalRecord) -> bytes:
    """Returns ``record`` as bytes; equal records (labels in any order) give equal bytes.

    Raises:
        RecordError: If an id, a name or a unit is too long for its length field, or the record is
            a view that hides something.
    """
    if record.hiding is not None:
        raise RecordError(f"record {record.id!r} is a view that hides something: store the record")
    names = sorted(record.labels)
    labels = [record.labels[name] for name in names]
    try:
        return join_record(
            record.cell.tobytes(),
            record.positions.tobytes(),
            record.numbers.tobytes(),
            pbc_bits(record.pbc),
            record.id.encode(),
            record.group.encode(),
            schema_of([label.field(name) for name, label in zip(names, labels, strict=True)]),
            [label.value.tobytes() for label in labels],
        )
    except (struct.error, UnicodeEncodeError) as error:
        raise RecordError(f"record {record.id[:80]!r} cannot be stored: {error}") from error


def join_record(
    cell: Blob,
    positions: Blob,
    numbers: Blob,
    bits: int,
    identity: Blob,
    group: Blob,
    schema: Blob,
    values: Sequence[Blob],
) -> bytes:
    """Returns the encoded record that consists of these bytes.

    Args:
        cell: 9 f8.
        positions: 3 f8 per atom.
        numbers: 1 u1 per atom.
        bits: Of ``pbc_bits``.
        identity: UTF-8.
        group: UTF-8.
        schema: Of ``schema_of``, for labels sorted by name.
        values: Of each label.

    Raises:
        struct.error: If an id, a name or a unit is too long for its length field.
    """
    group = b"" if group == identity else group
    sizes = (len(schema), len(identity), len(group), 0)
    parts = [cell, positions, numbers, identity, group, schema]
    parts.append(_FILL[(_HEADER.size + sum(map(len, parts))) % 8])
    for value in values:
        parts += [value, _FILL[len(value) % 8]]
    body = b"".join(parts)
    counts = (_HEADER.size + len(body), len(numbers), *sizes)
    header = _HEADER.pack(_MAGIC, FORMAT, bits, 0, *counts)
    checksum = zlib.crc32(body, zlib.crc32(header[_CRC_END:], zlib.crc32(header[:8])))
    return b"".join([header[:8], checksum.to_bytes(4, "little"), header[_CRC_END:], body])


def pbc_bits(pbc: np.ndarray) -> int:
    """Returns three flags as the bits of one number."""
    return sum(bool(flag) << axis for axis, flag in enumerate(pbc))


def schema_of(fields: Sequence[LabelField]) -> bytes:
    """Returns the description of labels that are sorted by name.

    Raises:
        struct.error: If a name or a unit is too long for its length field.
    """
    return b"".join(map(_schema_entry, fields))


def decode(blob: Blob) -> CrystalRecord:
    """Returns the record that ``encode`` wrote; its arrays are read-only views of ``blob``.

    The record's own checks are not repeated: they held when it was encoded, and the checksum
    holds now.

    Raises:
        ShardError: If the bytes are damaged, cut off, or of a newer format.
    """
    if len(blob) < _HEADER.size:
        raise ShardError(f"damaged record: {len(blob)} bytes are no record")
    magic, version, bits, crc, length, atoms, schema_size, id_size, group_size, _ = (
        _HEADER.unpack_from(blob)
    )
    if magic != _MAGIC:
        raise ShardError(f"damaged record: it starts with {bytes(magic)!r}, expected {_MAGIC!r}")
    if version != FORMAT:
        raise ShardError(
            f"record format {version} is unknown (this version reads {FORMAT}): "
            "a newer epitaxy wrote it, or it is damaged"
        )
    if length != len(blob) or crc != _checksum(blob):
        raise ShardError(f"damaged record: the checksum of its {len(blob)} bytes does not match")
    numbers_at = _HEADER.size + 72 + 24 * atoms
    id_at = numbers_at + atoms
    group_at = id_at + id_size
    schema_at = group_at + group_size
    values_at = _align(schema_at + schema_size)
    if values_at > length:
        raise ShardError(f"damaged record: {atoms} atoms do not fit into {length} bytes")
    schema = _parse_schema(bytes(blob[schema_at : schema_at + schema_size]))
    identity = str(blob[id_at:group_at], "utf-8", "replace")
    return assemble_record(
        identity,
        str(blob[group_at:schema_at], "utf-8", "replace") or identity,
        np.ndarray((atoms,), _U1, blob, numbers_at),
        np.ndarray((atoms, 3), _F8, blob, _HEADER.size + 72),
        np.ndarray((3, 3), _F8, blob, _HEADER.size),
        _PBC[bits & 7],
        _labels(blob, schema, values_at, atoms),
    )


def assemble_record(
    identity: str,
    group: str,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    labels: dict[str, Label],
) -> CrystalRecord:
    """Returns a record without running its checks; only for bytes that a checksum vouches for."""
    record = object.__new__(CrystalRecord)
    record.__dict__.update(
        id=identity,
        numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=pbc,
        labels=MappingProxyType(labels),
        group=group,
    )
    return record


def record_digest(blob: Blob) -> str:
    """Returns a hash of everything in an encoded record (32 hex digits)."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def pack(blobs: Sequence[Blob]) -> bytes:
    """Returns many blobs as one, each starting at a multiple of 8 bytes."""
    sizes = np.array([len(blob) for blob in blobs], dtype="<u8").tobytes()
    header = _PACK_HEADER.pack(_PACK_MAGIC, len(blobs), zlib.crc32(sizes))
    padded = [part for blob in blobs for part in (blob, _FILL[len(blob) % 8])]
    return b"".join([header, sizes, *padded])


def unpack(payload: Blob) -> list[memoryview]:
    """Returns the blobs that ``pack`` joined, as views.

    Raises:
        ShardError: If the payload is damaged or cut off.
    """
    view = memoryview(payload)
    if len(view) < _PACK_HEADER.size:
        raise ShardError(f"damaged payload: {len(view)} bytes are no packed records")
    magic, count, crc = _PACK_HEADER.unpack_from(view)
    start = _PACK_HEADER.size + 8 * count
    sizes = view[_PACK_HEADER.size : start]
    if magic != _PACK_MAGIC or start > len(view) or zlib.crc32(sizes) != crc:
        raise ShardError("damaged payload: its table of contents does not match its checksum")
    blobs = []
    for size in np.frombuffer(sizes, "<u8").tolist():
        blobs.append(view[start : start + size])
        start += _align(size)
    if start != len(view):
        raise ShardError(f"damaged payload: {len(view)} bytes, expected {start}")
    return blobs


def _checksum(blob: Blob | bytearray) -> int:
    view = memoryview(blob)
    return zlib.crc32(view[_CRC_END:], zlib.crc32(view[:8]))


def _align(size: int) -> int:
    return size + -size % 8


@lru_cache(maxsize=1024)
def _schema_entry(field: LabelField) -> bytes:
    flags = _PER_ATOM * field.per_atom + len(field.shape)
    texts = [text.encode() for text in (field.name, field.unit, field.scheme)]
    head = _SCHEMA_ENTRY.pack(flags, *map(len, texts))
    return b"".join([head, *texts, np.array(field.shape, dtype="<u4").tobytes()])


class _Column(NamedTuple):
    """A label as the schema describes it, made ready for reading its values."""

    name: str
    per_atom: bool
    shape: tuple[int, ...]
    dtype: np.dtype
    row_bytes: int
    attributes: Mapping[str, Any]


@lru_cache(maxsize=1024)
def _parse_schema(schema: bytes) -> tuple[_Column, ...]:
    columns, at = [], 0
    try:
        while at < len(schema):
            flags, *sizes = _SCHEMA_ENTRY.unpack_from(schema, at)
            at += _SCHEMA_ENTRY.size
            texts = []
            for size in sizes:
                texts.append(schema[at : at + size].decode())
                at += size
            dimensions, per_atom = flags & ~_PER_ATOM, bool(flags & _PER_ATOM)
            shape = struct.unpack_from(f"<{dimensions}I", schema, at)
            at += 4 * dimensions
            dtype = _F4 if per_atom else _F8
            attributes = {"unit": texts[1], "scheme": texts[2], "per_atom": per_atom}
            row_bytes = prod(shape) * dtype.itemsize
            columns.append(_Column(texts[0], per_atom, shape, dtype, row_bytes, attributes))
    except (struct.error, UnicodeDecodeError) as error:
        raise ShardError(f"damaged record: its label schema cannot be read ({error})") from error
    return tuple(columns)


def _labels(blob: Blob, schema: tuple[_Column, ...], at: int, atoms: int) -> dict[str, Label]:
    labels = {}
    for name, per_atom, row_shape, dtype, row_bytes, attributes in schema:
        shape, size = row_shape, row_bytes
        if per_atom:
            shape, size = (atoms, *row_shape), atoms * row_bytes
        if at + size > len(blob):
            raise ShardError(f"damaged record: label {name!r} reaches beyond its end")
        label = labels[name] = object.__new__(Label)  # its checks held when it was encoded
        label.__dict__.update(attributes, value=np.ndarray(shape, dtype, blob, at))
        at += _align(size)
    if at != len(blob):
        raise ShardError(f"damaged record: {len(blob)} bytes, its labels end at {at}")
    return labels
