"""The engine of ``prepare`` and ``append``: items of a source become shards, one by one."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any, Literal

from tqdm import tqdm

import epitaxy
from epitaxy.data.codec import decode
from epitaxy.data.dataset import Dataset, storage
from epitaxy.data.intake import LISTED, PLACE_ARRAYS, Intake, Place, Places, place_text
from epitaxy.data.journal import SKIPPED, Journal, Milestone
from epitaxy.data.manifest import FORMAT, ShardEntry, file_entry
from epitaxy.data.origin import Origin
from epitaxy.data.parse import Item, Outcome, Parser
from epitaxy.data.parts import StoredPart, write_part
from epitaxy.data.physics import PhysicsBook
from epitaxy.data.pool import ordered_map
from epitaxy.errors import ConfigError, closest

logger = logging.getLogger(__name__)

SHARD_SIZE = 8192
"""Records per shard unless told otherwise."""

PARTS = "parts"
"""Folder of the parts of the sidecar arrays while the shards are written."""

BATCH = 64
"""Records that are parsed together."""

_BLOCK = 256
_ERRORS = ("stop", "skip")
_CHECKS = ("stop", "report", "off")
_BACKENDS = ("local", "ray")

Batch = list[tuple[Place, Item]]


@dataclass(frozen=True)
class Options:
    """How records are taken in; ``prepare`` explains each.

    Raises:
        ConfigError: If one is wrong.
    """

    format: str = "lmdb"
    on_error: Literal["stop", "skip"] = "stop"
    checks: Literal["stop", "report", "off"] = "stop"
    symmetry: bool = False
    fingerprint: str | None = None
    workers: int = 1
    shard_size: int = SHARD_SIZE
    backend: Literal["local", "ray"] = "local"
    resume: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        choices = {"on_error": _ERRORS, "checks": _CHECKS, "backend": _BACKENDS}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} is {value!r}; {closest(str(value), known)}")
        for name in ("shard_size", "workers"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Imported:
    """What an import has written.

    Attributes:
        shards: Shards in row order.
        parts: Their parts of the sidecar arrays.
        intake: What it learnt of the records.
    """

    shards: tuple[ShardEntry, ...]
    parts: tuple[StoredPart, ...]
    intake: Intake


def run_import(
    folder: Path, origin: Origin, options: Options, base: Dataset | None = None
) -> Imported:
    """Writes shards, their parts and the list of skipped records into ``folder``.

    An import of the same records that was interrupted there is taken up after its last finished
    shard: finished shards are read, not parsed again.

    Args:
        folder: Where to write.
        origin: The records.
        options: How to take them in.
        base: Data set whose rows the new ones follow.

    Raises:
        EpitaxyError: As ``prepare`` says.
    """
    writer = _Writer(folder, options, base)
    journal = Journal(folder, _identity(origin, options, base))
    done = _usable(journal, options)
    (folder / PARTS).mkdir(exist_ok=True)
    book = PhysicsBook() if options.checks != "off" else None
    bar = tqdm(unit=" records", total=origin.total(), disable=None if options.progress else True)
    with bar, (folder / SKIPPED).open("a", encoding="utf-8") as log:
        log.truncate(done[-1].log_bytes if done else 0)
        files = origin.files if base is None else (str(base.path), *origin.files)
        intake = Intake(options.on_error, log, book, Places(files))
        if base is not None:
            intake.know(base.ids.tolist(), base.manifest.fields, str(base.path))
        _recall(writer, intake, done, bar)
        after = done[-1].place if done else None
        blobs = intake.blobs(_parsed(origin, options, after, bar))
        shards = [milestone.shard for milestone in done]
        for shard in writer.shards(blobs, shards):
            part = writer.part(len(shards))
            write_part(part, intake.part())
            shards.append(shard)
            if shard.count == options.shard_size:
                log.flush()
                journal.add(_milestone(folder, shard, part, intake, log))
    intake.check_any()
    parts = tuple(StoredPart(writer.part(number)) for number in range(len(shards)))
    return Imported(tuple(shards), parts, intake)


class _Writer:
    """Writes shards behind those of ``base`` and knows where things lie."""

    def __init__(self, folder: Path, options: Options, base: Dataset | None) -> None:
        self.folder = folder
        self.storage = storage(options.format)
        self._size = options.shard_size
        self._first_row = 0 if base is None else len(base)
        self._first_shard = 0 if base is None else len(base.manifest.shards)

    def part(self, number: int) -> Path:
        """Returns the part file of the shard ``number`` of this import."""
        return self.folder / PARTS / f"part-{number:05d}.npz"

    def shards(self, blobs: Iterator[bytes], done: Sequence[ShardEntry]) -> Iterator[ShardEntry]:
        """Writes shards behind ``done`` until ``blobs`` ends; yields an entry for each."""
        first = self._first_row + sum(shard.count for shard in done)
        for number in count(self._first_shard + len(done)):
            head = next(blobs, None)
            if head is None:
                return
            path = self.folder / f"shard-{number:05d}{self.storage.SUFFIX}"
            rest = islice(blobs, self._size - 1)
            records = self.storage.write_shard(path, first, chain([head], rest))
            entry = file_entry(self.folder, path)
            yield ShardEntry(entry.path, entry.bytes, entry.sha256, first, records)
            first += records

    def records(self, shard: ShardEntry) -> Iterator[bytes]:
        """Yields the encoded records of a finished shard."""
        path = self.folder / shard.path
        stop = shard.first + shard.count
        for start in range(shard.first, stop, _BLOCK):
            yield from self.storage.read_shard(path, range(start, min(start + _BLOCK, stop)))


def _identity(origin: Origin, options: Options, base: Dataset | None) -> dict[str, Any] | None:
    """Returns what decides the bytes of the finished shards, by name for people."""
    if origin.identity is None:
        return None
    return {
        **origin.identity,
        "format": options.format,
        "symmetry": options.symmetry,
        "fingerprint": options.fingerprint,
        "shard size": options.shard_size,
        "base": None if base is None else base.data_digest,
        "version of epitaxy": [epitaxy.__version__, FORMAT],
    }


def _usable(journal: Journal, options: Options) -> list[Milestone]:
    """Returns the finished shards to go on from."""
    if not options.resume:
        return journal.begin()
    done = journal.resume()
    if options.on_error == "stop" and done and done[-1].skipped:
        logger.warning(
            "the interrupted import skipped bad records, which on_error=stop does not: this one "
            "starts from the beginning"
        )
        return journal.begin()
    return done


def _recall(writer: _Writer, intake: Intake, done: Sequence[Milestone], bar: tqdm[Any]) -> None:
    """Shows the records of finished shards to the intake, as if they had just come in."""
    if not done:
        return
    last = done[-1]
    for milestone in done:
        for blob in writer.records(milestone.shard):
            intake.recall(decode(blob))
            bar.update()
        part = StoredPart(writer.folder / milestone.part.path)
        intake.recalled([part[name] for name in PLACE_ARRAYS])
    intake.skipped, intake.filtered = last.skipped, Counter(last.filtered)
    with (writer.folder / SKIPPED).open(encoding="utf-8") as log:
        entries = [json.loads(line) for line in islice(log, LISTED)]
    intake.listed = [(entry["where"], entry["why"]) for entry in entries]
    bar.update(last.skipped + sum(last.filtered.values()))
    logger.info(
        "going on with an interrupted import: %d records in %d shards are done, the next stands "
        "behind %s", len(intake), len(done), place_text(last.place),
    )  # fmt: skip


def _milestone(
    folder: Path, shard: ShardEntry, part: Path, intake: Intake, log: IO[str]
) -> Milestone:
    return Milestone(
        shard,
        file_entry(folder, part),
        intake.places[len(intake) - 1],
        intake.skipped,
        os.fstat(log.fileno()).st_size,
        dict(intake.filtered),
    )


@dataclass(frozen=True)
class Work:
    """A batch of (place, item) as the parser takes it; a class, to be sent to other processes."""

    parser: Parser

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Returns an outcome for every item."""
        return self.parser([(place_text(place), item) for place, item in batch])


