"""Turns what a pickle made into a plain tree: dicts, lists, numbers, text, bytes, arrays.

==============================  ==================================================================
in the pickle                   in the tree
==============================  ==================================================================
object of a foreign class       ``{"@type": "pkg.module.Class", **state}``
… made with arguments           ``"@args": [...]``, ``"@kwargs": {...}``
… made by calling an object     ``"@called": {"@type": ...}``, if that has content
… whose state is no dict        ``"@state": ...``; likewise if a key of the state begins with ``@``
… derived from list or dict     ``"@list": [...]``, ``"@dict": {...}``
dict with keys that are no str  ``{"@items": [[key, value], ...]}``
tuple, deque                    list
set, complex, range, slice      ``{"@type": "builtins.set", "@args": [...]}``
date and time                   ISO 8601 text; durations ``{"@type": …, "@args": [seconds]}``
dtype                           text such as ``<f8``
class or function as a value    ``{"@global": "pkg.module.name"}``
object inside itself            ``{"@cycle": type}``
structured array                dict of its columns
array of Python objects         nested lists
==============================  ==================================================================
"""

from __future__ import annotations

import datetime
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from epitaxy.foreign.child.arrays import Array, Dtype, from_state
from epitaxy.foreign.child.stand_ins import Function, Label, Refused, StandIn, Unusable
from epitaxy.foreign.child.tensors import Tensor
from epitaxy.foreign.wire import MAX_DEPTH, padded

MAX_NODES = 1_000_000_000
"""Most values in one tree, shared ones counted wherever they occur: a pickle of a few bytes can
describe more than any memory holds, by lists of the same list of the same list."""

_PLAIN = frozenset({type(None), bool, int, float, str})
_TEXT = frozenset({str})
_DATES = frozenset({datetime.datetime, datetime.date, datetime.time})


