"""A prepared data set written anew: another storage, fewer records, more labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.copying import destination
from epitaxy.data.dataset import Dataset
from epitaxy.data.importing import SHARD_SIZE
from epitaxy.data.manifest import Manifest
from epitaxy.data.split_files import copy_splits
from epitaxy.graph.record import CrystalRecord

_BLOCK = 256


def rewrite(
    dataset: Dataset,
    out: str | Path,
    *,
    format: Literal["lmdb", "zarr"] = "lmdb",
    rows: Sequence[int] | np.ndarray | None = None,
    symmetry: bool = False,
    fingerprint: str | None = None,
    workers: int = 1,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    resume: bool = True,
    progress: bool = True,
) -> Manifest:
    """Writes ``dataset`` to the folder ``out``; the manifest keeps where the records came from.

    Records stream through. A call that is killed goes on from its last finished shard.

    Args:
        dataset: The prepared data.
        out: Folder to make, or a URI to copy it to.
        format: Kind of shards.
        rows: Which records, in which order; all if ``None``.
        symmetry: Whether to add space group and crystal system.
        fingerprint: ``magpie`` to add that vector of every composition.
        workers: Processes that work on records.
        shard_size: Records per shard.
        overwrite: Whether a data set that is there already may be replaced.
        resume: Whether to take up an interrupted call.
        progress: Whether to show a progress bar (on a terminal).

    Returns:
        The new manifest. Without ``rows`` and new labels its data digest is that of ``dataset``.

    Raises:
        ConfigError: If ``out`` exists.
        ShardError: If a shard is damaged.
    """
    with destination(out, overwrite=overwrite) as folder:
        manifest = prepare(
            StoredRecords(dataset, rows),
            folder,
            format=format,
            symmetry=symmetry,
            fingerprint=fingerprint,
            checks="off",
            workers=workers,
            shard_size=shard_size,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
            provenance=provenance_of(dataset.manifest),
        )
        copy_splits(dataset, Dataset.open(folder))
    return manifest


class StoredRecords:
    """Records of a data set as a source that an interrupted import can take up again.

    Attributes:
        identity: Changes with the records and their order.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[int] | np.ndarray | None = None) -> None:
        self._dataset = dataset
        self._rows = np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
        order = hashlib.sha256(np.ascontiguousarray(self._rows).tobytes()).hexdigest()
        self.identity = f"{dataset.data_digest} {order}"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[CrystalRecord]:
        return self.since(0)

    def since(self, number: int) -> Iterator[CrystalRecord]:
        """Yields the records from ``number`` on."""
        return read_records(self._dataset, self._rows[number:])


def read_records(dataset: Dataset, rows: np.ndarray | None = None) -> Iterator[CrystalRecord]:
    """Yields the records of ``rows``, all by default, block by block."""
    chosen = np.arange(len(dataset)) if rows is None else rows
    for start in range(0, len(chosen), _BLOCK):
        for blob in dataset.read(chosen[start : start + _BLOCK]):
            yield decode(blob)


def provenance_of(manifest: Manifest) -> dict[str, Any]:
    """Returns what a copy of a data set keeps of its manifest."""
    return {
        "source": manifest.source,
        "recipe": manifest.recipe,
        "licence": manifest.licence,
        "citation": manifest.citation,
        "conversions": manifest.conversions,
        "skipped": manifest.skipped,
        "filtered": manifest.filtered,
        "checks": manifest.checks,
    }
