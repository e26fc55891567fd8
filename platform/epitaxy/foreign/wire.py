"""Messages from the reader of foreign files to its parent: a JSON header and raw array bytes.

A message is ``MAGIC``, the sizes of header and blob (8 bytes each, little-endian), a JSON header
and the blob. A tree in a header is JSON with lists tagged: null, booleans, numbers, strings and
objects stand for themselves, and

======================================  ==========================================================
``["l", …]``                            a list
``["a", dtype, shape, offset]``         a numpy array, its bytes in the blob, C order
``["b", offset, length]``               bytes in the blob
``["r", number]``                       an object that came before: dicts, lists, arrays and bytes
                                        are numbered from 0 in the order in which they begin
======================================  ==========================================================

Nothing in a message is executed or imported, and each number in it is checked before it is used.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from math import prod
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"EPXF"
SIZES = struct.Struct("<QQ")
PREFIX_BYTES = len(MAGIC) + SIZES.size
ALIGNMENT = 16
MAX_DEPTH = 100
"""Deepest nesting of a tree; records of crystals stay below 30."""

_DTYPE = re.compile(r"[<>|]([biufcSU][1-9]\d{0,8}|[mM]8(\[\d{0,9}\w{1,7}\])?)")
_TAGS = {"l", "a", "b", "r"}


class WireError(ValueError):
    """A message does not have the form that the reader writes."""


def send(
    stream: BinaryIO, header: dict[str, Any], parts: Iterable[bytes | memoryview] = ()
) -> None:
    """Writes one message; ``parts`` are the blob, each padded to ``ALIGNMENT``."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    parts = list(parts)
    sizes = [memoryview(part).nbytes for part in parts]
    stream.write(MAGIC + SIZES.pack(len(text), sum(map(padded, sizes))))
    stream.write(text)
    for part, size in zip(parts, sizes, strict=True):
        stream.write(part)
        stream.write(bytes(padded(size) - size))
    stream.flush()


def padded(size: int) -> int:
    """Returns ``size`` rounded up to a multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def parse_prefix(prefix: bytes, limit: int) -> tuple[int, int]:
    """Returns the sizes of header and blob that the first ``PREFIX_BYTES`` of a message tell.

    Raises:
        WireError: If it begins otherwise, or is longer than ``limit`` bytes.
    """
    if prefix[: len(MAGIC)] != MAGIC:
        raise WireError(f"a message begins with {prefix[: len(MAGIC)]!r}, expected {MAGIC!r}")
    header, blob = SIZES.unpack_from(prefix, len(MAGIC))
    if header + blob > limit:
        raise WireError(f"a message has {header + blob} bytes, at most {limit} are possible")
    return header, blob


def parse_header(text: bytes) -> dict[str, Any]:
    """Returns the header of a message.

    Raises:
        WireError: If it is no JSON object.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header of a message is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise WireError(f"the header of a message is {type(header).__name__}, expected an object")
    return header


def decode(node: Any, blob: bytearray) -> Any:
    """Returns the tree in a header; arrays are writable views of ``blob``.

    Raises:
        WireError: If a tag, dtype, shape or reference is wrong.
    """
    return _Decoder(blob).node(node, 0)


class _Decoder:
    def __init__(self, blob: bytearray) -> None:
        self._blob = blob
        self._seen: list[Any] = []

    def node(self, node: Any, depth: int) -> Any:
        if not isinstance(node, (dict, list)):
            return node
        if depth > MAX_DEPTH + 1:  # one for what marks a cycle
            raise WireError(f"a tree is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, dict):
            number = self._begin()
            done: Any = {
                key: self.node(item, depth + 1) if isinstance(item, (dict, list)) else item
                for key, item in node.items()
            }
            self._seen[number] = done
            return done
        return self._tagged(node, depth)

    def _tagged(self, node: list[Any], depth: int) -> Any:
        tag = node[0] if node else None
        if not isinstance(tag, str) or tag not in _TAGS:
            raise WireError(f"a list is tagged {str(tag)[:20]!r}, expected one of {sorted(_TAGS)}")
        if tag == "r":
            return self._reference(*_whole(node, 1))
        number = self._begin()
        if tag == "l":
            done: Any = [
                self.node(item, depth + 1) if isinstance(item, (dict, list)) else item
                for item in node[1:]
            ]
        elif tag == "b":
            offset, length = _whole(node, 2)
            done = bytes(self._slice(offset, length))
        else:
            done = self._array(node)
        self._seen[number] = done
        return done

    def _begin(self) -> int:
        self._seen.append(_Unfinished)
        return len(self._seen) - 1

    def _reference(self, number: int) -> Any:
        if number >= len(self._seen) or self._seen[number] is _Unfinished:
            raise WireError(f"there is no finished object {number} to refer to")
        return self._seen[number]

    def _array(self, node: list[Any]) -> np.ndarray:
        if len(node) != 4 or not isinstance(node[1], str) or not _DTYPE.fullmatch(node[1]):
            raise WireError(f"an array is described by {str(node)[:80]}")
        shape = _whole(["a", *node[2]] if isinstance(node[2], list) else [], None)
        (offset,) = _whole(["a", node[3]], 1)
        try:
            dtype = np.dtype(node[1])
            raw = self._slice(offset, prod(shape) * dtype.itemsize)
            return np.frombuffer(raw, dtype).reshape(shape) if len(raw) else np.empty(shape, dtype)
        except (TypeError, ValueError) as error:
            raise WireError(f"an array is described by {str(node)[:80]}: {error}") from error

    def _slice(self, offset: int, length: int) -> memoryview:
        if offset + length > len(self._blob):
            raise WireError(f"bytes {offset} to {offset + length} of {len(self._blob)} are wanted")
        return memoryview(self._blob)[offset : offset + length]


class _Unfinished:
    """Marks an object that has begun and not ended: nothing may refer to it."""


def _whole(node: list[Any], count: int | None) -> list[int]:
    """Returns what follows a tag: non-negative whole numbers, ``count`` of them."""
    values = node[1:]
    good = bool(node) and all(type(value) is int and value >= 0 for value in values)
    if not good or (count is not None and len(values) != count):
        raise WireError(f"expected {'some' if count is None else count} sizes, found {node!s:.80}")
    return values