class TreeWriter:
    """Encodes one tree for ``epitaxy.foreign.wire``; use a new one for each message."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self._offset = 0
        self._begun = 0  # dicts, lists, arrays and bytes in the message
        self._nodes = 0
        self._depth = 0
        self._numbers: dict[int, int] = {}  # id of an object -> its number
        self._sizes: dict[int, int] = {}  # id of a finished object -> values in it
        self._kept: list[Any] = []  # ids stay unique while the objects live

    def node(self, value: Any) -> Any:
        """Returns ``value`` as JSON, and adds its bytes to ``parts``.

        Raises:
            Refused: If it holds an object of a type that is not allowed.
            Unusable: If it cannot be a tree.
        """
        kind = type(value)
        if kind in _PLAIN:
            self._nodes += 1
            return value
        if isinstance(value, StandIn):
            return self._once(value, TreeWriter._stand_in)
        method = _METHODS.get(kind)
        if method is not None:
            return self._once(value, method)
        if kind in _DATES:
            return value.isoformat()
        if kind is Dtype:
            return value.resolve().str
        if isinstance(value, type) or kind in (Label, Function):
            return self._global(value)
        raise Unusable(f"it holds an object of type {kind.__name__}, which is no data")

    def _once(self, value: Any, write: Callable[[TreeWriter, Any], Any]) -> Any:
        """Writes an object, or a reference to it if it was written before."""
        key = id(value)
        if key in self._numbers:
            if key not in self._sizes:
                return self._dict([("@cycle", _name(value))])
            self._count(self._sizes[key])
            return ["r", self._numbers[key]]
        number, before = self._begun, self._nodes
        self._numbers[key] = number
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unusable(f"it is nested more than {MAX_DEPTH} levels deep")
        written = write(self, value)
        self._depth -= 1
        self._count(1)
        self._sizes[key] = self._nodes - before
        if self._begun == number:  # an array of one Python number became that number
            del self._numbers[key]
        return written

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise Unusable(f"it unfolds into more than {MAX_NODES} values")

    def _list(self, items: Iterable[Any]) -> list[Any]:
        self._begun += 1
        node = self.node
        return ["l", *[item if type(item) in _PLAIN else node(item) for item in items]]

    def _dict(self, items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        self._begun += 1
        node = self.node
        return {key: item if type(item) in _PLAIN else node(item) for key, item in items}

    def _sequence(self, value: Any) -> list[Any]:
        if len(value) == 5 and type(value[2]) is Dtype:  # state of a subclass of ndarray
            return self._resolved(from_state(value))
        self._count(len(value))
        return self._list(value)

    def _mapping(self, value: dict[Any, Any]) -> dict[str, Any]:
        self._count(len(value))
        if _TEXT.issuperset(map(type, value)):
            return self._dict(dict.items(value))
        pairs = [[key, item] for key, item in dict.items(value)]
        self._kept.append(pairs)
        return self._dict([("@items", pairs)])

    def _ordered(self, value: OrderedDict[Any, Any]) -> dict[str, Any]:
        """Writes an ``OrderedDict``; torch puts bookkeeping into an attribute of its own."""
        if vars(value).keys() - {"_metadata"}:
            content = dict(OrderedDict.items(value))
            self._kept.append(content)
            return self._dict(
                [("@type", "collections.OrderedDict"), ("@dict", content), ("@state", vars(value))]
            )
        return self._mapping(value)

    def _stand_in(self, value: StandIn) -> dict[str, Any]:
        if value.refused:
            raise Refused(value.type_name)
        entries: list[tuple[str, Any]] = [("@type", value.type_name)]
        for name, slot in (
            ("@args", "args"),
            ("@kwargs", "kwargs"),
            ("@called", "called"),
            ("@list", "listed"),
            ("@dict", "entries"),
        ):
            content = getattr(value, slot, None)
            if content is not None:
                entries.append((name, content))
        state = _merged(getattr(value, "state", None))
        if isinstance(state, dict) and all(
            type(key) is str and not key.startswith("@") for key in state
        ):
            entries += state.items()
        elif state is not None:
            entries.append(("@state", state))
        self._kept.append((entries, state))
        return self._dict(entries)

    def _set(self, value: set[Any] | frozenset[Any]) -> dict[str, Any]:
        try:
            items = sorted(value)
        except TypeError:
            items = list(value)
        return self._typed(f"builtins.{type(value).__name__}", items)

    def _typed(self, name: str, arguments: list[Any]) -> dict[str, Any]:
        self._kept.append(arguments)
        return self._dict([("@type", name), ("@args", arguments)])

    def _global(self, value: Any) -> dict[str, Any]:
        if isinstance(value, type) and issubclass(value, StandIn) and value.refused:
            raise Refused(value.type_name)
        return self._dict([("@global", _name(value))])

    def _bytes(self, value: bytes | bytearray) -> list[Any]:
        self._begun += 1
        offset = self._put(memoryview(bytes(value)))
        return ["b", offset, len(value)]

    def _array(self, value: np.ndarray) -> Any:
        kind = value.dtype.kind
        if value.dtype.names:
            columns = {name: value[name] for name in value.dtype.names}
            self._kept.append(columns)
            return self._dict(columns.items())
        if kind not in "biufcSUmM":
            raise Unusable(f"it holds an array of dtype {value.dtype}, which is no data")
        dtype = value.dtype.newbyteorder("=")
        if kind in "fc" and dtype.itemsize > (8 if kind == "f" else 16):
            dtype = np.dtype("f8" if kind == "f" else "c16")
        if not dtype.itemsize:  # empty texts
            dtype = np.dtype(f"{kind}1")
        plain = np.asarray(value, dtype, order="C")
        self._begun += 1
        offset = self._put(plain.reshape(-1).view(np.uint8).data if plain.nbytes else b"")
        return ["a", dtype.str, list(plain.shape), offset]

    def _resolved(self, value: np.ndarray | list[Any]) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value)
        self._kept.append(value)
        return self.node(value)

    def _put(self, part: bytes | memoryview) -> int:
        start = self._offset
        self.parts.append(part)
        self._offset += padded(memoryview(part).nbytes)
        return start


def _merged(state: Any) -> Any:
    """Returns a state of ``__dict__`` and ``__slots__`` as one dict."""
    if isinstance(state, tuple) and len(state) == 2 and type(state[1]) is dict:
        first = {} if state[0] is None else state[0]
        if type(first) is dict and not first.keys() & state[1].keys():
            return {**first, **state[1]}
    return state


def _name(value: Any) -> str:
    """Returns the name of a class or function, or of the type of an object."""
    if isinstance(value, (Label, Function)):
        return value.name
    kind = value if isinstance(value, type) else type(value)
    return kind.type_name if issubclass(kind, StandIn) else f"{kind.__module__}.{kind.__name__}"


_METHODS: dict[type, Callable[[TreeWriter, Any], Any]] = {
    list: TreeWriter._sequence,
    tuple: TreeWriter._sequence,
    dict: TreeWriter._mapping,
    OrderedDict: TreeWriter._ordered,
    set: TreeWriter._set,
    frozenset: TreeWriter._set,
    bytes: TreeWriter._bytes,
    bytearray: TreeWriter._bytes,
    np.ndarray: TreeWriter._array,
    Array: lambda writer, value: writer._resolved(value.resolve()),
    Tensor: lambda writer, value: writer._resolved(value.resolve()),
    complex: lambda writer, value: writer._typed("builtins.complex", [value.real, value.imag]),
    range: lambda writer, value: writer._typed(
        "builtins.range", [value.start, value.stop, value.step]
    ),
    slice: lambda writer, value: writer._typed(
        "builtins.slice", [value.start, value.stop, value.step]
    ),
    datetime.timedelta: lambda writer, value: writer._typed(
        "datetime.timedelta", [value.total_seconds()]
    ),
    datetime.timezone: lambda writer, value: writer._typed("datetime.timezone", [str(value)]),
}
