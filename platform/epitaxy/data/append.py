"""``append``: new records become a new version of a data set; everything older stays as it is."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

import epitaxy
from epitaxy.data.convert import judged, provenance_found
from epitaxy.data.dataset import Dataset
from epitaxy.data.importing import SHARD_SIZE, Imported, Options, run_import
from epitaxy.data.intake import LISTED, PLACE_ARRAYS
from epitaxy.data.journal import FILE_NAME as JOURNAL
from epitaxy.data.journal import SKIPPED, holds_work
from epitaxy.data.manifest import FILE_NAME as MANIFEST
from epitaxy.data.manifest import Manifest, Skipped, file_entry, file_name, versioned
from epitaxy.data.origin import Origin
from epitaxy.data.parse import Item
from epitaxy.data.parts import folder_digest, join
from epitaxy.data.recipe import Recipe
from epitaxy.data.remote import is_uri
from epitaxy.data.sidecars import FOLDER as SIDECARS
from epitaxy.data.sidecars import keys_of
from epitaxy.data.split_files import list_splits, load_split
from epitaxy.data.staging import adding, remove, replacing, sync
from epitaxy.errors import ConfigError

logger = logging.getLogger(__name__)

_KEYS = {"id_keys": "ids", "group_keys": "groups"}


def append(
    data: str | Path,
    source: str | Path | Iterable[Item],
    *,
    recipe: Recipe | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    checks: Literal["stop", "report", "off"] = "stop",
    symmetry: bool = False,
    fingerprint: str | None = None,
    workers: int = 1,
    backend: Literal["local", "ray"] = "local",
    shard_size: int = SHARD_SIZE,
    resume: bool = True,
    progress: bool = True,
) -> Manifest:
    """Adds records to a data set, as its next version, and returns the manifest of that.

    New shards, sidecar arrays and a manifest are written; no older file is touched, so that whoever
    has the data set open goes on reading it, and ``Dataset.open(data, version=N)`` opens what was
    there before. The new version appears complete or not at all. Splits stay as they are stored:
    new records are in none of them, and a warning says how many.

    Args:
        data: Folder of the data set.
        source: As for ``prepare``, as are the other arguments; ids must be new as well.
        recipe: How to read ``source``.
        on_error: ``stop`` at the first bad record, or ``skip`` it.
        checks: What becomes of new labels that contradict physics.
        symmetry: Whether to add space group and crystal system to the new records.
        fingerprint: ``magpie``, to add that vector to them.
        workers: Processes that parse.
        backend: Where they run.
        shard_size: Records per new shard.
        resume: Whether to take up an interrupted call.
        progress: Whether to show a progress bar (on a terminal).

    Raises:
        ConfigError: If ``data`` is behind a URI, is being written, or an argument is wrong.
        EpitaxyError: As ``prepare``.
    """
    if is_uri(data):
        raise ConfigError(f"{data} cannot be appended to where it is: copy it to a local folder")
    folder = Path(data).resolve()
    origin = Origin.of(source, recipe)
    with adding(folder, worth_keeping=holds_work) as work:
        base = Dataset.open(folder)
        options = Options(
            base.manifest.storage, on_error, checks, symmetry, fingerprint, workers, shard_size,
            backend, resume, progress,
        )  # fmt: skip
        imported = run_import(work, origin, options, base)
        found = judged(imported.intake.checks(), stop=checks == "stop")
        told = provenance_found(origin, imported.intake, found)
        manifest = _next_version(base, imported, work, told)
        _publish(base, manifest, work)
    for name, count in unassigned(Dataset.open(folder)).items():
        logger.warning("the split %r of %s leaves %d records out", name, folder, count)
    return manifest


def unassigned(dataset: Dataset) -> dict[str, int]:
    """Returns, for every stored split that leaves records out, how many it does."""
    left = {}
    for name in list_splits(dataset):
        rows = load_split(dataset, name).rows.values()
        left[name] = len(dataset) - sum(len(part) for part in rows)
    return {name: count for name, count in left.items() if count}


class _Stored(Mapping[str, np.ndarray]):
    """The sidecar arrays of a data set, with those that earlier formats lacked."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        folder = f"{dataset.manifest.sidecars}/"
        paths = [entry.path for entry in dataset.manifest.files if entry.path.startswith(folder)]
        stored = [path.removeprefix(folder).removesuffix(".npy") for path in paths]
        self._names = sorted({*stored, *_KEYS})

    def __getitem__(self, name: str) -> np.ndarray:
        if name in _KEYS and not self._dataset.has_column(name):
            return keys_of(getattr(self._dataset, _KEYS[name]).tolist())
        return self._dataset.column(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _next_version(
    base: Dataset, imported: Imported, work: Path, told: Mapping[str, Any]
) -> Manifest:
    """Writes the sidecar arrays of the new version and returns its manifest."""
    old, number = base.manifest, base.manifest.version + 1
    sidecars, skipped = work / versioned(SIDECARS, number), work / versioned(SKIPPED, number)
    remove(sidecars)
    join([_Stored(base), *imported.parts], sidecars, without=PLACE_ARRAYS)
    (work / SKIPPED).replace(skipped)
    kept = [e for e in old.files if not e.path.startswith(f"{old.sidecars}/")]
    new = [file_entry(work, path) for path in (skipped, *sorted(sidecars.iterdir()))]
    return replace(
        old,
        num_records=len(imported.intake),
        fields=imported.intake.book.fields,
        shards=(*old.shards, *imported.shards),
        files=(*kept, *new),
        data_digest=folder_digest(sidecars),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        generator=f"epitaxy {epitaxy.__version__}",
        version=number,
        parent=old.data_digest,
        history=(*old.history, _entry(old)),
        **_joined(old, told),
    )


def _publish(base: Dataset, manifest: Manifest, work: Path) -> None:
    """Moves the new files into the data set; the manifest, at last, makes them part of it."""
    sync(work)
    shards = [shard.path for shard in manifest.shards[len(base.manifest.shards) :]]
    for name in (*shards, manifest.sidecars, versioned(SKIPPED, manifest.version)):
        remove(base.path / name)  # left by a call that was killed here
        (work / name).rename(base.path / name)
    current = base.path / MANIFEST
    _write(base.path / file_name(base.manifest.version), current.read_text(encoding="utf-8"))
    _write(current, manifest.to_json())
    (work / JOURNAL).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _entry(manifest: Manifest) -> dict[str, Any]:
    """Returns what the history says of a version."""
    names = ("version", "data_digest", "num_records", "created", "generator")
    return {name: getattr(manifest, name) for name in names}


def _joined(old: Manifest, told: Mapping[str, Any]) -> dict[str, Any]:
    """Returns where old and new records came from and what became of them."""
    files = [*old.source.get("files", ()), *told["source"]["files"]]
    uris = [uri for uri in (old.source.get("uri", ""), told["source"]["uri"]) if uri]
    skipped: Skipped = told["skipped"]
    listed = (*old.skipped.listed, *skipped.listed)[:LISTED]
    converted = {entry["label"] for entry in old.conversions}
    new = [entry for entry in told.get("conversions", ()) if entry["label"] not in converted]
    return {
        "source": {**old.source, "uri": ",".join(uris), "files": files},
        "recipe": old.recipe or told.get("recipe", {}),
        "licence": _both(old.licence, told.get("licence", "")),
        "citation": _both(old.citation, told.get("citation", "")),
        "conversions": (*old.conversions, *new),
        "skipped": Skipped(old.skipped.count + skipped.count, listed),
        "filtered": dict(Counter(old.filtered) + Counter(told["filtered"])),
        "checks": (*old.checks, *told["checks"]),
    }


def _both(old: str, new: str) -> str:
    return old if new in old else "; ".join(filter(None, (old, new)))
