"""Pickled numpy arrays, rebuilt from their description.

``numpy.dtype`` and ``numpy.ndarray`` would believe a pickle (field offsets beyond the item, flags
that turn bytes into object pointers), so what they receive here was checked before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from epitaxy.foreign.child.stand_ins import Function, Label, StandIn, Unusable

MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
ARRAY_TYPES = (
    "numpy.ndarray",
    "numpy.matrix",
    "numpy.matrixlib.defmatrix.matrix",
    "numpy.memmap",
    "numpy.core.memmap.memmap",
    "numpy.recarray",
    "numpy.rec.recarray",
    "numpy.core.records.recarray",
)
_SPEC = re.compile(r"[<>=|]?([biufcSUVOMm?])(\d{0,9})(\[\d{0,9}\w{1,7}\])?")


class Dtype:
    """A dtype as a pickle describes it: a code such as ``f8``, then a state."""

    __slots__ = ("_spec", "_state")

    def __init__(self, spec: Any, *flags: Any) -> None:
        if isinstance(spec, bytes):
            spec = spec.decode("latin1")
        if isinstance(spec, Label) and spec.value:
            spec = spec.value
        if not isinstance(spec, str) or not _SPEC.fullmatch(spec):
            raise Unusable(f"a numpy dtype is described by {str(spec)[:60]!r}, expected e.g. 'f8'")
        self._spec = spec
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5:
            raise Unusable("the state of a numpy dtype is no tuple of five or more")
        self._state = state

    def resolve(self, depth: int = 0) -> np.dtype[Any]:
        """Returns the dtype.

        Raises:
            Unusable: If its parts contradict each other.
        """
        if depth > 8:
            raise Unusable("a numpy dtype is nested more than 8 levels deep")
        try:
            return self._resolve(depth)
        except (TypeError, ValueError, OverflowError) as error:
            raise Unusable(f"a numpy dtype is damaged: {error}") from error

    def _resolve(self, depth: int) -> np.dtype[Any]:
        if not self._state:
            return np.dtype(self._spec)
        _, order, inner, names, fields = self._state[:5]
        if inner is not None:
            base, shape = inner
            return np.dtype((_dtype(base, depth), _shape(shape)))
        if names is not None:
            return self._record(names, fields, depth)
        dtype = np.dtype(self._spec + self._unit())
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order == "<":
            return dtype.newbyteorder("<")
        return dtype.newbyteorder(">") if order == ">" else dtype

    def _unit(self) -> str:
        """Unit of dates and durations: the last entry is ``(metadata, (b"ns", 1, 1, 1))``."""
        if self._spec[-2:] not in ("M8", "m8") or len(self._state) < 9:
            return ""
        unit, count = self._state[8][-1][:2]
        unit = unit.decode("latin1") if isinstance(unit, bytes) else unit
        return "" if unit == "generic" else f"[{int(count)}{unit}]"

    def _record(self, names: Any, fields: Any, depth: int) -> np.dtype[Any]:
        if not isinstance(names, tuple) or not isinstance(fields, dict):
            raise Unusable("a structured numpy dtype has no names or no fields")
        formats = [_dtype(fields[name][0], depth) for name in names]
        if any(item.hasobject for item in formats):
            raise Unusable("a structured numpy array holds Python objects; save it as a dict")
        offsets = [int(fields[name][1]) for name in names]
        size = int(self._state[5])
        return np.dtype(
            {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
        )


class Array:
    """A numpy array; empty until the unpickler hands over its state."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | list[Any] | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if self.value is not None:
            raise Unusable("the file tries to change a finished array")
        self.value = from_state(state)

    def resolve(self) -> np.ndarray | list[Any]:
        """Returns the array; one of Python objects as nested lists."""
        if self.value is None:
            raise Unusable("an array has no content")
        return self.value


def from_state(state: Any) -> np.ndarray | list[Any]:
    """Returns the array with the state ``(version, shape, dtype, Fortran order?, content)``.

    Raises:
        Unusable: If the content does not fill the shape.
    """
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise Unusable("the state of a numpy array is no tuple of five")
    shape, dtype, fortran, raw = state[-4:]
    sizes, kind = _shape(shape), _dtype(dtype)
    if kind.hasobject:
        if kind.kind != "O" or not isinstance(raw, list) or len(raw) != prod(sizes):
            raise Unusable("an array of Python objects does not fill its shape")
        return _nested(iter(raw), sizes)
    return _fill(raw, kind, sizes, "F" if fortran else "C")


