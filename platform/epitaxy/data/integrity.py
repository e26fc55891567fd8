"""When shards are checked, and the check of everything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from tqdm import tqdm

from epitaxy.data.codec import decode, record_digest
from epitaxy.data.manifest import FileEntry, Manifest, ShardEntry, check_content
from epitaxy.data.parts import stored_digest
from epitaxy.data.pool import ordered_map
from epitaxy.data.sidecars import texts
from epitaxy.errors import ConfigError, EpitaxyError, ShardError, closest

if TYPE_CHECKING:
    from epitaxy.data.dataset import Dataset
    from epitaxy.data.remote import Remote

Policy = Literal["first_read", "on_suspicion", "never"]
"""When reading checks a shard; ``Dataset.open`` explains each."""

LARGE_BYTES = 16 * 2**30
"""Size of all shards above which hashing every one of them in every process costs too much."""

_BLOCK = 256
_LISTED = 20


def check_policy(policy: str | None) -> None:
    """Refuses an unknown policy.

    Raises:
        ConfigError: With the closest one.
    """
    if policy is not None and policy not in get_args(Policy):
        raise ConfigError(f"verify is {policy!r}; {closest(policy, get_args(Policy))}")


def default_policy(manifest: Manifest, remote: Remote | None) -> Policy:
    """Returns the policy of a data set for which none was asked.

    Raises:
        ConfigError: If ``EPITAXY_VERIFY`` names none.
    """
    asked = os.environ.get("EPITAXY_VERIFY") or None
    check_policy(asked)
    for policy in get_args(Policy):
        if policy == asked:
            chosen: Policy = policy
            return chosen
    large = sum(shard.bytes for shard in manifest.shards) > LARGE_BYTES
    return "on_suspicion" if large or remote is not None else "first_read"


def check_everything(dataset: Dataset, *, workers: int, progress: bool) -> None:
    """Checks every file against its checksum and every record against all rules.

    Raises:
        ShardError: Naming every file and record that is damaged.
    """
    damage = [text for entry in dataset.manifest.files for text in _damaged(dataset, entry)]
    check = CheckShard(dataset, records=not damage)
    bar = tqdm(total=len(dataset), unit=" records", disable=None if progress else True)
    with bar:
        for shard, found in ordered_map(check, dataset.manifest.shards, workers):
            damage += found
            bar.update(shard.count)
    if not damage and stored_digest(dataset.column) != dataset.data_digest:
        damage.append(f"{dataset.location}: the records are not those of the manifest")
    if damage:
        head = [f"{len(damage)} things are damaged:"] if len(damage) > 1 else []
        more = [f"and {len(damage) - _LISTED} more"] if len(damage) > _LISTED else []
        raise ShardError("\n".join([*head, *damage[:_LISTED], *more]))


@dataclass(frozen=True)
class CheckShard:
    """Finds what is wrong with a shard; a class, to be sent to other processes.

    Attributes:
        dataset: The data set.
        records: Whether to read the records: not if the arrays they are compared with are damaged.
    """

    dataset: Dataset
    records: bool

    def __call__(self, shard: ShardEntry) -> list[str]:
        """Returns a line for everything that is wrong."""
        if self.dataset.remote is None:
            found = _damaged(self.dataset, shard)
            if found or not self.records:  # LMDB must not open a damaged file
                return [f"{text} (rows {shard.first} to {_last(shard)})" for text in found]
        rows = range(shard.first, shard.first + shard.count)
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        return [text for block in blocks for text in self._wrong(block)]

    def _wrong(self, rows: range) -> Iterator[str]:
        try:
            blobs = self.dataset.read(rows)
        except EpitaxyError as error:
            if len(rows) == 1:
                yield f"row {rows[0]}: {error}"
            else:
                yield from (text for row in rows for text in self._wrong(range(row, row + 1)))
            return
        ids, groups = (self._texts(name, rows) for name in ("ids", "groups"))
        digests = self.dataset.digests(np.asarray(rows))
        for row, blob, *expected in zip(rows, blobs, ids, groups, digests, strict=True):
            yield from self._wrong_record(row, blob, tuple(expected))

    def _wrong_record(self, row: int, blob: bytes, expected: tuple[object, ...]) -> Iterator[str]:
        try:
            record = decode(blob).replace()
        except EpitaxyError as error:
            yield f"{self.dataset.location}, row {row}: {error}"
            return
        if (record.id, record.group, bytes.fromhex(record_digest(blob))) != expected:
            yield f"{self.dataset.location}: row {row} is not the record {expected[0]!r}"

    def _texts(self, name: str, rows: range) -> list[str]:
        offsets = self.dataset.column(f"{name}_offsets")[rows.start : rows.stop + 1]
        content = self.dataset.column(name)[offsets[0] : offsets[-1]]
        found: list[str] = texts(content, offsets - offsets[0]).tolist()
        return found


def _damaged(dataset: Dataset, entry: FileEntry) -> list[str]:
    try:
        check_content(dataset.path, entry)
    except ShardError as error:
        return [str(error)]
    return []


def _last(shard: ShardEntry) -> int:
    return shard.first + shard.count - 1
