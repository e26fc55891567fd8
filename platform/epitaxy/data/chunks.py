"""Columns of a Zarr group, read by whole chunks and checked, from a folder or behind a URI.

Chunks are fetched and decoded here and not by Zarr, whose machinery takes some milliseconds for
each. What the metadata say is checked first, so that a lie costs no memory.
"""

from __future__ import annotations

import hashlib
import json
from math import prod
from pathlib import Path

import numpy as np
from fsspec.core import url_to_fs
from google_crc32c import value as crc32c
from numcodecs.zstd import decompress

from epitaxy.errors import ShardError

METADATA = "zarr.json"


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of ``content``, hex."""
    return hashlib.sha256(content).hexdigest()


class Column:
    """One array of a group, each chunk of which is checked against its crc32c.

    Args:
        files: Of the group.
        name: Of the array.
        kind: What its values must be, such as ``f8``.
        rows: How many rows it must have.
        digest: SHA-256 of its metadata, if the group knows it.

    Attributes:
        row_bytes: Bytes of one row.

    Raises:
        ShardError: If the metadata were changed or say something else.
    """

    def __init__(self, files: Files, name: str, kind: str, rows: int, digest: str | None) -> None:
        content = files.read(f"{name}/{METADATA}")
        if digest is not None and sha256(content) != digest:
            raise ShardError(f"{files} is damaged: the metadata of array {name!r} were changed")
        found = json.loads(content)
        codecs = [codec["name"] for codec in found["codecs"]]
        if codecs != ["bytes", "zstd", "crc32c"]:
            raise ShardError(f"{files}: array {name!r} was not written by epitaxy: {codecs}")
        shape, dtype = found["shape"], np.dtype(kind)
        if (shape[0], found["data_type"]) != (rows, dtype.name):
            raise ShardError(
                f"{files} is damaged: array {name!r} has {shape} {found['data_type']}, expected "
                f"{rows} rows of {kind}; prepare the data set again"
            )
        self._step, *inner = found["chunk_grid"]["configuration"]["chunk_shape"]
        if inner != shape[1:] or not 0 < self._step <= max(rows, 1):
            raise ShardError(f"{files} is damaged: array {name!r} has chunks of {self._step} rows")
        self._files, self._name, self._rows = files, name, rows
        self.dtype, self._inner = dtype, tuple(inner)
        self.row_bytes = self.dtype.itemsize * prod(inner)
        self._held: tuple[int, bytes] = (-1, b"")

    def read(self, start: int = 0, stop: int | None = None) -> memoryview:
        """Returns the bytes of rows ``start`` to ``stop``."""
        stop = self._rows if stop is None else stop
        if stop <= start:
            return memoryview(b"")
        first, last = start // self._step, (stop - 1) // self._step
        content = b"".join(map(self._chunk, range(first, last + 1)))
        offset = first * self._step
        part = slice((start - offset) * self.row_bytes, (stop - offset) * self.row_bytes)
        return memoryview(content)[part]

    def array(self) -> np.ndarray:
        """Returns all rows."""
        return np.frombuffer(self.read(), self.dtype).reshape(-1, *self._inner)

    def _chunk(self, number: int) -> bytes:
        if self._held[0] == number:  # blocks of records and chunks of atoms do not end together
            return self._held[1]
        key = "/".join([self._name, "c", str(number), *("0" for _ in self._inner)])
        stored = self._files.read(key)
        content, checksum = stored[:-4], int.from_bytes(stored[-4:], "little")
        if len(stored) < 4 or crc32c(content) != checksum:
            raise ShardError(
                f"{self._files} is damaged: the checksum of chunk {key} does not match; prepare "
                "the data set again"
            )
        decoded = bytearray(self._step * self.row_bytes)
        found = decompress(content, decoded)
        if len(found) != len(decoded):
            raise ShardError(f"{self._files} is damaged: chunk {key} has {len(found)} bytes")
        self._held = (number, bytes(decoded))
        return self._held[1]


class Files:
    """The files of a group, in a folder or behind a URI; ``str`` gives its place."""

    def __init__(self, place: Path | str) -> None:
        self._place = place
        if isinstance(place, str):
            self._filesystem, self._root = url_to_fs(place)

    def __str__(self) -> str:
        return str(self._place)

    def read(self, key: str) -> bytes:
        """Returns a file's content."""
        if isinstance(self._place, str):
            content: bytes = self._filesystem.cat_file(f"{self._root}/{key}")
            return content
        return (self._place / key).read_bytes()