def _nested(items: Iterator[Any], sizes: tuple[int, ...]) -> Any:
    if not sizes:
        return next(items)
    return [_nested(items, sizes[1:]) for _ in range(sizes[0])]


def _fill(raw: Any, dtype: np.dtype[Any], sizes: tuple[int, ...], order: Any) -> np.ndarray:
    if isinstance(raw, str):  # written by Python 2
        raw = raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)):
        raise Unusable(f"the content of an array is {type(raw).__name__}, expected bytes")
    if len(raw) != prod(sizes) * dtype.itemsize:
        raise Unusable(
            f"an array of shape {sizes} and dtype {dtype} needs {prod(sizes) * dtype.itemsize} "
            f"bytes, found {len(raw)}"
        )
    if not raw:
        return np.empty(sizes, dtype)
    return np.frombuffer(raw, dtype).reshape(sizes, order=order)


def _dtype(dtype: Any, depth: int = -1) -> np.dtype[Any]:
    if isinstance(dtype, str):
        dtype = Dtype(dtype)
    if not isinstance(dtype, Dtype):
        raise Unusable(f"the dtype of an array is {type(dtype).__name__}")
    return dtype.resolve(depth + 1)


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) > 32 or not all(type(size) is int and size >= 0 for size in sizes):
        raise Unusable(f"the shape of an array is {str(shape)[:60]}")
    return sizes


def _reconstruct(subtype: Any, *description: Any) -> Any:
    """Returns an empty array, or a stand-in if a subclass of ``ndarray`` was pickled."""
    if isinstance(subtype, type) and issubclass(subtype, StandIn):
        return subtype()
    if not isinstance(subtype, Label) or subtype.name not in ARRAY_TYPES:
        raise Unusable("numpy's _reconstruct is called with something other than an array type")
    return Array()


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """Returns a numpy scalar as a Python number, text or bytes; dates as ISO 8601 text."""
    kind = _dtype(dtype)
    if kind.hasobject:
        raise Unusable("a numpy scalar is a Python object")
    value = _fill(raw, kind, (), "C")
    if kind.kind in "mM":
        return str(value)
    return Array(value) if kind.kind == "V" else _python(value)


def _python(value: np.ndarray) -> Any:
    item = value[()].item()
    if isinstance(item, np.floating):  # long doubles stay numpy's
        return float(item)
    return complex(item) if isinstance(item, np.complexfloating) else item


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """Returns an array of protocol 5; ``axes`` is the order of axes in memory."""
    kind, sizes = _dtype(dtype), _shape(shape)
    if kind.hasobject or order not in ("C", "F", "A", "K"):
        raise Unusable("a pickled array has Python objects or an unknown order")
    value = _fill(raw, kind, sizes, order if order in ("C", "F") else "C")
    if order == "K" and axes is not None:
        if sorted(_shape(axes)) != list(range(len(sizes))):
            raise Unusable(f"the axes of an array are {str(axes)[:60]}")
        value = value.transpose(axes)
    return Array(value)


def _numpy_names() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        yield f"{module}._reconstruct", Function(f"{module}._reconstruct", _reconstruct)
        yield f"{module}.scalar", Function(f"{module}.scalar", _scalar)
    for module in NUMERIC:
        yield f"{module}._frombuffer", Function(f"{module}._frombuffer", _from_buffer)
    yield "numpy.dtype", Function("numpy.dtype", Dtype)
    for name in ARRAY_TYPES:
        yield name, Label(name)
    numbers = ("int", "uint", "float", "complex")
    for base, sizes in zip(
        numbers, ((8, 16, 32, 64),) * 2 + ((16, 32, 64), (64, 128)), strict=True
    ):
        for size in sizes:
            code = np.dtype(f"{base}{size}").str[1:]
            yield f"numpy.{base}{size}", Label(f"numpy.{base}{size}", code)
    for name in ("numpy.bool_", "numpy.bool"):
        yield name, Label(name, "b1")


NAMES: Mapping[str, Any] = dict(_numpy_names())
"""What a pickle may name of numpy."""
