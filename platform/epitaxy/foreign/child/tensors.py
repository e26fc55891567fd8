"""Tensors in pickles and in files of ``torch.save``, read without torch into numpy arrays.

A pickled tensor is a view (offset, shape, strides) of a storage. In a bare pickle the storage is
a byte string that holds a whole file of the format before torch 1.6: three pickles of a preamble,
a pickle that names storages by persistent ids, a pickled list of their keys, then for each key
its number of elements and its bytes. From torch 1.6 on the file is a zip archive.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

from epitaxy.foreign.child.stand_ins import Function, Label, StandIn, Unusable, stand_in

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
ZIP_START = b"PK\x03\x04"

DTYPES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "bf16",
    "float8_e5m2": "e5m2",
    "complex128": "c16",
    "complex64": "c8",
    "complex32": "c4",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "b1",
}
STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "ComplexDoubleStorage": "c16",
    "ComplexFloatStorage": "c8",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
    "UntypedStorage": "u1",
}
_STORED_AS = {"bf16": "u2", "e5m2": "u1", "c4": "u4"}  # numpy has no such numbers

Load = Callable[[BinaryIO, Callable[[Any], Any] | None], Any]
"""Loads one pickle from a stream, given a function that resolves persistent ids."""


class Storage:
    """The bytes under one or more tensors; they may arrive after the tensors."""

    __slots__ = ("dtype", "raw", "swapped")

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.raw: bytes | memoryview | None = None
        self.swapped = False

    def elements(self, dtype: str) -> np.ndarray:
        """Returns the storage as a flat array in this machine's byte order."""
        if self.raw is None:
            raise Unusable("the file lacks the storage of a tensor")
        kind = np.dtype(_STORED_AS.get(dtype, dtype))
        values = np.frombuffer(self.raw[: len(self.raw) // kind.itemsize * kind.itemsize], kind)
        return values.byteswap() if self.swapped else values

    def __setstate__(self, state: Any) -> None:
        raise Unusable("the file tries to change the storage of a tensor")


class Tensor:
    """A view of a storage, resolved once the storage has been read."""

    __slots__ = ("_dtype", "_offset", "_shape", "_storage", "_strides")

    def __init__(
        self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: str = ""
    ) -> None:
        if not isinstance(storage, Storage):
            raise Unusable(f"a tensor lies on {type(storage).__name__}, expected a storage")
        self._storage = storage
        self._offset, *_ = _sizes((offset,))
        self._shape = _sizes(shape)
        self._strides = _sizes(strides)
        self._dtype = dtype or storage.dtype
        if len(self._shape) != len(self._strides):
            raise Unusable(f"a tensor has shape {self._shape} and strides {self._strides}")

    def __setstate__(self, state: Any) -> None:
        raise Unusable("the file tries to change a finished tensor")

    def resolve(self) -> np.ndarray:
        """Returns the tensor; bfloat16 and float8 as float32.

        Raises:
            Unusable: If it reaches beyond its storage.
        """
        flat = self._storage.elements(self._dtype)
        if prod(self._shape) == 0:
            return _widened(np.empty(self._shape, flat.dtype), self._dtype)
        last = self._offset + sum(
            (size - 1) * stride for size, stride in zip(self._shape, self._strides, strict=True)
        )
        if last >= len(flat):
            raise Unusable(f"a tensor needs element {last} of a storage with {len(flat)}")
        steps = tuple(stride * flat.itemsize for stride in self._strides)
        start = self._offset * flat.itemsize
        view = np.ndarray(self._shape, flat.dtype, flat, start, steps)  # checks the bounds too
        return _widened(view, self._dtype)


def _widened(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "e5m2":
        return (values.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "c4":
        halves = np.stack([values & 0xFFFF, values >> 16], axis=-1).astype(np.uint16)
        return halves.view(np.float16).astype(np.float32).view(np.complex64)[..., 0]
    return values


def _sizes(sizes: Any) -> tuple[int, ...]:
    whole = isinstance(sizes, (tuple, list)) and all(type(n) is int and n >= 0 for n in sizes)
    if not whole or len(sizes) > 32:
        raise Unusable(f"a tensor is described by {str(sizes)[:60]}, expected whole numbers")
    return tuple(sizes)


def read_legacy(stream: BinaryIO, load: Load) -> Any:
    """Returns the object in a file of ``torch.save`` before 1.6.

    Raises:
        Unusable: If it is damaged.
    """
    storages: dict[str, Storage] = {}
    if load(stream, None) != LEGACY_MAGIC:
        raise Unusable("the bytes of a tensor do not begin as torch.save writes them")
    load(stream, None)  # version of the protocol
    machine = load(stream, None)
    little = not isinstance(machine, dict) or bool(machine.get("little_endian", True))
    root = load(stream, lambda identity: _named_storage(identity, storages))
    keys = load(stream, None)
    if not isinstance(keys, list):
        raise Unusable("a file of torch.save lacks the list of its storages")
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise Unusable(f"a file of torch.save lists an unknown storage {str(key)[:40]!r}")
        storage = storages[key]
        (count,) = struct.unpack("<q" if little else ">q", _exactly(stream, 8))
        width = np.dtype(_STORED_AS.get(storage.dtype, storage.dtype)).itemsize
        storage.raw = _exactly(stream, count * width)
        storage.swapped = little != (sys.byteorder == "little")
    return root


def read_zip(stream: BinaryIO, load: Load) -> Any:
    """Returns the object in a file of ``torch.save`` since 1.6.

    Raises:
        Unusable: If it is damaged, or another kind of archive.
    """
    try:
        archive = zipfile.ZipFile(stream)
        names = {name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"}
        if len(names) != 1:
            raise Unusable("it is a zip archive, but none that torch.save wrote (no data.pkl)")
        (name,) = names
        folder = name.removesuffix("data.pkl")
        order = folder + "byteorder"
        swapped = order in archive.namelist() and archive.read(order).decode() != sys.byteorder
        storages: dict[str, Storage] = {}
        root = load(
            io.BytesIO(archive.read(name)), lambda identity: _named_storage(identity, storages)
        )
        for key, storage in storages.items():
            storage.raw = archive.read(f"{folder}data/{key}")
            storage.swapped = swapped
    except (zipfile.BadZipFile, KeyError, NotImplementedError, UnicodeDecodeError) as error:
        raise Unusable(f"the zip archive of torch.save is damaged: {error}") from error
    return root


def _named_storage(identity: Any, storages: dict[str, Storage]) -> Storage:
    """Returns the storage of a persistent id ``("storage", type, key, location, size, …)``."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise Unusable(f"a persistent id is {str(identity)[:60]}, expected that of a storage")
    kind, key = identity[1:3]
    if not isinstance(kind, Label) or not kind.value or not isinstance(key, str):
        raise Unusable("a persistent id names no known type of storage")
    if len(identity) > 5 and identity[5] is not None:
        raise Unusable("a storage is a part of another; save the tensors with torch 1.6 or later")
    return storages.setdefault(key, Storage(kind.value))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    raw = stream.read(count) if count >= 0 else b""
    if len(raw) != count:
        raise Unusable(f"the storage of a tensor is cut off: {len(raw)} of {count} bytes")
    return raw


def _rebuild(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any = False, *rest: Any
) -> Tensor:
    return Tensor(storage, offset, shape, strides)


def _rebuild_typed(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    gradient: Any,
    hooks: Any,
    dtype: Any,
    *rest: Any,
) -> Tensor:
    if not isinstance(dtype, Label) or not dtype.value:
        name = dtype.type_name if isinstance(dtype, type) and issubclass(dtype, StandIn) else dtype
        raise Unusable(f"a tensor has the unknown dtype {str(name)[:40]}")
    return Tensor(storage, offset, shape, strides, dtype.value)


_WITH_STATE = stand_in("torch.Tensor")


def _parameter(data: Any, gradient: Any = True, hooks: Any = None, state: Any = None) -> Any:
    if not state:
        return data
    made = _WITH_STATE(data)
    made.__setstate__(state)
    return made


def _subclass(build: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """Returns a tensor; with attributes of its own or of a subclass it becomes a stand-in."""
    if not isinstance(build, Function) or not isinstance(arguments, tuple):
        raise Unusable("a tensor is rebuilt by something other than torch's own functions")
    tensor = build(*arguments)
    foreign = isinstance(kind, type) and issubclass(kind, StandIn)
    if not foreign and not state:
        return tensor
    made: StandIn = (kind if foreign else _WITH_STATE)(tensor)
    if state:
        made.__setstate__(state)
    return made


def _size(sizes: Any = ()) -> list[Any]:
    return list(_sizes(sizes))


def _torch_names() -> Iterator[tuple[str, Any]]:
    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _rebuild,
        "torch._utils._rebuild_tensor_v2": _rebuild,
        "torch._utils._rebuild_tensor_v3": _rebuild_typed,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type_v2": _subclass,
        "torch.Size": _size,
    }
    for name, function in functions.items():
        yield name, Function(name, function)
    for name, code in STORAGES.items():
        for module in ("torch", "torch.storage", "torch.cuda"):
            yield f"{module}.{name}", Label(f"{module}.{name}", code)
    for name, code in DTYPES.items():
        yield f"torch.{name}", Label(f"torch.{name}", code)
    for name in ("torch.Tensor", "torch._C.TensorBase", "torch.nn.parameter.Parameter"):
        yield name, Label(name)
    for name in ("torch.device", "torch._utils._rebuild_sparse_tensor"):
        yield name, stand_in(name)
    yield "torch.serialization._get_layout", stand_in("torch.layout")


NAMES: Mapping[str, Any] = dict(_torch_names())
"""What a pickle may name of torch, besides ``torch.storage._load_from_bytes``."""
