"""Reading a prepared data set: rows in, encoded records or columns out."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.codec import decode, record_digest
from epitaxy.data.integrity import Policy, check_policy, default_policy
from epitaxy.data.manifest import (
    REMEDY,
    FileEntry,
    Manifest,
    ShardEntry,
    check_content,
    check_size,
)
from epitaxy.data.names import Names, StoredNames
from epitaxy.data.remote import Remote, is_uri, open_remote
from epitaxy.data.sidecars import composition, interpolate_neighbors, texts
from epitaxy.errors import RecordError, ShardError, closest
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec

Statistic = Literal["scalar", "root_mean_square", "largest"]
"""What sidecar arrays hold of labels: the value of a scalar; of any other label the root mean
square and the largest absolute value of its components."""

_intact: set[tuple[Any, ...]] = set()


class Storage(Protocol):
    """A module that writes and reads one kind of shard."""

    SUFFIX: str

    def write_shard(self, path: Path, first: int, blobs: Iterable[bytes]) -> int:
        """Writes encoded records as rows ``first``, …; returns how many."""
        ...

    def read_shard(self, place: Path | str, rows: Sequence[int]) -> list[bytes]:
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
        path: Its folder, absolute; of one behind a URI the mirror of its small files.
        manifest: What it holds.
        verify_when: How reading checks shards: see ``open``.
        remote: Where the shards of one behind a URI are.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        verify_when: Policy | None = None,
        remote: Remote | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.verify_when = verify_when or default_policy(manifest, remote)
        self.remote = remote
        self._arrays: dict[str, np.ndarray] = {}
        self._files = {entry.path: entry for entry in manifest.files}
        self._firsts = [shard.first for shard in manifest.shards]
        self._places = [path / shard.path for shard in manifest.shards]

    @classmethod
    def open(
        cls,
        path: str | Path,
        version: int | None = None,
        *,
        verify: Policy | None = None,
        cache_bytes: int | None = None,
    ) -> Dataset:
        """Returns the data set in a folder or behind a URI.

        Args:
            path: The folder, or a URI such as ``s3://bucket/frames``.
            version: Number of an earlier version of a data set that was appended to.
            verify: When reading checks a shard: ``first_read`` hashes it whole, once in every
                process (1 s per GB); ``on_suspicion`` compares each record with its digest and
                hashes the shard when one differs; ``never`` trusts it. By default the first, for
                data sets above 16 GB and behind a URI (where fetching checks) the second;
                ``EPITAXY_VERIFY`` says otherwise.
            cache_bytes: Of the cache of fetched shards; ``EPITAXY_CACHE_BYTES`` by default.

        Raises:
            ShardError: If it is missing, incomplete, damaged or of a newer format.
            ConfigError: If there is no such version, or a URI needs another package.
        """
        check_policy(verify)
        if is_uri(path):
            remote, mirror = open_remote(str(path), version, cache_bytes)
            return cls(mirror, Manifest.load(mirror, version), verify, remote)
        folder = Path(path).resolve()
        manifest = Manifest.load(folder, version)
        for entry in (*manifest.shards, *manifest.files):
            check_size(folder, entry)
        return cls(folder, manifest, verify)

    def __len__(self) -> int:
        return self.manifest.num_records

    def __getstate__(self) -> tuple[Any, ...]:
        return self.path, self.manifest, self.verify_when, self.remote

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.name

    @property
    def location(self) -> str:
        """Its folder or URI, to open it again."""
        return str(self.path) if self.remote is None else self.remote.uri

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
        stored = self.has_column(keys)  # data sets of earlier versions have none
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
        if spec.rule == "minimum_image":
            edges = np.minimum(edges, self.num_atoms * (self.num_atoms - 1))
        if spec.max_neighbors is not None:
            most = self.num_atoms * spec.max_neighbors
            edges = most if spec.rule == "shell" else np.minimum(edges, most)
        return edges

    def statistic(self, name: Statistic, label: str) -> Float64[np.ndarray, " records"] | None:
        """Returns a statistic of a label in every record, NaN where missing; none without one."""
        column = f"{name}.{label}"
        return self._array(column) if self.has_column(column) else None

    def label_table(self, rows: np.ndarray) -> LabelTable:
        """Returns compositions and label columns of ``rows``; reads sidecars only."""
        rows = np.asarray(rows, dtype=np.int64)

        def columns(statistic: str) -> dict[str, np.ndarray]:
            names = {name: f"{statistic}.{name}" for name in self.fields}
            return {
                name: np.array(self._array(column)[rows])
                for name, column in names.items()
                if self.has_column(column)
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

        Shards are checked as ``open`` says.

        Raises:
            ShardError: If a shard is damaged or missing.
            IndexError: If a row is out of range.
        """
        # Plain Python: a single record is read as often as thousands, and in microseconds.
        wanted: list[int] = rows.tolist() if isinstance(rows, np.ndarray) else list(rows)
        if wanted and (min(wanted) < 0 or max(wanted) >= len(self)):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {wanted}")
        places: dict[int, list[int]] = {}
        for place, row in enumerate(wanted):
            places.setdefault(bisect_right(self._firsts, row) - 1, []).append(place)
        if len(places) == 1:
            return self._read_shard(next(iter(places)), wanted)
        blobs: list[bytes] = [b""] * len(wanted)
        for index in sorted(places):
            found = self._read_shard(index, [wanted[place] for place in places[index]])
            for place, blob in zip(places[index], found, strict=True):
                blobs[place] = blob
        return blobs

    def digests(self, rows: np.ndarray) -> list[bytes]:
        """Returns what ``record_digest`` gave for the records of ``rows``, as raw bytes."""
        return [line.tobytes() for line in self._array("digests")[rows]]

    def record(self, row: int) -> CrystalRecord:
        """Returns the record in ``row``."""
        return decode(self.read([row])[0])

    def verify(self, *, workers: int = 1, progress: bool = False) -> None:
        """Checks every file against its checksum and every record against all rules.

        Args:
            workers: Processes that read shards.
            progress: Whether to show a progress bar (on a terminal).

        Raises:
            ShardError: Naming every file and record that is damaged.
        """
        from epitaxy.data.integrity import check_everything

        check_everything(self, workers=workers, progress=progress)

    def _read_shard(self, index: int, rows: list[int]) -> list[bytes]:
        """Returns records of one shard; a fetched copy that turns out damaged is fetched again."""
        try:
            return self._read_checked(index, rows)
        except ShardError:
            if self.remote is None or not self.remote.cache.discard(self.manifest.shards[index]):
                raise
        return self._read_checked(index, rows)

    def _read_checked(self, index: int, rows: list[int]) -> list[bytes]:
        shard = self.manifest.shards[index]
        place: Path | str = self._places[index]
        if self.remote is not None:
            place = self.remote.place(shard, self.manifest.storage)
        elif self.verify_when == "first_read":
            _check_once(self._places[index], self.path, shard)
        elif self.manifest.storage == "lmdb":
            check_size(self.path, shard)  # reading behind the end of a cut file would be a SIGBUS
        try:
            blobs = storage(self.manifest.storage).read_shard(place, rows)
        except ShardError:
            self._suspect(shard)
            raise
        if self.verify_when == "on_suspicion":
            self._compare(shard, place, rows, blobs)
        return blobs

    def _compare(
        self, shard: ShardEntry, place: Path | str, rows: list[int], blobs: Sequence[bytes]
    ) -> None:
        digests = self.digests(np.array(rows))
        wrong = [
            row
            for row, blob, digest in zip(rows, blobs, digests, strict=True)
            if record_digest(blob) != digest.hex()
        ]
        if wrong:
            self._suspect(shard)
            raise ShardError(
                f"{place}: row {wrong[0]} is not the record it should be (another digest); {REMEDY}"
            )

    def _suspect(self, shard: ShardEntry) -> None:
        """Hashes a shard that gave something wrong, to say whether its file is damaged."""
        if self.remote is None:
            check_content(self.path, shard)

    def column(self, name: str) -> np.ndarray:
        """Returns a sidecar array, by memory map.

        Raises:
            ShardError: If there is none of that name, or it is damaged.
        """
        return self._array(name)

    def has_column(self, column: str) -> bool:
        """Whether there is a sidecar array of that name."""
        return f"{self.manifest.sidecars}/{column}.npy" in self._files

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            entry = self._files.get(f"{self.manifest.sidecars}/{name}.npy")
            if entry is None:
                raise ShardError(f"{self.path} has no array {name!r}; prepare the data set again")
            _check_once(self.path / entry.path, self.path, entry)
            array: Any = np.load(self.path / entry.path, mmap_mode="r", allow_pickle=False)
            self._arrays[name] = array
        return self._arrays[name]


def _check_once(place: Path, folder: Path, entry: FileEntry) -> None:
    """Checks a file against its checksum unless this process has done so since it changed."""
    try:
        status = os.stat(place)
        key = (entry.sha256, status.st_dev, status.st_ino, status.st_mtime_ns)
    except OSError:
        key = (entry.sha256, 0, 0, 0)
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