def batches(items: Iterable[tuple[Place, Item]]) -> Iterator[Batch]:
    """Yields ``items`` in lists."""
    stream = iter(items)
    while batch := list(islice(stream, BATCH)):
        yield batch


@dataclass(frozen=True)
class Walk:
    """The batches behind a place; a class, to be sent to other processes."""

    origin: Origin
    after: Place | None

    def __call__(self) -> Iterator[Batch]:
        """Yields the batches."""
        return batches(self.origin.items(self.after))


def _parsed(
    origin: Origin, options: Options, after: Place | None, bar: tqdm[Any]
) -> Iterator[tuple[Sequence[tuple[Place, Any]], list[Outcome]]]:
    """Yields batches behind ``after`` and what became of their items."""
    work = Work(origin.parser(options.symmetry, options.fingerprint))
    if options.backend == "local":
        walked = batches(_ticking(origin.items(after), bar))
        yield from ordered_map(work, walked, options.workers)
        return
    from epitaxy.data.convert_ray import ray_map

    if origin.identity is None:
        raise ConfigError(
            "records of a program cannot be read by another process; import them with "
            "compute=local, or write them to a file"
        )
    for batch, outcomes in ray_map(work, Walk(origin, after), options.workers):
        yield batch, outcomes
        bar.update(len(batch))


def _ticking(items: Iterable[tuple[Place, Item]], bar: tqdm[Any]) -> Iterator[tuple[Place, Item]]:
    for item in items:
        yield item
        bar.update()
