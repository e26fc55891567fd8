"""Several prepared data sets that train together: one row space, nothing copied.

Rows of the first data set come first, then those of the second, and so on. A rule splits them
together, so that a material that two of them have is in one split only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.dataset import Dataset, Statistic
from epitaxy.data.names import JoinedNames, Names
from epitaxy.data.plan import digest_of
from epitaxy.errors import ConfigError
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec

logger = logging.getLogger(__name__)


class Mixture:
    """Data sets side by side. Cheap to pickle, as they are.

    Args:
        members: The data sets, in the order that weights are given in.

    Attributes:
        members: The data sets.
        first_rows: Row at which each of them begins, and the number of rows last.

    Raises:
        ConfigError: If there is none, or one comes twice.
    """

    def __init__(self, members: Sequence[Dataset]) -> None:
        if not members:
            raise ConfigError("a mixture needs at least one data set")
        digests = [member.data_digest for member in members]
        for member, digest in zip(members, digests, strict=True):
            if digests.count(digest) > 1:
                raise ConfigError(
                    f"data names {member.location} more than once (or a copy of it); to see its "
                    "records more often, raise its number in mix.weights"
                )
        self.members = tuple(members)
        self.first_rows = np.cumsum([0, *map(len, members)])

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    @property
    def location(self) -> str:
        """The folders or URIs, for people."""
        return ", ".join(member.location for member in self.members)

    @property
    def name(self) -> str:
        """The members' names, for people."""
        return " + ".join(member.name for member in self.members)

    @property
    def data_digest(self) -> str:
        """Hash over the data digests of the members, in their order."""
        digests = [member.data_digest for member in self.members]
        return digests[0] if len(digests) == 1 else digest_of("\0".join(digests))

    @cached_property
    def fields(self) -> dict[str, LabelField]:
        """Labels on which all members that have them agree; a record may lack any of them."""
        everything = [member.fields for member in self.members]
        return {
            name: field
            for fields in everything
            for name, field in fields.items()
            if name not in self.conflicts
        }

    @cached_property
    def conflicts(self) -> dict[str, str]:
        """Labels that members define differently, and how: by unit, shape or label scheme."""
        found: dict[str, dict[LabelField, Any]] = {}
        for member in self.members:
            for name, field in member.fields.items():
                found.setdefault(name, {}).setdefault(field, member.location)
        return {
            name: "; ".join(f"{place}: {_told(field)}" for field, place in kinds.items())
            for name, kinds in found.items()
            if len(kinds) > 1
        }

    @property
    def ids(self) -> np.ndarray:
        """Record ids in row order, (records,) of str; members may share some."""
        return np.concatenate([member.ids for member in self.members])

    @property
    def groups(self) -> np.ndarray:
        """Group (material) of each record, (records,) of str."""
        return np.concatenate([member.groups for member in self.members])

    @cached_property
    def id_names(self) -> Names:
        """Record ids in row order, decoded only where they are looked at."""
        return JoinedNames([member.id_names for member in self.members])

    @cached_property
    def group_names(self) -> Names:
        """Group of each record, decoded only where it is looked at."""
        return JoinedNames([member.group_names for member in self.members])

    @cached_property
    def num_atoms(self) -> Int64[np.ndarray, " records"]:
        """Atoms per record."""
        return np.concatenate([member.num_atoms for member in self.members])

    def num_edges(self, spec: GraphSpec) -> Int64[np.ndarray, " records"]:
        """Returns the directed edges ``spec`` gives per record; see ``Dataset.num_edges``."""
        return np.concatenate([member.num_edges(spec) for member in self.members])

    def statistic(self, name: Statistic, label: str) -> Float64[np.ndarray, " records"] | None:
        """Returns a statistic of a label in every record; see ``Dataset.statistic``."""
        columns = [member.statistic(name, label) for member in self.members]
        if all(column is None for column in columns):
            return None
        return np.concatenate(
            [
                np.full(len(member), np.nan) if column is None else column
                for member, column in zip(self.members, columns, strict=True)
            ]
        )

    def label_table(self, rows: np.ndarray) -> LabelTable:
        """Returns compositions and label columns of ``rows``; labels in conflict are left out."""
        rows = np.asarray(rows, dtype=np.int64)
        parts = list(self._by_member(rows))
        tables = [member.label_table(own) for member, own, _ in parts]
        places = np.concatenate([places for _, _, places in parts])

        def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
            values = np.concatenate(arrays)
            ordered = np.empty_like(values)
            ordered[places] = values
            return ordered

        def columns(kind: str) -> dict[str, np.ndarray]:
            names = {name for table in tables for name in getattr(table, kind)}
            empty = [np.full(len(table.num_atoms), np.nan) for table in tables]
            return {
                name: joined(
                    [getattr(t, kind).get(name, nan) for t, nan in zip(tables, empty, strict=True)]
                )
                for name in sorted(names & self.fields.keys())
            }

        return LabelTable(
            num_atoms=joined([table.num_atoms for table in tables]),
            composition=joined([table.composition for table in tables]),
            scalars=columns("scalars"),
            root_mean_square=columns("root_mean_square"),
            largest=columns("largest"),
            units={name: field.unit for name, field in self.fields.items()},
        )

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded records of ``rows``, in their order.

        Raises:
            ShardError: If a shard is damaged or missing.
            IndexError: If a row is out of range.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {wanted.tolist()}")
        blobs: list[bytes] = [b""] * len(wanted)
        for member, own, places in self._by_member(wanted):
            for place, blob in zip(places.tolist(), member.read(own), strict=True):
                blobs[place] = blob
        return blobs

    def digests(self, rows: np.ndarray) -> list[bytes]:
        """Returns what ``record_digest`` gave for the records of ``rows``, as raw bytes."""
        found: list[bytes] = [b""] * len(rows)
        for member, own, places in self._by_member(np.asarray(rows, dtype=np.int64)):
            for place, digest in zip(places.tolist(), member.digests(own), strict=True):
                found[place] = digest
        return found

    def record(self, row: int) -> CrystalRecord:
        """Returns the record in ``row``."""
        ((member, own, _),) = [part for part in self._by_member(np.array([row])) if len(part[1])]
        return member.record(int(own[0]))

    def _by_member(self, rows: np.ndarray) -> list[tuple[Dataset, np.ndarray, np.ndarray]]:
        """Returns, for each member, its own rows and their places in ``rows``."""
        member_of_row = np.searchsorted(self.first_rows, rows, side="right") - 1
        places = [np.flatnonzero(member_of_row == index) for index in range(len(self.members))]
        return [
            (member, rows[own] - first, own)
            for member, own, first in zip(self.members, places, self.first_rows, strict=False)
        ]


