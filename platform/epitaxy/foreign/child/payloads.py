"""Files and values as bytes: what they are compressed with, and what the bytes say."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from epitaxy.foreign.child import tensors
from epitaxy.foreign.child.allowed import Policy
from epitaxy.foreign.child.stand_ins import Unpackable, Unusable

BUFFER_BYTES = 1 << 20
TICK_BYTES = 1 << 26
MAX_RATIO = 1000
"""gzip reaches 1030 on nothing but zeros, structures about 10."""
RATIO_BYTES = 1 << 26
"""Below this many bytes a high ratio is no danger."""

_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x93NUMPY": "npy",
}
_JSON_START = re.compile(rb"\s*[\[{\"\-0-9tfnNI]")
_ARRAY_TYPE = re.compile(r"[<>=|]?[A-Za-z?]+\d*(\[\w+\])?")


class Source(io.RawIOBase):
    """A file, decompressed if need be, that counts what it gives and stops a bomb.

    Args:
        path: Of the file.
        limit: Most bytes that a compressed file may unpack to.
        tick: Called now and then while bytes are read, so that slow does not look stuck.
    """

    def __init__(self, path: str, limit: int, tick: Callable[[], None]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        start = self._file.read(8)
        self._file.seek(0)
        opener = next((o for magic, o in _OPENERS.items() if start.startswith(magic)), None)
        self._inner = opener(self._file) if opener else self._file
        self._limit = limit if opener else 0
        self._tick = tick
        self._given = 0

    def readable(self) -> bool:
        """Returns that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads into ``buffer``; returns how many bytes.

        Raises:
            Unpackable: If the compressed file is damaged or a bomb.
        """
        try:
            count = self._inner.readinto(buffer)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise Unpackable(f"is cut off or damaged: {error}") from error
        if (self._given + count) // TICK_BYTES > self._given // TICK_BYTES:
            self._tick()
        self._given += count
        if self._limit:
            check_ratio(self._given, self._file.tell(), self._limit)
        return count

    def close(self) -> None:
        """Closes the file."""
        self._inner.close()
        self._file.close()
        super().close()


def check_ratio(unpacked: int, packed: int, limit: int) -> None:
    """Raises ``Unpackable`` if compressed bytes grow beyond what real data does."""
    if unpacked > limit:
        raise Unpackable(f"unpacks to more than {limit} bytes; {_REMEDY}")
    if unpacked > RATIO_BYTES and unpacked > MAX_RATIO * packed:
        raise Unpackable(f"unpacks to more than {MAX_RATIO} times its size; {_REMEDY}")


_REMEDY = "if you trust it, unpack it yourself and give the unpacked file"


def unpack_value(raw: bytes, limit: int) -> bytes:
    """Returns a value of a database, decompressed if it is a zlib or gzip stream.

    Raises:
        Unusable: If the stream is damaged or a bomb.
    """
    zipped = len(raw) > 2 and raw[0] == 0x78 and int.from_bytes(raw[:2], "big") % 31 == 0
    if not zipped and not raw.startswith(b"\x1f\x8b"):
        return raw
    stream = zlib.decompressobj(wbits=47)  # either header
    parts: list[bytes] = []
    packed, total = len(raw), 0
    try:
        while raw and not stream.eof:
            parts.append(stream.decompress(raw, TICK_BYTES))
            total += len(parts[-1])
            check_ratio(total, packed, limit)
            raw = stream.unconsumed_tail if not stream.eof else b""
    except (zlib.error, Unpackable) as error:
        raise Unusable(f"the compressed value is damaged or too large: {error}") from error
    if not stream.eof:
        raise Unusable("the compressed value is cut off")
    return b"".join(parts)


def read_value(raw: bytes, policy: Policy, decode: str, limit: int) -> Any:
    """Returns the object in a value: a pickle, a file of ``torch.save``, or JSON.

    Args:
        raw: The value.
        policy: What a pickle may name.
        decode: ``pickle``, ``zlib_json``, or ``auto`` to find out from the bytes.
        limit: Most bytes that it may unpack to.

    Raises:
        Unusable: If it is neither, or damaged.
    """
    content = unpack_value(raw, limit)
    if decode == "zlib_json":
        return read_json(content)
    if content.startswith((tensors.ZIP_START, tensors.LEGACY_START)):
        return read_pickle(io.BytesIO(content), policy, content[:16])
    if decode == "auto" and _JSON_START.match(content):
        try:
            return read_json(content)
        except Unusable:
            if not content.endswith(b"."):
                raise
    if not content.endswith(b"."):  # the last code of every pickle
        raise Unusable(_unknown(content, decode))
    stream = io.BytesIO(content)
    root = read_pickle(stream, policy, content[:16])
    if stream.tell() != len(content):
        raise Unusable(f"{len(content) - stream.tell()} bytes follow the pickle")
    return root


def read_pickle(stream: BinaryIO, policy: Policy, start: bytes) -> Any:
    """Returns the next object of a stream whose next bytes are ``start``.

    Raises:
        Unusable: If it is damaged, or no pickle.
    """
    if start.startswith(tensors.LEGACY_START):
        return tensors.read_legacy(stream, policy.load)
    if start.startswith(tensors.ZIP_START):
        return tensors.read_zip(stream, policy.load)
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            raise Unusable(f"it is {name} data, expected a pickle")
    return policy.load(stream)


def _unknown(content: bytes, decode: str) -> str:
    for magic, name in _OTHERS.items():
        if content.startswith(magic):
            return f"it is {name} data, expected a pickle or JSON, plain or in zlib or gzip"
    expected = "a pickle" if decode == "pickle" else "a pickle or JSON"
    kind = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "empty"
    cut = "; a pickle that is cut off" if content[:1] == b"\x80" else ""
    return f"it is {kind}{cut}, expected {expected}"


def read_json(content: bytes) -> Any:
    """Returns JSON with the arrays, dates and complex numbers of ASE's encoding.

    Raises:
        Unusable: If it is no JSON.
    """
    try:
        return json.loads(content, object_hook=_ase_object)
    except RecursionError as error:
        raise Unusable("its JSON is nested too deeply") from error
    except ValueError as error:
        raise Unusable(f"it is no JSON: {error}") from error


def _ase_object(entry: dict[str, Any]) -> Any:
    if "__ndarray__" in entry:
        return _ase_array(entry["__ndarray__"])
    if "__complex_ndarray__" in entry:
        real, imaginary = entry["__complex_ndarray__"]
        return np.array(real, dtype="f8") + 1j * np.array(imaginary, dtype="f8")
    if "__complex__" in entry:
        return complex(*entry["__complex__"])
    return entry.get("__datetime__", entry)


def _ase_array(description: Any) -> Any:
    """Returns the array ``[shape, dtype, flat content]``; complex numbers are flat pairs."""
    try:
        shape, name, content = description
        if not isinstance(name, str) or not _ARRAY_TYPE.fullmatch(name):
            raise Unusable(f"an array has dtype {str(name)[:40]!r}")
        dtype = np.dtype(name)
        if dtype.kind == "O":
            return content
        if dtype.kind == "c":
            flat = np.array(content, dtype="f8").reshape(-1, 2)
            return (flat[:, 0] + 1j * flat[:, 1]).astype(dtype).reshape(shape)
        return np.array(content, dtype=dtype).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unusable(f"an array of its JSON is damaged: {error}") from error
