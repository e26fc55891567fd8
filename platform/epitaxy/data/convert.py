"""``prepare``: a source becomes a data set of checked, encoded records with sidecar arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

import epitaxy
from epitaxy.data.dataset import Dataset, Storage, data_digest, storage
from epitaxy.data.intake import Intake, Place, place_text
from epitaxy.data.manifest import FILE_NAME as MANIFEST
from epitaxy.data.manifest import FileEntry, Manifest, ShardEntry, Skipped, file_entry
from epitaxy.data.origin import Origin, warn
from epitaxy.data.parse import Item, Outcome, Parser
from epitaxy.data.physics import Check, PhysicsBook
from epitaxy.data.pool import ordered_map
from epitaxy.data.recipe import Recipe
from epitaxy.data.sidecars import FOLDER as SIDECARS
from epitaxy.data.splits import store_split
from epitaxy.data.staging import staging
from epitaxy.errors import ConfigError, LabelError, PlanError, closest

logger = logging.getLogger(__name__)

SKIPPED = "skipped.jsonl"
"""File that lists every record that could not be used."""

SHARD_SIZE = 8192
"""Records per shard unless told otherwise."""

_BATCH = 64
_CHECKS = ("stop", "report", "off")


def prepare(
    source: str | Path | Iterable[Item],
    out: str | Path,
    *,
    format: Literal["lmdb", "zarr"] = "lmdb",
    recipe: Recipe | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    checks: Literal["stop", "report", "off"] = "stop",
    symmetry: bool = False,
    workers: int = 1,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
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
        checks: Labels that contradict physics ``stop`` the import or are ``report``ed, or ``off``.
        symmetry: Whether to add space group and crystal system to every record.
        workers: Processes that parse; a script that asks for several needs its ``__main__`` guard.
        shard_size: Records per shard.
        overwrite: Whether a data set that is there already may be replaced.
        progress: Whether to show a progress bar (on a terminal).
        provenance: Fields of the manifest that records of another data set keep.

    Raises:
        SourceError: If a source file cannot be read, or gives no record.
        RecordError: If a record is bad and ``on_error`` is ``stop``.
        LabelError: If labels contradict physics and ``checks`` is ``stop``.
        UnitError: If a unit is unknown.
        ConfigError: If ``out`` exists, or an argument is wrong.
        ShardError: If the disk is full or cannot be written.
    """
    _check_arguments(on_error, checks, shard_size, workers)
    origin = Origin.of(source, recipe)
    parser = origin.parser(symmetry)
    book = PhysicsBook() if checks != "off" else None
    with staging(Path(out).resolve(), overwrite=overwrite) as folder:
        bar = tqdm(unit=" records", disable=None if progress else True)
        with bar, (folder / SKIPPED).open("w", encoding="utf-8") as skipped:
            intake = Intake(on_error, skipped, book)
            batches = _batches(_ticking(origin.items(), bar))
            blobs = intake.blobs(ordered_map(_Work(parser), batches, workers))
            shards = tuple(_write_shards(folder, storage(format), blobs, shard_size))
        intake.check_any()
        found = _judged(intake.checks(), stop=checks == "stop")
        fields = _provenance(origin, recipe, intake, found) | dict(provenance or {})
        manifest = _finish(folder, format, shards, intake, fields)
        _store_splits(folder, recipe)
    warn(manifest, recipe, Path(out))
    return manifest


def _finish(
    folder: Path,
    format: str,
    shards: tuple[ShardEntry, ...],
    intake: Intake,
    provenance: Mapping[str, Any],
) -> Manifest:
    """Writes sidecars and manifest beside the shards, and returns the manifest."""
    intake.sidecars.write(folder / SIDECARS)
    manifest = Manifest(
        storage=format,
        num_records=len(intake.digests),
        fields=intake.book.fields,
        shards=shards,
        files=_other_files(folder),
        data_digest=data_digest(list(intake.rows), intake.digests),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        generator=f"epitaxy {epitaxy.__version__}",
        **provenance,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


@dataclass(frozen=True)
class _Work:
    """A batch of (place, item) as the parser takes it; a class, to be sent to other processes."""

    parser: Parser

    def __call__(self, batch: list[tuple[Place, Item]]) -> list[Outcome]:
        return self.parser([(place_text(place), item) for place, item in batch])


def _batches(items: Iterable[tuple[Place, Item]]) -> Iterator[list[tuple[Place, Item]]]:
    stream = iter(items)
    while batch := list(islice(stream, _BATCH)):
        yield batch


def _judged(checks: Sequence[Check], *, stop: bool) -> tuple[dict[str, Any], ...]:
    """Returns what physics says of the labels, as JSON-ready data.

    Raises:
        LabelError: If it contradicts them and ``stop`` is set.
    """
    for check in checks:
        if check.verdict in ("suspicious", "contradicted"):
            logger.warning("%s: %s", check.name, check.statement)
    wrong = [check.statement for check in checks if check.verdict == "contradicted"]
    if wrong and stop:
        raise LabelError(
            f"the labels contradict physics. {' '.join(wrong)} Correct the recipe; checks=report "
            "writes the data set all the same"
        )
    return tuple(asdict(check) for check in checks)


def _store_splits(folder: Path, recipe: Recipe | None) -> None:
    """Stores the splits that the recipe names, by id; a part of the original may be too small."""
    for name, settings in (recipe.splits if recipe else {}).items():
        try:
            store_split(Dataset.open(folder), name, settings)
        except PlanError as error:
            logger.warning("split %r of the recipe is not stored: %s", name, error)


def _check_arguments(on_error: str, checks: str, shard_size: int, workers: int) -> None:
    if on_error not in ("stop", "skip"):
        raise ConfigError(f"on_error is {on_error!r}; {closest(on_error, ('stop', 'skip'))}")
    if checks not in _CHECKS:
        raise ConfigError(f"checks is {checks!r}; {closest(checks, _CHECKS)}")
    for name, value in (("shard_size", shard_size), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def _ticking(items: Iterable[tuple[Place, Item]], bar: tqdm[Any]) -> Iterator[tuple[Place, Item]]:
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
    paths = [folder / SKIPPED, *sorted((folder / SIDECARS).iterdir())]
    return tuple(file_entry(folder, path) for path in paths)


def _provenance(
    origin: Origin, recipe: Recipe | None, intake: Intake, checks: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    """Returns where the records came from and what became of them, for the manifest."""
    found: dict[str, Any] = {
        "source": origin.description(),
        "skipped": Skipped(intake.skipped, tuple(intake.listed)),
        "filtered": dict(intake.filtered),
        "checks": checks,
    }
    if recipe is None:
        return found
    rules = recipe.fields.items()
    return found | {
        "recipe": recipe.to_dict(),
        "licence": recipe.licence,
        "citation": recipe.citation,
        "conversions": tuple(rule.conversion(name) for name, rule in rules),
    }