Data = Dataset | Mixture
"""What a run reads: one prepared data set, or several."""


def open_data(paths: str | Sequence[str], digests: Sequence[str] = ()) -> Data:
    """Returns the data set at a path or URI, or the mixture of several.

    Args:
        paths: Where they are.
        digests: Data digest of each, as far as known: one that was appended to since is opened in
            the version that has it. Otherwise, and if no version does, the newest is.

    Raises:
        ShardError: If one is missing, damaged or of a newer format.
        ConfigError: If one comes twice.
    """
    given = [paths] if isinstance(paths, str) else list(paths)
    wanted = list(digests) if len(digests) == len(given) else [""] * len(given)
    members = [_open(path, digest) for path, digest in zip(given, wanted, strict=True)]
    return members[0] if len(members) == 1 else Mixture(members)


def _open(path: str, digest: str) -> Dataset:
    newest = Dataset.open(path)
    for entry in newest.manifest.history:
        if digest and entry["data_digest"] == digest:
            logger.info(
                "%s has grown since: version %s of it is used", newest.location, entry["version"]
            )
            return Dataset.open(path, version=int(entry["version"]))
    return newest


def digests_of(described: Mapping[str, Any]) -> list[str]:
    """Returns the digest of each data set that a run or a model's card describes."""
    members = described.get("members") or [described]
    return [str(member.get("digest", "")) for member in members]


def members_of(data: Data) -> tuple[Dataset, ...]:
    """Returns the data sets that ``data`` consists of."""
    return data.members if isinstance(data, Mixture) else (data,)


def conflicts_of(data: Data) -> dict[str, str]:
    """Returns the labels that the members define differently, and how."""
    return data.conflicts if isinstance(data, Mixture) else {}


def _told(field: LabelField) -> str:
    scheme = f", scheme {field.scheme!r}" if field.scheme else ""
    per_atom = " per atom" if field.per_atom else ""
    return f"{field.unit}, shape {field.shape}{per_atom}{scheme}"
