"""epitaxy: encoded records from a shard, graphs of the whole batch in one go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.graph.spec import GraphSpec
from peers.frames import CUTOFF, Frame, Frames


def record_of(name: str, frame: Frame) -> CrystalRecord:
    labels = {
        "energy": Label(frame.energy, "eV"),
        "forces": Label(frame.forces, "eV/Å", per_atom=True),
        "stress": Label(frame.stress, "eV/Å^3"),
    }
    return CrystalRecord(name, frame.numbers, frame.positions, frame.cell, labels=labels)


def lmdb(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
    """From disk."""
    records = [record_of(f"frame-{row}", frame) for row, frame in enumerate(frames)]
    prepare(records, folder / "epitaxy", checks="off", progress=False)
    data, spec = Dataset.open(folder / "epitaxy"), GraphSpec(cutoff=CUTOFF)
    fields = tuple(data.fields.values())

    def batch_of(rows: list[int]) -> int:
        read = [decode(blob) for blob in data.read(rows)]
        return collate(read, [spec], fields).graph(spec).num_edges

    return batch_of


VARIANTS = {"lmdb": lmdb}
