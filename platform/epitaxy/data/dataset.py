"""Reading a prepared data set: rows in, encoded records or columns out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.codec import decode, record_digest
from epitaxy.data.manifest import FileEntry, Manifest, check_content, check_size
from epitaxy.data.names import Names, StoredNames
from epitaxy.data.sidecars import FOLDER as SIDECARS
from epitaxy.data.sidecars import composition, interpolate_neighbors, texts
from epitaxy.errors import RecordError, ShardError, closest
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec

_VERIFY_BLOCK = 256
_intact: set[tuple[Any, ...]] = set()


class Storage(Protocol):
    """A module that writes and reads one kind of shard."""

    SUFFIX: str

    def write_shard(self, path: Path, first: int, blobs: Iterable[bytes]) -> int:
        """Writes encoded records as rows ``first``, …; returns how many."""
        ...

    def read_shard(self, path: Path, rows: Sequence[int]) -> list[bytes]:
        """Returns the encoded records of ``rows``."""
        ...


def storage(name: str) -> Storage:
    """Returns the module for ``lmdb`` or ``zarr`` shards; each is imported only when used.

    Raises:
        ShardError: If there is no such storage.
    """
    if name == "lmdb":
        from epitaxy.data import lmdb_shard

        return cast("Storage", lmdb_shard)
    if name == "zarr":
        from epitaxy.data import zarr_shard

        return cast("Storage", zarr_shard)
    raise ShardError(f"unknown shard format {name!r}; {closest(name, ('lmdb', 'zarr'))}")


class Dataset:
    """A prepared data set. Cheap to pickle; every process opens files for itself, when needed.

    Attributes:
        path: Its folder, absolute.
        manifest: What it holds.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays: dict[str, np.ndarray] = {}
        self._files = {entry.path: entry for entry in manifest.files}
        self._firsts = np.array([shard.first for shard in manifest.shards], dtype=np.int64)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Returns the data set in folder ``path``.

        Raises:
            ShardError: If it is missing, incomplete, damaged or of a newer format.
        """
        folder = Path(path).resolve()
        manifest = Manifest.load(folder)
        for entry in (*manifest.shards, *manifest.files):
            check_size(folder, entry)
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self.manifest.num_records

    def __getstate__(self) -> tuple[Path, Manifest]:
        return self.path, self.manifest

    def __setstate__(self, state: tuple[Path, Manifest]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.name

    @property
    def data_digest(self) -> str:
        """Hash over the sorted (id, record digest) pairs, the same for every storage."""
        return self.manifest.data_digest

    @property
    def fields(self) -> dict[str, LabelField]:
        """Labels that occur, by name; a record may lack any of them."""
        return {field.name: field for field in self.manifest.fields}

    @cached_property
    def ids(self) -> np.ndarray:
        """Record ids in row order, (records,) of str."""
        return texts(self._array("ids"), self._array("ids_offsets"))

    @cached_property
    def groups(self) -> np.ndarray:
        """Group (material) of each record, (records,) of str."""
        return texts(self._array("groups"), self._array("groups_offsets"))

    @cached_property
    def id_names(self) -> Names:
        """Record ids in row order, decoded only where they are looked at."""
        return self._names("ids", "id_keys")

    @cached_property
    def group_names(self) -> Names:
        """Group of each record, decoded only where it is looked at."""
        return self._names("groups", "group_keys")

    def _names(self, name: str, keys: str) -> Names:
        stored = f"{SIDECARS}/{keys}.npy" in self._files  # data sets of earlier versions have none
        return StoredNames(
            self._array(name),
            self._array(f"{name}_offsets"),
            self._array(keys) if stored else None,
        )

    @property
    def num_atoms(self) -> Int64[np.ndarray, " records"]:
        """Atoms per record."""
        return self._array("num_atoms")

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {identity: row for row, identity in enumerate(self.ids.tolist())}

    def rows_of(self, ids: Iterable[str]) -> Int64[np.ndarray, " ids"]:
        """Returns the row of each id.

        Raises:
            RecordError: If an id is not in the data set.
        """
        try:
            return np.array([self._rows[str(identity)] for identity in ids], dtype=np.int64)
        except KeyError as error:
            raise RecordError(f"{self.path} holds no record {error.args[0]!r}") from error

    def num_edges(self, spec: GraphSpec) -> Int64[np.ndarray, " records"]:
        """Returns the directed edges ``spec`` gives per record, estimated from neighbour counts.

        Exact at the stored radii without a cap, for padded graphs and for compositions; shells
        that are kept whole may add to it.
        """
        if spec.rule == "composition":
            return self.num_atoms**2
        if spec.padded and spec.max_neighbors is not None:
            return self.num_atoms * spec.max_neighbors
        radii, counts = self._array("neighbor_radii"), self._array("neighbors")
        edges = interpolate_neighbors(radii, counts, spec.cutoff)
        if spec.max_neighbors is not None:
            most = self.num_atoms * spec.max_neighbors
            edges = most if spec.rule == "shell" else np.minimum(edges, most)
        return edges

    def largest(self, label: str) -> Float64[np.ndarray, " records"] | None:
        """Returns the largest absolute component of a label in every record, NaN where missing."""
        column = f"largest.{label}"
        return self._array(column) if f"{SIDECARS}/{column}.npy" in self._files else None

    def label_table(self, rows: np.ndarray) -> LabelTable:
        """Returns compositions and label columns of ``rows``; reads sidecars only."""
        rows = np.asarray(rows, dtype=np.int64)

        def columns(statistic: str) -> dict[str, np.ndarray]:
            names = {name: f"{statistic}.{name}" for name in self.fields}
            return {
                name: np.array(self._array(column)[rows])
                for name, column in names.items()
                if f"{SIDECARS}/{column}.npy" in self._files
            }

        return LabelTable(
            num_atoms=np.array(self.num_atoms[rows]),
            composition=composition(self._array, rows),
            scalars=columns("scalar"),
            root_mean_square=columns("root_mean_square"),
            largest=columns("largest"),
            units={name: field.unit for name, field in self.fields.items()},
        )

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded records of ``rows``, in their order; the same for every storage.

        The first read of a shard in a process checks the whole shard against its checksum: about
        1 µs per record, once. (A damaged LMDB file could otherwise end the process by SIGBUS.)

        Raises:
            ShardError: If a shard is damaged or missing.
            IndexError: If a row is out of range.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {wanted.tolist()}")
        shards = np.searchsorted(self._firsts, wanted, side="right") - 1
        blobs: list[bytes] = [b""] * len(wanted)
        for index in np.unique(shards).tolist():
            path = self.path / self.manifest.shards[index].path
            places = np.flatnonzero(shards == index)
            _check_once(self.path, self.manifest.shards[index])
            found = storage(self.manifest.storage).read_shard(path, wanted[places].tolist())
            for place, blob in zip(places.tolist(), found, strict=True):
                blobs[place] = blob
        return blobs

    def digests(self, rows: np.ndarray) -> list[bytes]:
        """Returns what ``record_digest`` gave for the records of ``rows``, as raw bytes."""
        return [line.tobytes() for line in self._array("digests")[rows]]

    def record(self, row: int) -> CrystalRecord:
        """Returns the record in ``row``."""
        return decode(self.read([row])[0])

    def verify(self) -> None:
        """Checks every file against its checksum and every record against all rules.

        Raises:
            ShardError: Naming the first file or record that is damaged.
            RecordError: If a record breaks a rule that today's version checks.
        """
        for entry in (*self.manifest.shards, *self.manifest.files):
            check_content(self.path, entry)
        digests = [line.tobytes().hex() for line in self._array("digests")]
        for start in range(0, len(self), _VERIFY_BLOCK):
            rows = np.arange(start, min(start + _VERIFY_BLOCK, len(self)))
            for row, blob in zip(rows.tolist(), self.read(rows), strict=True):
                record = decode(blob).replace()
                expected = (self.ids[row], self.groups[row], digests[row])
                if (record.id, record.group, record_digest(blob)) != expected:
                    raise ShardError(f"{self.path}: row {row} is not the record {expected[0]!r}")
        if data_digest(self.ids.tolist(), digests) != self.data_digest:
            raise ShardError(f"{self.path}: the records are not those of the manifest")

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            entry = self._files.get(f"{SIDECARS}/{name}.npy")
            if entry is None:
                raise ShardError(f"{self.path} has no array {name!r}; prepare the data set again")
            _check_once(self.path, entry)
            array: Any = np.load(self.path / entry.path, mmap_mode="r", allow_pickle=False)
            self._arrays[name] = array
        return self._arrays[name]


def _check_once(folder: Path, entry: FileEntry) -> None:
    """Checks a file against its checksum unless this process has done so since it changed."""
    path = folder / entry.path
    status = path.stat() if path.exists() else None
    key = (str(path), entry.sha256, status and (status.st_ino, status.st_mtime_ns))
    if key not in _intact:
        check_content(folder, entry)
        _intact.add(key)


def data_digest(ids: Sequence[str], digests: Sequence[str]) -> str:
    """Returns the hash that identifies a set of records whatever their order and storage.

    Args:
        ids: Record ids.
        digests: Digest of each record's encoded bytes, hex.
    """
    total = hashlib.sha256()
    for identity, digest in sorted(zip(ids, digests, strict=True)):
        total.update(f"{identity}\0{digest}\n".encode())
    return total.hexdigest()
