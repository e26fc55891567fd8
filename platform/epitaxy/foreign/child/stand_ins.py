"""Inert objects that take the place of foreign classes: they record, and execute nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Unusable(Exception):
    """A record cannot be read; the message says why, without naming file or record."""


class Refused(Exception):
    """A record holds an object of a type that is not on the allow-list; the message is its name."""


class Unpackable(Exception):
    """A compressed file is damaged, or unpacks to more than is allowed."""


class StandIn:
    """An object of a foreign class: what it was made with, and what was put into it.

    Attributes that were never set are absent. There is no ``__dict__``, so a pickle cannot add
    any, and ``__setstate__`` keeps the unpickler from setting attributes itself.
    """

    __slots__ = ("args", "called", "entries", "kwargs", "listed", "state")

    type_name = ""
    refused = False

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    called: StandIn
    state: Any
    listed: list[Any]
    entries: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        """Records what it is made with."""
        self = object.__new__(cls)
        if args:
            self.args = args
        if kwargs:
            self.kwargs = kwargs
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any) -> StandIn:
        """Returns what stands for the result: batches of torch_geometric are made by an object."""
        made = type(self)(*args)
        if hasattr(self, "args") or hasattr(self, "state"):
            made.called = self
        return made

    def append(self, item: Any) -> None:
        """Records an item of a list."""
        self.extend((item,))

    def extend(self, items: Iterable[Any]) -> None:
        """Records items of a list."""
        try:
            self.listed.extend(items)
        except AttributeError:
            self.listed = list(items)

    def add(self, item: Any) -> None:
        """Records an item of a set."""
        self.extend((item,))

    def __setitem__(self, key: Any, value: Any) -> None:
        try:
            self.entries[key] = value
        except AttributeError:
            self.entries = {key: value}


def stand_in(type_name: str, *, refused: bool = False) -> type[StandIn]:
    """Returns a new class whose objects stand for those of ``type_name``.

    ``refused`` marks a type that is not allowed. It becomes inert as well, so that the rest of
    the file can be read, and is reported where one of its objects turns up.
    """
    attributes = {"__slots__": (), "type_name": type_name, "refused": refused}
    return type("StandIn", (StandIn,), attributes)


class Label:
    """A name that is handed on but never called: ``numpy.ndarray``, ``torch.FloatStorage``."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: str = "") -> None:
        self.name = name
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise Unusable(f"the file tries to change {self.name}")


class Function:
    """A function that a pickle may call; unlike a plain one it cannot be altered by a pickle."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """Returns what the function does."""
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise Unusable(f"the file tries to change {self.name}")
