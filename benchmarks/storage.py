"""Bytes per structure and time of random reads, beside pickled PyG ``Data`` with edges.

Both sides carry the same labels and are read warm, decoded into arrays or tensors; the pickles hold
8 Å edges (two i8), their images (three f4) and distances (f4): 32 bytes per edge, which epitaxy
builds when it collates. ``read`` is in random order, 64 at a time; ``single_read`` is one call per
record.

    python benchmarks/storage.py
"""

from __future__ import annotations

import argparse
import csv
import gzip
import pickle
import shlex
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.graph.record import CrystalRecord, Label
from peers.frames import Frame
from peers.peer_pyg import graph_of, neighbours, write_pickles
from rounds import RESULTS, data_folder, machine, real_frames, take_turns

BATCH = 64


def energies_only(path: Path, count: int) -> list[CrystalRecord]:
    """Returns relaxed crystals of the Materials Project with one energy (eV per atom) each."""
    import warnings

    from pymatgen.core import Structure

    warnings.simplefilter("ignore", UserWarning)  # fractional coordinates that are rounded

    records = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        for row in list(csv.DictReader(stream))[:count]:
            crystal = Structure.from_str(row["cif"], fmt="cif")
            energy = Label(float(row["formation_energy_per_atom"]), "eV/atom")
            records.append(
                CrystalRecord(
                    row["material_id"], np.array(crystal.atomic_numbers), crystal.cart_coords,
                    crystal.lattice.matrix, labels={"formation_energy": energy},
                )
            )  # fmt: skip
    return records


def pickled(record: CrystalRecord) -> Any:
    """Returns a record as PyG ``Data`` with edges and the labels that it has."""
    values = {name: label.value for name, label in record.labels.items()}
    frame = Frame(
        record.numbers.astype(int),
        np.array(record.positions),
        np.array(record.cell),
        float(values.get("energy", values.get("formation_energy", 0.0))),
        np.array(values.get("forces", np.zeros((0, 3)))),
        np.array(values.get("stress", np.zeros((0, 3)))),
    )
    graph = graph_of(frame, neighbours(record.positions, record.cell))
    for name in {"forces", "stress"} - set(values):
        del graph[name]
    return graph


def compare(title: str, records: list[CrystalRecord], rounds: int, folder: Path) -> dict[str, Any]:
    """Returns sizes and times of both sides for one set of records."""
    graphs = [pickled(record) for record in records]
    theirs = write_pickles(graphs, folder / "pyg.lmdb")
    ours_folder = folder / "ours"
    prepare(records, ours_folder, checks="off", progress=False)
    data = Dataset.open(ours_folder)
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    environment = lmdb.open(
        str(folder / "pyg.lmdb"), subdir=False, readonly=True, lock=False, readahead=False
    )

    def read_ours(together: int) -> None:
        for first in range(0, len(order), together):
            for blob in data.read(order[first : first + together]):
                decode(blob)

    def read_theirs(together: int) -> None:
        for first in range(0, len(order), together):
            with environment.begin() as transaction:
                for row in order[first : first + together]:
                    pickle.loads(transaction.get(str(row).encode()))

    variants = {
        (side, together): partial(read, together)
        for together in (BATCH, 1)
        for side, read in (("ours", read_ours), ("pickled", read_theirs))
    }
    seconds = take_turns(variants, rounds)
    payload = sum(len(blob) for blob in data.read(range(len(data))))
    files = sum(path.stat().st_blocks * 512 for path in ours_folder.rglob("*.lmdb"))
    their_file = (folder / "pyg.lmdb").stat().st_blocks * 512
    return {
        "structures": title,
        "records": len(records),
        "edges": sum(graph.num_edges for graph in graphs),
        "payload_bytes": round(payload / len(records), 1),
        "pickled_payload_bytes": round(theirs / len(records), 1),
        "payload_ratio": round(theirs / payload, 1),
        "file_bytes": round(files / len(records), 1),
        "pickled_file_bytes": round(their_file / len(records), 1),
        "file_ratio": round(their_file / files, 1),
        **times(seconds, BATCH, len(records), "read"),
        **times(seconds, 1, len(records), "single_read"),
        "rounds": rounds,
    }


def times(
    seconds: dict[tuple[str, int], np.ndarray], together: int, count: int, name: str
) -> dict[str, float]:
    """Returns the time per record of both sides (µs), and the ratio with its spread."""
    ours, theirs = seconds["ours", together], seconds["pickled", together]
    ratios = theirs / ours
    return {
        f"{name}_us": round(1e6 * float(np.median(ours)) / count, 2),
        f"pickled_{name}_us": round(1e6 * float(np.median(theirs)) / count, 2),
        f"{name}_ratio": round(float(np.median(ratios)), 1),
        f"{name}_ratio_min": round(float(ratios.min()), 1),
        f"{name}_ratio_max": round(float(ratios.max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=900)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    folder = data_folder(arguments.data)
    sets: dict[str, Callable[[], list[CrystalRecord]]] = {
        "MPtrj frames: energy, forces, stress": lambda: real_frames(folder, arguments.structures),
        "MPtrj frames: energy": lambda: [
            record.replace(labels={"energy": record.labels["energy"]})
            for record in real_frames(folder, arguments.structures)
        ],
        "MP-20 crystals: energy": lambda: energies_only(
            folder / "small" / "mp_2000.csv.gz", arguments.structures
        ),
    }
    table = []
    for title, load in sets.items():
        with tempfile.TemporaryDirectory() as place:
            table.append(compare(title, load(), arguments.rounds, Path(place)))
        print("\n".join(f"  {name:<22}{value}" for name, value in table[-1].items()), flush=True)
    origin = {"command": "python " + shlex.join(sys.argv), "machine": machine()}
    with (RESULTS / "storage.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*table[0], *origin], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **origin} for row in table)


if __name__ == "__main__":
    main()
