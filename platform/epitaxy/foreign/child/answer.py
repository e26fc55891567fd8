"""Reads what a request asks for, and sends it record by record."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, BinaryIO

from epitaxy.foreign.child import limits
from epitaxy.foreign.child.allowed import Policy
from epitaxy.foreign.child.encoding import TreeWriter
from epitaxy.foreign.child.payloads import (
    BUFFER_BYTES,
    Source,
    read_pickle,
    read_value,
)
from epitaxy.foreign.child.stand_ins import Refused, StandIn, Unpackable, Unusable
from epitaxy.foreign.child.tensors import ZIP_START
from epitaxy.foreign.wire import send

_START_BYTES = 16
_RECURSION_LIMIT = 10_000
"""Frames; the encoder takes five for each of the ``MAX_DEPTH`` levels of a tree."""


def answer(request: dict[str, Any]) -> None:
    """Sends what ``request`` asks for, and in the end ``end`` or, with the reason, ``fail``.

    Args:
        request: ``mode`` (``pickles`` or ``lmdb``), ``path``, ``allow``, ``select``, ``decode``,
            ``memory`` and ``unpacked`` (bytes).
    """
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints cannot break a message
    limits.end_with_parent()
    sys.setrecursionlimit(_RECURSION_LIMIT)
    reader = _Reader(stream, request)
    try:
        if request["mode"] == "lmdb":
            reader.database()
        else:
            reader.pickles()
        reader.say(kind="end")
    except BrokenPipeError:
        raise
    except (Unpackable, Unusable) as error:
        reader.say(kind="fail", why=str(error))
    except MemoryError:
        reader.say(kind="fail", why=_memory(request))
    except OSError as error:
        reader.say(kind="fail", why=f"cannot be read: {error}")
    except ImportError as error:
        reader.say(kind="fail", why=f"needs a package that is not installed: {error}")


class _Reader:
    def __init__(self, stream: BinaryIO, request: dict[str, Any]) -> None:
        self._stream = stream
        self._request = request
        self._policy = Policy(request["allow"])

    def say(self, **header: Any) -> None:
        """Sends a message without bytes."""
        send(self._stream, header)

    def pickles(self) -> None:
        """Sends the objects of a file of pickles, or the items of them."""
        source = Source(self._request["path"], self._request["unpacked"], self._tick)
        with io.BufferedReader(source, BUFFER_BYTES) as stream:
            self._begin()
            number = 0
            while start := stream.peek(_START_BYTES)[:_START_BYTES]:
                if not self._pickle(stream, number, start):
                    return
                number += 1
        if not number:
            raise Unusable("is empty, expected a pickle")

    def _begin(self) -> None:
        limits.limit_memory(self._request["memory"])
        limits.forbid_writing()

    def _pickle(self, stream: Any, number: int, start: bytes) -> bool:
        """Sends one pickle; returns whether another can follow."""
        zipped = start.startswith(ZIP_START)
        self._policy.forget()
        try:
            body = io.BytesIO(stream.read()) if zipped else stream
            root = read_pickle(body, self._policy, start)
        except Unusable as error:
            self._bad(str(number), error)
            return False
        if self._request["select"] == "items":
            self._items(number, root)
        else:
            self._item(str(number), root)
        return not zipped

    def _items(self, number: int, root: Any) -> None:
        """Sends the items of a dict or list, and forgets each one."""
        prefix = f"{number}/" if number else ""
        if isinstance(root, dict):
            for key in list(root):
                self._item(prefix + _key_name(key), root.pop(key), among=True)
        elif isinstance(root, (list, tuple)):
            rest = list(reversed(root))
            del root
            for index in range(len(rest)):
                self._item(f"{prefix}{index}", rest.pop(), among=True)
        else:
            kind = root.type_name if isinstance(root, StandIn) else type(root).__name__
            self._bad(str(number), Unusable(f"it is a {kind}, expected a dict or list of items"))

    def database(self) -> None:
        """Sends the values of an LMDB file."""
        import lmdb

        from epitaxy.foreign.child import lmdb_file

        path = lmdb_file.database_file(self._request["path"])
        try:
            with lmdb_file.opened(path, self._request["unpacked"], self._tick) as environment:
                self._begin()
                for name, raw in lmdb_file.items(environment):
                    self._value(name, raw)
        except lmdb.Error as error:
            raise Unusable(f"is damaged, or no LMDB file ({error})") from error

    def _value(self, name: str, raw: bytes) -> None:
        self._policy.forget()
        try:
            limit = self._request["unpacked"]
            root = read_value(raw, self._policy, self._request["decode"], limit)
        except (Unusable, MemoryError) as error:
            self._bad(name, error)
        else:
            self._item(name, root)

    def _item(self, name: str, root: Any, *, among: bool = False) -> None:
        """Sends an object; ``among`` others of one pickle, only the types inside it count."""
        writer = TreeWriter()
        try:
            if self._policy.refused and not among:
                raise Refused(next(iter(self._policy.refused)))
            header = {"kind": "item", "name": name, "tree": writer.node(root)}
            send(self._stream, header, writer.parts)
        except Refused as error:
            self.say(kind="refused", name=name, why=str(error))
        except (Unusable, MemoryError, ValueError, RecursionError) as error:
            self._bad(name, error)

    def _bad(self, name: str, error: Exception) -> None:
        """Sends why a record is unusable; a refused type explains whatever came of it."""
        if self._policy.refused:
            self.say(kind="refused", name=name, why=next(iter(self._policy.refused)))
        else:
            why = _memory(self._request) if isinstance(error, MemoryError) else str(error)
            self.say(kind="bad", name=name, why=why)

    def _tick(self) -> None:
        self.say(kind="tick")


def _key_name(key: Any) -> str:
    """Returns the name of an item of a dict; an object is named by what it was made with."""
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    return key if isinstance(key, str) else _described(key)


def _described(key: Any) -> str:
    if isinstance(key, (str, int, float, bytes, type(None))):
        return repr(key)
    parts = key if isinstance(key, tuple) else getattr(key, "args", ())
    kind = key.type_name.rpartition(".")[2] if isinstance(key, StandIn) else ""
    return f"{kind}({', '.join(map(_described, parts))})"


def _memory(request: dict[str, Any]) -> str:
    return (
        f"needs more than the {request['memory'] / 2**30:g} GiB that its reader may use: it is "
        "damaged, or needs limits=Limits(memory=...)"
    )
