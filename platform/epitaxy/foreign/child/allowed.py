"""What a pickle may name, and the unpickler that asks.

Nothing named by a file is ever imported. A name is one of three things: a type or function of the
tables here, which is safe with any arguments; an allowed foreign class, which becomes a stand-in;
or refused, which becomes a stand-in too and makes the record that holds it a bad one.
"""

from __future__ import annotations

import datetime
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from epitaxy.foreign.child import arrays, tensors
from epitaxy.foreign.child.stand_ins import (
    Function,
    Label,
    StandIn,
    Unpackable,
    Unusable,
    stand_in,
)
from epitaxy.foreign.packages import PACKAGES

CLASSES = (
    "decimal.Decimal",
    "fractions.Fraction",
    "torch_sparse.SparseTensor",
    "uuid.SafeUUID",
    "uuid.UUID",
)
_ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8", "utf8")
_KINDS: tuple[type, ...] = (
    bool,
    complex,
    dict,
    float,
    frozenset,
    int,
    list,
    range,
    set,
    slice,
    tuple,
)
_BUILTINS = ("builtins", "__builtin__")
_GETATTR = "builtins.getattr"
_MEMBER = stand_in(_GETATTR)
_COPYREG = ("copyreg", "copy_reg")


class Policy:
    """Decides what a name in a pickle stands for.

    Args:
        allow: Further classes by dotted name, or all below a name: ``pkg.Class``, ``pkg.*``.

    Attributes:
        refused: Names refused since ``forget``, in the order in which they came.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self._classes = {*CLASSES, *(name for name in allow if not name.endswith(".*"))}
        prefixes = [name[:-1] for name in allow if name.endswith(".*")]
        self._prefixes = (*(f"{package}." for package in PACKAGES), *prefixes)
        self._made: dict[str, type[StandIn]] = {}
        self._names = dict(NAMES)
        name = "torch.storage._load_from_bytes"
        self._names[name] = Function(name, self._load_storage)
        for module in _BUILTINS:
            self._names[f"{module}.getattr"] = Function(_GETATTR, self._attribute)
        self.refused: dict[str, None] = {}

    def forget(self) -> None:
        """Starts a new record: nothing was refused yet."""
        self.refused = {}

    def find(self, module: str, name: str) -> Any:
        """Returns what ``module.name`` stands for."""
        full = f"{module}.{name}"
        known = self._names.get(full)
        if known is not None:
            return known
        allowed = full in self._classes or full.startswith(self._prefixes)
        if not allowed:
            self.refused[full] = None
        if full not in self._made:
            self._made[full] = stand_in(full, refused=not allowed)
        return self._made[full]

    def load(self, stream: BinaryIO, persistent: Callable[[Any], Any] | None = None) -> Any:
        """Returns the next object of a stream of pickles.

        Raises:
            Unusable: If the pickle is damaged or does something that no data needs.
        """
        try:
            return SafeUnpickler(stream, self, persistent).load()
        except (Unusable, Unpackable, MemoryError, OSError):
            raise
        except EOFError as error:
            raise Unusable("the pickle is cut off") from error
        except Exception as error:  # a damaged pickle can raise anything
            raise Unusable(f"the pickle is damaged ({type(error).__name__}: {error})") from error

    def _load_storage(self, raw: Any) -> Any:
        """Takes the place of torch's own function, which unpickles without any restriction."""
        if not isinstance(raw, (bytes, bytearray)):
            raise Unusable("the storage of a tensor is given by something other than bytes")
        read = tensors.read_zip if raw.startswith(tensors.ZIP_START) else tensors.read_legacy
        return read(io.BytesIO(raw), self.load)

    def _attribute(self, owner: Any, name: Any) -> Any:
        """Returns what stands for a member of a foreign enumeration, or for a bound method.

        Python 3.11.0 to 3.11.3 pickle the former this way, every Python the latter (calculators
        of ASE have some). No attribute of anything is looked up.
        """
        foreign = isinstance(owner, StandIn) or _is_stand_in(owner)
        if not foreign or not isinstance(name, str):
            self.refused[_GETATTR] = None
            return stand_in(_GETATTR, refused=True)(owner, name)
        return owner(name) if isinstance(owner, type) else _MEMBER(owner, name)


def _is_stand_in(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StandIn)


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def __init__(
        self, stream: BinaryIO, policy: Policy, persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(stream, encoding="latin1")  # bytes of Python 2 survive as text
        self._policy = policy
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a name stands for."""
        return self._policy.find(module, name)

    def persistent_load(self, identity: Any) -> Any:
        """Returns the storage that a file of ``torch.save`` means."""
        if self._persistent is None:
            raise Unusable("the pickle refers to objects outside of it (a persistent id)")
        return self._persistent(identity)


def _encode(text: Any, encoding: Any = "utf-8", *errors: Any) -> bytes:
    if not isinstance(text, str) or encoding not in _ENCODINGS:
        raise Unusable(f"text is encoded as {str(encoding)[:20]!r}")
    return text.encode(encoding)


def _bytes(*arguments: Any) -> bytes:
    if arguments and isinstance(arguments[0], str):
        return _encode(*arguments)
    return bytes(*arguments)


def _bytearray(*arguments: Any) -> bytearray:
    return bytearray(_bytes(*arguments))


def _text(text: Any = "") -> str:
    if not isinstance(text, (str, int, float)):
        raise Unusable(f"text is made of {type(text).__name__}")
    return str(text)


def _defaultdict(factory: Any = None, *arguments: Any) -> dict[Any, Any]:
    return dict(*arguments)


def _deque(items: Any = (), *length: Any) -> list[Any]:
    return list(items)


def _new(kind: Any, *arguments: Any) -> Any:
    return _new_with(kind, arguments, {})


def _new_with(kind: Any, arguments: Any, keywords: Any) -> Any:
    if not _is_stand_in(kind):
        raise Unusable("copyreg makes an object of something other than an allowed class")
    return kind(*arguments, **keywords)


def _reconstruct(kind: Any, base: Any, state: Any) -> Any:
    """Returns an object of protocol 0 or 1; ``state`` is the value of a built-in base class."""
    return _new(kind) if isinstance(base, Label) else _new(kind, state)


def _names() -> Iterator[tuple[str, Any]]:
    functions: dict[str, Callable[..., Any]] = {
        "bytes": _bytes,
        "bytearray": _bytearray,
        "str": _text,
        "unicode": _text,
    }
    for module in _BUILTINS:
        for name, function in functions.items():
            yield f"{module}.{name}", Function(f"builtins.{name}", function)
        yield from ((f"{module}.{kind.__name__}", kind) for kind in _KINDS)
        yield f"{module}.long", int
        yield f"{module}.xrange", range
        yield f"{module}.object", Label("builtins.object")
    for module in _COPYREG:
        for name, function in (
            ("_reconstructor", _reconstruct),
            ("__newobj__", _new),
            ("__newobj_ex__", _new_with),
        ):
            yield f"{module}.{name}", Function(f"copyreg.{name}", function)
    yield "_codecs.encode", Function("_codecs.encode", _encode)
    yield "collections.OrderedDict", OrderedDict
    yield "collections.defaultdict", Function("collections.defaultdict", _defaultdict)
    yield "collections.Counter", Function("collections.Counter", dict)
    yield "collections.deque", Function("collections.deque", _deque)
    for kind in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta):
        yield f"datetime.{kind.__name__}", kind
    yield "datetime.timezone", datetime.timezone


NAMES: Mapping[str, Any] = {**dict(_names()), **arrays.NAMES, **tensors.NAMES}
