"""``prepare``: a source becomes a data set of checked, encoded records with sidecar arrays."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import epitaxy
from epitaxy.data.copying import destination
from epitaxy.data.dataset import Dataset
from epitaxy.data.importing import PARTS, SHARD_SIZE, Imported, Options, run_import
from epitaxy.data.intake import PLACE_ARRAYS, Intake
from epitaxy.data.journal import FILE_NAME as JOURNAL
from epitaxy.data.journal import SKIPPED, holds_work
from epitaxy.data.manifest import FILE_NAME as MANIFEST
from epitaxy.data.manifest import Manifest, Skipped, file_entry
from epitaxy.data.origin import Origin, warn
from epitaxy.data.parse import Item
from epitaxy.data.parts import folder_digest, join
from epitaxy.data.physics import Check
from epitaxy.data.recipe import Recipe
from epitaxy.data.sidecars import FOLDER as SIDECARS
from epitaxy.data.splits import store_split
from epitaxy.data.staging import staging
from epitaxy.errors import LabelError, PlanError

logger = logging.getLogger(__name__)


def prepare(
    source: str | Path | Iterable[Item],
    out: str | Path,
    *,
    format: Literal["lmdb", "zarr"] = "lmdb",
    recipe: Recipe | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    checks: Literal["stop", "report", "off"] = "stop",
    symmetry: bool = False,
    fingerprint: str | None = None,
    workers: int = 1,
    backend: Literal["local", "ray"] = "local",
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    resume: bool = True,
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes a data set to ``out``, which appears complete or not at all.

    Records stream through; about 100 bytes of each stay in memory. An import of files that is
    killed goes on from its last finished shard when called again, and gives the same bytes.

    Args:
        source: What the recipe's source reads: a path, several with commas between, or a pattern
            with ``*``; or the records themselves.
        out: Folder to make, or a URI to copy it to.
        format: Kind of shards.
        recipe: How to read ``source``; needed for a path.
        on_error: ``stop`` at the first bad record, or ``skip`` it, count it and list it.
        checks: Labels that contradict physics ``stop`` the import or are ``report``ed, or ``off``.
        symmetry: Whether to add space group and crystal system to every record.
        fingerprint: ``magpie`` to add that vector of its composition; see ``data.magpie``.
        workers: Processes that parse; a script that asks for several needs its ``__main__`` guard.
        backend: Where they run: on this machine (``local``) or on a Ray cluster (``ray``).
        shard_size: Records per shard.
        overwrite: Whether a data set that is there already may be replaced.
        resume: Whether to take up an interrupted import; otherwise it starts from the beginning.
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
    options = Options(
        format, on_error, checks, symmetry, fingerprint, workers, shard_size, backend, resume,
        progress,
    )  # fmt: skip
    return _import(Origin.of(source, recipe), out, options, overwrite, provenance or {})


def _import(
    origin: Origin,
    out: str | Path,
    options: Options,
    overwrite: bool,
    provenance: Mapping[str, Any],
) -> Manifest:
    keeping = None if origin.identity is None else holds_work
    with (
        destination(out, overwrite=overwrite) as place,
        staging(place, overwrite=overwrite, worth_keeping=keeping) as folder,
    ):
        imported = run_import(folder, origin, options)
        found = judged(imported.intake.checks(), stop=options.checks == "stop")
        fields = provenance_found(origin, imported.intake, found) | dict(provenance)
        manifest = _finish(folder, options.format, imported, fields)
        _store_splits(folder, origin.recipe)
    warn(manifest, origin.recipe, str(out))
    return manifest


def _finish(
    folder: Path, format: str, imported: Imported, provenance: Mapping[str, Any]
) -> Manifest:
    """Writes sidecars and manifest beside the shards, and returns the manifest."""
    shutil.rmtree(folder / SIDECARS, ignore_errors=True)
    join(imported.parts, folder / SIDECARS, without=PLACE_ARRAYS)
    paths = [folder / SKIPPED, *sorted((folder / SIDECARS).iterdir())]
    manifest = Manifest(
        storage=format,
        num_records=len(imported.intake),
        fields=imported.intake.book.fields,
        shards=imported.shards,
        files=tuple(file_entry(folder, path) for path in paths),
        data_digest=folder_digest(folder / SIDECARS),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        generator=f"epitaxy {epitaxy.__version__}",
        **provenance,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    shutil.rmtree(folder / PARTS)
    (folder / JOURNAL).unlink(missing_ok=True)
    return manifest


def judged(checks: Sequence[Check], *, stop: bool) -> tuple[dict[str, Any], ...]:
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


def provenance_found(
    origin: Origin, intake: Intake, checks: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    """Returns where the records came from and what became of them, for the manifest."""
    found: dict[str, Any] = {
        "source": origin.description(),
        "skipped": Skipped(intake.skipped, tuple(intake.listed)),
        "filtered": dict(intake.filtered),
        "checks": checks,
    }
    recipe = origin.recipe
    if recipe is None:
        return found
    rules = recipe.fields.items()
    return found | {
        "recipe": recipe.to_dict(),
        "licence": recipe.licence,
        "citation": recipe.citation,
        "conversions": tuple(rule.conversion(name) for name, rule in rules),
    }
