"""A prepared data set written anew: another storage, fewer records, more labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
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
    overwrite: bool = False,
) -> Manifest:
    """Writes ``dataset`` to the folder ``out``; the manifest keeps where the records came from.

    Args:
        dataset: The prepared data.
        out: Folder to make.
        format: Kind of shards.
        rows: Which records, in which order; all if ``None``.
        symmetry: Whether to add space group and crystal system.
        overwrite: Whether a data set that is there already may be replaced.

    Returns:
        The new manifest. Without ``rows`` and ``symmetry`` its data digest is that of ``dataset``.

    Raises:
        ConfigError: If ``out`` exists.
        ShardError: If a shard is damaged.
    """
    chosen = np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
    manifest = prepare(
        read_records(dataset, chosen),
        out,
        format=format,
        symmetry=symmetry,
        checks="off",
        overwrite=overwrite,
        provenance=provenance_of(dataset.manifest),
    )
    copy_splits(dataset, Dataset.open(out))
    return manifest


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
