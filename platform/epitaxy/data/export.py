"""Prepared data for other programs: extended XYZ and PyTorch Geometric."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.data.dataset import Dataset
from epitaxy.data.rewrite import read_records
from epitaxy.data.staging import replacing
from epitaxy.errors import ConfigError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.graph.symbols import SYMBOLS


def export_extxyz(dataset: Dataset, out: str | Path, rows: np.ndarray | None = None) -> int:
    """Writes an extended XYZ file (``.xyz`` or ``.xyz.gz``) and returns the number of frames.

    Units are the project's: eV, eV/Å, eV/Å^3 with tension positive, which are ASE's. Numbers are
    written with as many digits as they have, so that reading the file back gives the same records.

    Args:
        dataset: The prepared data.
        out: File to make; one that exists is replaced.
        rows: Which records; all if ``None``.

    Raises:
        ConfigError: If the data set holds compositions, which have no structure.
    """
    path = Path(out)
    _refuse_compositions(dataset)
    count = 0
    with replacing(path) as temporary, _open_text(temporary, path.suffix == ".gz") as stream:
        for record in read_records(dataset, rows):
            stream.write(frame(record))
            count += 1
    return count


def frame(record: CrystalRecord) -> str:
    """Returns a record as a frame of extended XYZ."""
    columns, names = [record.positions], "species:S:1:pos:R:3"
    entries = {"id": _quoted(record.id), "group": _quoted(record.group)}
    for name, label in sorted(record.labels.items()):
        if label.per_atom:
            values = label.value.reshape(record.num_atoms, -1)
            columns.append(values)
            names += f":{name}:R:{values.shape[1]}"
        else:
            entries[name] = _value(label)
    comment = [f'Lattice="{_numbers(record.cell)}"'] if record.cell.any() else []
    comment += [f"Properties={names}", *(f"{key}={text}" for key, text in entries.items())]
    comment.append(f'pbc="{" ".join("T" if flag else "F" for flag in record.pbc)}"')
    lines = [
        " ".join([SYMBOLS[number], *(_numbers(column[atom]) for column in columns)])
        for atom, number in enumerate(record.numbers.tolist())
    ]
    return "\n".join([str(record.num_atoms), " ".join(comment), *lines, ""])


def export_pyg(
    dataset: Dataset,
    out: str | Path,
    rows: np.ndarray | None = None,
    *,
    cutoff: float | None = None,
) -> int:
    """Writes one file of PyTorch Geometric ``Data`` objects and returns their number.

    ``InMemoryDataset`` reads it (``dataset.load(path)``). Each object has ``z``, ``pos``, ``cell``
    (1, 3, 3), ``pbc`` (1, 3), ``identity``, every label under its name, and with a ``cutoff`` also
    ``edge_index``, ``shifts`` and ``edge_weight`` (distances in Å). PyTorch Geometric's own format
    is a pickle: read such a file only if you made it.

    Args:
        dataset: The prepared data.
        out: File to make; one that exists is replaced.
        rows: Which records; all if ``None``.
        cutoff: Å; whether and how far to build edges.

    Raises:
        ConfigError: If edges are wanted for compositions.
    """
    from torch_geometric.data import InMemoryDataset

    if cutoff is not None:
        _refuse_compositions(dataset)
    objects = [_to_pyg(record, dataset, cutoff) for record in read_records(dataset, rows)]
    with replacing(Path(out)) as temporary:
        InMemoryDataset.save(objects, str(temporary))
    return len(objects)


def _to_pyg(record: CrystalRecord, dataset: Dataset, cutoff: float | None) -> Any:
    import torch
    from torch_geometric.data import Data

    from epitaxy.graph.collate import collate
    from epitaxy.graph.spec import GraphSpec

    spec = GraphSpec(cutoff=cutoff) if cutoff is not None else None
    batch = collate([record], [] if spec is None else [spec], tuple(dataset.fields.values()))
    plain = Data(z=batch.numbers, pos=batch.positions)
    data = plain if spec is None else batch.to_pyg(spec).get_example(0)
    data.cell, data.pbc = batch.cell, torch.from_numpy(record.pbc.copy())[None]
    data.identity, data.batch = record.id, None
    for name, values in batch.labels.items():
        present = bool(batch.masks[name].all())
        data[name] = values if present else torch.full_like(values, float("nan"))
    return data


def _refuse_compositions(dataset: Dataset) -> None:
    from epitaxy.graph.record import AMOUNT

    if AMOUNT in dataset.fields:
        raise ConfigError(
            f"{dataset.path} holds compositions, which have no positions; export it to PyG without "
            "a cutoff"
        )


def _open_text(path: Path, compressed: bool) -> Any:
    if not compressed:
        return path.open("w", encoding="utf-8")
    # Without a time stamp: the same records give the same bytes.
    packed = gzip.GzipFile(path, "wb", mtime=0)
    return io.TextIOWrapper(packed, encoding="utf-8")


def _value(label: Label) -> str:
    return _numbers(label.value) if label.value.size == 1 else f'"{_numbers(label.value)}"'


def _numbers(values: np.ndarray) -> str:
    return " ".join(map(repr, np.asarray(values).reshape(-1).tolist()))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
