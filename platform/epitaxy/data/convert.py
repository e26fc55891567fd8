"""``prepare``: a source becomes a data set of checked, encoded records with sidecar arrays."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any, Literal

from tqdm import tqdm

import epitaxy
from epitaxy.data.codec import encode, record_digest
from epitaxy.data.dataset import Storage, data_digest, storage
from epitaxy.data.manifest import FILE_NAME as MANIFEST
from epitaxy.data.manifest import (
    FileEntry,
    Manifest,
    ShardEntry,
    Skipped,
    file_entry,
    tree_bytes,
    tree_sha256,
)
from epitaxy.data.recipe import Recipe
from epitaxy.data.sidecars import FOLDER as SIDECARS
from epitaxy.data.sidecars import SidecarWriter
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.files import expand
from epitaxy.data.staging import staging
from epitaxy.data.validate import FieldBook, check_record
from epitaxy.errors import ConfigError, EpitaxyError, RecordError, SourceError, closest
from epitaxy.graph.record import CrystalRecord

logger = logging.getLogger(__name__)

SHARD_SIZE = 8192
"""Records per shard unless told otherwise."""

_LISTED = 100

Item = CrystalRecord | BadRecord


def prepare(
    source: str | Path | Iterable[Item],
    out: str | Path,
    *,
    format: Literal["lmdb", "zarr"] = "lmdb",
    recipe: Recipe | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Writes a data set folder ``out``, which appears complete or not at all.

    Records stream through; what stays in memory is the ids and the sidecar arrays.

    Args:
        source: What the recipe's source reads: a path, several with commas between, or a pattern
            with ``*``; or the records themselves.
        out: Folder to make.
        format: Kind of shards.
        recipe: How to read ``source``; needed for a path.
        on_error: ``stop`` at the first bad record, or ``skip`` it, count it and list it.
        shard_size: Records per shard.
        overwrite: Whether a data set that is there already may be replaced.
        progress: Whether to show a progress bar (on a terminal).

    Raises:
        SourceError: If a source file cannot be read, or gives no record.
        RecordError: If a record is bad and ``on_error`` is ``stop``.
        UnitError: If a unit is unknown.
        ConfigError: If ``out`` exists, or an argument is wrong.
    """
    _check_arguments(on_error, shard_size)
    writer = storage(format)
    items, origin = _items(source, recipe)
    with staging(Path(out).resolve(), overwrite=overwrite) as folder:
        bar = tqdm(unit=" records", disable=None if progress else True)
        with bar, (folder / "skipped.jsonl").open("w", encoding="utf-8") as skipped:
            intake = _Intake(on_error, skipped)
            blobs = intake.blobs(_ticking(items, bar))
            shards = tuple(_write_shards(folder, writer, blobs, shard_size))
        intake.check_any()
        intake.sidecars.write(folder / SIDECARS)
        manifest = Manifest(
            storage=format,
            num_records=len(intake.digests),
            fields=intake.book.fields,
            shards=shards,
            files=_other_files(folder),
            data_digest=data_digest(list(intake.rows), intake.digests),
            source=origin,
            skipped=Skipped(intake.skipped, tuple(intake.listed)),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            generator=f"epitaxy {epitaxy.__version__}",
            **_provenance(recipe),
        )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    _warn(manifest, recipe, Path(out))
    return manifest


@dataclass
class _Intake:
    """Checks records one by one and turns the good ones into bytes."""

    on_error: str
    log: IO[str]
    book: FieldBook = field(default_factory=FieldBook)
    sidecars: SidecarWriter = field(default_factory=SidecarWriter)
    rows: dict[str, int] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    skipped: int = 0
    listed: list[tuple[str, str]] = field(default_factory=list)

    def blobs(self, items: Iterable[tuple[str, int, Item]]) -> Iterator[bytes]:
        """Yields the good records of (file, number, item), encoded."""
        for file, number, item in items:
            try:
                blob = self._accept(file, number, item)
            except EpitaxyError as error:
                where = item.where if isinstance(item, BadRecord) else _place(file, number)
                self._refuse(where, error)
            else:
                yield blob

    def check_any(self) -> None:
        """Refuses a source without a single good record."""
        if not self.rows:
            first = f"; the first: {' '.join(self.listed[0])}" if self.listed else ""
            raise SourceError(f"no usable record, {self.skipped} bad ones{first}")

    def _accept(self, file: str, number: int, item: Item) -> bytes:
        if isinstance(item, BadRecord):
            raise _as_epitaxy_error(item.error)
        if item.id in self.rows:
            first = self.places[self.rows[item.id]]
            raise RecordError(
                f"id {item.id!r} occurs twice: first in {_place(*first)}, again in "
                f"{_place(file, number)}; ids must be unique (choose another id key)"
            )
        check_record(item)
        self.book.check(item)
        blob = encode(item)
        digest = record_digest(blob)
        self.sidecars.add(item, digest)
        self.rows[item.id] = len(self.digests)
        self.digests.append(digest)
        self.places.append((file, number))
        return blob

    def _refuse(self, where: str, error: EpitaxyError) -> None:
        if self.on_error == "stop":
            message = f"{where}: {error} (on_error=skip leaves such records out and lists them)"
            raise type(error)(message) from error
        self.skipped += 1
        if len(self.listed) < _LISTED:
            self.listed.append((where, str(error)))
        self.log.write(json.dumps({"where": where, "why": str(error)}, ensure_ascii=False) + "\n")


