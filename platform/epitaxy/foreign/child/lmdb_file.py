"""Keys and values of an LMDB file that somebody else wrote."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from epitaxy.foreign.child.allowed import Policy
from epitaxy.foreign.child.payloads import BUFFER_BYTES, Source, read_value
from epitaxy.foreign.child.stand_ins import Unpackable, Unusable

_SMALLEST_NODE = 9  # bytes of a page that a key and its value take at the least
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


@contextmanager
def opened(path: str, limit: int, tick: Callable[[], None]) -> Iterator[lmdb.Environment]:
    """Opens an LMDB file for reading, without a lock and without touching it.

    A compressed one is first unpacked into a temporary file that has no name, so that nothing is
    left however this process ends.

    Raises:
        Unpackable: If it is compressed and damaged, or a bomb.
        lmdb.Error: If it is no LMDB file.
    """
    with tempfile.TemporaryFile() as unpacked:
        name = path
        with open(path, "rb") as stream:
            if stream.read(8).startswith(_COMPRESSED):
                with Source(path, limit, tick) as source:
                    _unpack(source, unpacked)
                name = f"/proc/self/fd/{unpacked.fileno()}"
        environment = lmdb.open(
            name, subdir=False, readonly=True, lock=False, readahead=False, create=False
        )
        try:
            yield environment
        finally:
            environment.close()


def _unpack(source: Source, target: Any) -> None:
    try:
        shutil.copyfileobj(source, target, BUFFER_BYTES)
        target.flush()
    except OSError as error:
        raise Unpackable(
            f"cannot be unpacked into {tempfile.gettempdir()} ({error.strerror}); "
            "set TMPDIR to a folder with more room"
        ) from error


def database_file(path: str) -> str:
    """Returns the file of a database that is given as a file or as its folder."""
    return os.path.join(path, "data.mdb") if Path(path).is_dir() else path


def items(environment: lmdb.Environment) -> Iterator[tuple[str, bytes]]:
    """Yields (name, value) in natural order: numbers by value, ``frame9`` before ``frame10``.

    Raises:
        Unusable: If the index of the file is damaged.
        lmdb.Error: Likewise.
    """
    with environment.begin() as transaction:
        keys = _keys(environment, transaction)
        names = key_names(keys)
        for name, key in sorted(zip(names, keys, strict=True), key=lambda pair: _order(pair[0])):
            value = transaction.get(key)
            if value is None:
                raise Unusable(f"key {key!r} is listed and has no value")
            yield name, value


def _keys(environment: lmdb.Environment, transaction: lmdb.Transaction) -> list[bytes]:
    stat = environment.stat()
    pages = environment.info()["last_pgno"] + 1
    most = min(stat["entries"], pages * stat["psize"] // _SMALLEST_NODE)
    keys: list[bytes] = []
    for key in transaction.cursor().iternext(keys=True, values=False):
        if len(keys) == most:
            raise Unusable(f"it lists more keys than the {stat['entries']} it says it has")
        keys.append(bytes(key))
    if len(keys) < stat["entries"]:
        raise Unusable(f"it lists {len(keys)} keys and says it has {stat['entries']}")
    return keys


def key_names(keys: list[bytes]) -> list[str]:
    """Returns keys as text; those of 4 or 8 bytes that are no text are whole numbers.

    Numbers are little- or big-endian, whichever makes the largest of them smaller, as people
    count records from 0 or 1.
    """
    texts = [_text(key) for key in keys]
    raw = [key for key, text in zip(keys, texts, strict=True) if text is None]
    numbers = [key for key in raw if len(key) in (4, 8)]
    big, little = (max((value(key) for key in numbers), default=0) for value in (_big, _little))
    value = _little if little < big else _big
    return [
        text if text is not None else str(value(key)) if len(key) in (4, 8) else f"0x{key.hex()}"
        for key, text in zip(keys, texts, strict=True)
    ]


def _text(key: bytes) -> str | None:
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return _pickled(key)
    return text if text.isprintable() and text else _pickled(key)


def _pickled(key: bytes) -> str | None:
    """Returns a key that is a pickled number or text."""
    if not key.startswith(b"\x80") or not key.endswith(b"."):
        return None
    try:
        name = read_value(key, Policy(), "pickle", 0)
    except Unusable:
        return None
    return str(name) if isinstance(name, (int, str)) else None


def _big(key: bytes) -> int:
    return int.from_bytes(key, "big")


def _little(key: bytes) -> int:
    return int.from_bytes(key, "little")


def _order(name: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    parts = re.findall(r"\d+|\D+", name)
    keys = [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]
    return not name.isdecimal(), keys
