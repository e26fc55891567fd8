"""Sidecar arrays collected shard by shard on disk, and joined into files at the end.

What an import keeps in memory is the part of the shard that is being written. A part is a ``.npz``
file; joining reads one array of one part at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from epitaxy.data.sidecars import NEIGHBOR_RADII

_LENGTHS = "num_atoms"
_OFFSETS = "_offsets"
_CONSTANT = "neighbor_radii"
_BY_COLUMN = "neighbors"

Arrays = Mapping[str, np.ndarray]


class StoredPart(Mapping[str, np.ndarray]):
    """The arrays of a part file, read when they are asked for; the file is not kept open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path, allow_pickle=False) as stored:
            self._names = tuple(stored.files)

    def __getitem__(self, name: str) -> np.ndarray:
        with np.load(self._path, allow_pickle=False) as stored:
            values: np.ndarray = stored[name]
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_part(path: Path, arrays: Arrays) -> None:
    """Writes a part file."""
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **dict(arrays))


def join(parts: Sequence[Arrays], folder: Path, *, without: Iterable[str] = ()) -> None:
    """Writes the arrays of all parts, one after the other, as ``.npy`` files into ``folder``.

    A label's column that a part lacks is NaN for its records.

    Args:
        parts: In row order; at least one.
        folder: Folder to make.
        without: Arrays to leave out.
    """
    folder.mkdir(parents=True)
    names = {name for part in parts for name in part} - set(without)
    for name in sorted(names):
        path = folder / f"{name}.npy"
        if name == _CONSTANT:
            np.save(path, parts[0][name], allow_pickle=False)
        elif name == _BY_COLUMN:
            _write_by_column(path, parts)
        else:
            _write(path, [_chunks(parts, name), _chunks(parts, name)])


def _chunks(parts: Sequence[Arrays], name: str) -> Iterator[np.ndarray]:
    """Yields an array part by part, as it stands in the joined one."""
    base = 0
    for index, part in enumerate(parts):
        if name not in part:
            yield np.full(len(part[_LENGTHS]), np.nan)
        elif name.endswith(_OFFSETS):
            offsets = part[name]
            yield base + (offsets[1:] if index else offsets)
            base += int(offsets[-1])
        else:
            yield part[name]


def _write(path: Path, passes: Sequence[Iterator[np.ndarray]]) -> None:
    """Writes the chunks of the second pass behind the header that the first one tells."""
    count, sample = 0, np.zeros(0)
    for chunk in passes[0]:
        count, sample = count + len(chunk), chunk
    header = _header(sample.dtype, (count, *sample.shape[1:]))
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in passes[1]:
            stream.write(np.ascontiguousarray(chunk, dtype=sample.dtype).data)


def _write_by_column(path: Path, parts: Sequence[Arrays]) -> None:
    """Writes the neighbour counts column by column: a plan reads the counts of one radius."""
    count = sum(len(part[_LENGTHS]) for part in parts)
    header = _header(np.dtype(np.int32), (count, len(NEIGHBOR_RADII)), fortran_order=True)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for column in range(len(NEIGHBOR_RADII)):
            for part in parts:
                counts = part[_BY_COLUMN][:, column]
                stream.write(np.ascontiguousarray(counts, dtype=np.int32).data)


def _header(
    dtype: np.dtype, shape: tuple[int, ...], *, fortran_order: bool = False
) -> dict[str, object]:
    descr = np.lib.format.dtype_to_descr(dtype)
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape}


def stored_digest(arrays: Callable[[str], np.ndarray]) -> str:
    """Returns the data digest of records whose sidecar arrays ``arrays`` gives by name.

    It is ``data_digest`` of the ids and record digests, for any number of records: what grows is
    the order of the ids, 8 bytes each.
    """
    import pyarrow
    from pyarrow import compute

    content, offsets, digests = arrays("ids"), arrays("ids_offsets"), arrays("digests")
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(content)]
    ids = pyarrow.Array.from_buffers(pyarrow.large_binary(), len(digests), buffers)
    total = hashlib.sha256()
    for row in compute.sort_indices(ids).to_numpy():
        identity = content[offsets[row] : offsets[row + 1]].tobytes()
        total.update(b"%b\0%b\n" % (identity, digests[row].tobytes().hex().encode()))
    return total.hexdigest()


def folder_digest(folder: Path) -> str:
    """Returns the data digest of the records whose sidecar arrays lie in ``folder``."""

    def load(name: str) -> np.ndarray:
        array: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    return stored_digest(load)