def _check_arguments(on_error: str, shard_size: int) -> None:
    if on_error not in ("stop", "skip"):
        raise ConfigError(f"on_error is {on_error!r}; {closest(on_error, ('stop', 'skip'))}")
    if shard_size < 1:
        raise ConfigError(f"shard_size must be at least 1, got {shard_size}")


def _as_epitaxy_error(error: Exception) -> EpitaxyError:
    if isinstance(error, EpitaxyError):
        return error
    return RecordError(f"{type(error).__name__}: {error}")


def _place(file: str, number: int) -> str:
    return f"{file}, record {number}" if file else f"record {number}"


def _items(
    source: str | Path | Iterable[Item], recipe: Recipe | None
) -> tuple[Iterator[tuple[str, int, Item]], dict[str, Any]]:
    """Returns (file, number in that file, item) for every record, and where they come from."""
    if not isinstance(source, (str, Path)):
        return (("", number, item) for number, item in enumerate(source)), {"uri": "", "files": []}
    if recipe is None:
        raise ConfigError(f"reading {source} needs a recipe")
    reader, paths = recipe.open_source(), expand(str(source))
    items = (
        (path, number, item) for path in paths for number, item in enumerate(reader.read(path))
    )
    files = [
        {"path": path, "bytes": tree_bytes(Path(path)), "sha256": tree_sha256(Path(path))}
        for path in paths
        if path and Path(path).exists()
    ]
    return items, {"uri": str(source), "files": files}


def _ticking(
    items: Iterable[tuple[str, int, Item]], bar: tqdm[Any]
) -> Iterator[tuple[str, int, Item]]:
    for item in items:
        yield item
        bar.update()


def _write_shards(
    folder: Path, writer: Storage, blobs: Iterator[bytes], size: int
) -> Iterator[ShardEntry]:
    """Writes shards of ``size`` records until ``blobs`` ends; yields an entry for each."""
    first = 0
    for number in count():
        head = next(blobs, None)
        if head is None:
            return
        path = folder / f"shard-{number:05d}{writer.SUFFIX}"
        records = writer.write_shard(path, first, chain([head], islice(blobs, size - 1)))
        entry = file_entry(folder, path)
        yield ShardEntry(entry.path, entry.bytes, entry.sha256, first, records)
        first += records


def _other_files(folder: Path) -> tuple[FileEntry, ...]:
    paths = [folder / "skipped.jsonl", *sorted((folder / SIDECARS).iterdir())]
    return tuple(file_entry(folder, path) for path in paths)


def _provenance(recipe: Recipe | None) -> dict[str, Any]:
    if recipe is None:
        return {}
    return {
        "recipe": recipe.to_dict(),
        "licence": recipe.licence,
        "citation": recipe.citation,
        "conversions": tuple(rule.conversion(name) for name, rule in recipe.fields.items()),
    }


def _warn(manifest: Manifest, recipe: Recipe | None, out: Path) -> None:
    """Logs what the user should know about the finished data set."""
    absent = set(recipe.fields if recipe else ()) - {field.name for field in manifest.fields}
    for name in sorted(absent):
        logger.warning("label %r of the recipe occurs in no record", name)
    if manifest.skipped.count:
        logger.warning(
            "%d bad records were skipped, %d kept; the first: %s; all are listed in %s",
            manifest.skipped.count,
            manifest.num_records,
            ": ".join(manifest.skipped.listed[0]),
            out / "skipped.jsonl",
        )
