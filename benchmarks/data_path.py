"""CPU time to a training batch with 8 Å graphs, in random order, beside other programs.

Every contestant is a process in its own environment (``benchmarks/peers/install.sh`` makes them)
that does one round when asked: the same structures in the same batches. Rounds are interleaved and
each ratio is taken within one, so that a busy machine slows all alike. Contestants that build edges
must arrive at the same number of them; those that start from objects in memory are spared the read.

    python benchmarks/data_path.py
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.graph.record import CrystalRecord
from peers.frames import CUTOFF, Frames
from rounds import RESULTS, data_folder, real_frames, report, rows

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "data_path.png"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SAME_EDGES = 1e-4
"""Fraction by which counts of edges may differ: rounding decides on pairs at the cutoff."""


@dataclass(frozen=True)
class Contestant:
    """A program to measure.

    Attributes:
        variant: ``module:variant`` in ``peers``.
        environment: Below ``EPITAXY_PEERS``; empty for this one.
        title: In tables and pictures.
        start: Where it takes structures from.
    """

    variant: str
    environment: str
    title: str
    start: str = "memory"


CONTESTANTS = (
    Contestant("peer_epitaxy:lmdb", "", "epitaxy, LMDB", "disk"),
    Contestant("peer_pyg:pickles", "", "LMDB of pickled PyG, Batch", "disk, with edges"),
    Contestant("peer_fairchem:pymatgen", "fairchem", "fairchem ASE-LMDB, pymatgen edges", "disk"),
    Contestant("peer_fairchem:no_graph", "fairchem", "fairchem ASE-LMDB", "disk, no edges"),
    Contestant("peer_pyg:sqlite", "", "ASE sqlite, pymatgen Structure, Batch", "disk"),
    Contestant("peer_pyg:sqlite_kernel", "", "ASE sqlite, pymatgen kernel, Batch", "disk"),
    Contestant("peer_matgl:converter", "matgl", "matgl Structure2Graph, collate"),
    Contestant("peer_mace:configurations", "mace", "mace AtomicData, Batch"),
    Contestant("peer_alignn:matscipy", "alignn", "alignn torch graph (matscipy), batch"),
    Contestant("peer_alignn:torch", "alignn", "alignn torch graph, batch"),
    Contestant("peer_nvalchemi:naive", "nvalchemi", "nvalchemi naive list, no labels"),
)


class Server:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, frames: Path, folder: Path) -> None:
        self.title, self.start = contestant.title, contestant.start
        self._log = (folder / f"{contestant.variant.replace(':', '-')}.log").open("w+")
        self._process = subprocess.Popen(
            [interpreter(contestant), "-m", "peers.serve", contestant.variant, frames, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(Path(__file__).parent)},
        )

    def answer(self) -> dict[str, Any]:
        """Returns what its next round took; the first comes without asking."""
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self.title} failed:\n{self._log.read()[-2000:]}")
        return json.loads(line)

    def round(self) -> dict[str, Any]:
        """Returns what one more round took."""
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def interpreter(contestant: Contestant) -> str:
    """Returns the Python of a contestant's environment."""
    if not contestant.environment:
        return sys.executable
    folder = Path(os.environ.get("EPITAXY_PEERS", Path.home() / ".cache" / "epitaxy-peers"))
    return str(folder / contestant.environment / "bin" / "python")


def frames_of(records: list[CrystalRecord], batch: int) -> Frames:
    """Returns records as arrays, with batches in random order."""
    order = np.random.default_rng(0).permutation(len(records))
    labels = {
        "energy": np.array([float(record.labels["energy"].value) for record in records]),
        "forces": np.concatenate([record.labels["forces"].value for record in records]),
        "stress": np.stack([record.labels["stress"].value for record in records]),
    }
    arrays = {
        "offsets": np.cumsum([0, *(record.num_atoms for record in records)]),
        "numbers": np.concatenate([record.numbers for record in records]),
        "positions": np.concatenate([record.positions for record in records]),
        "cell": np.stack([record.cell for record in records]),
    }
    batches = [order[first : first + batch].tolist() for first in range(0, len(order), batch)]
    return Frames({**arrays, **labels}, batches)


def measure(contestants: list[Contestant], frames: Frames, rounds: int) -> list[dict[str, Any]]:
    """Returns one row per round and contestant."""
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames.save(folder / "frames.npz")
        servers = []
        for contestant in contestants:  # one by one: each fills its store first
            servers.append(Server(contestant, folder / "frames.npz", folder))
            print(f"{contestant.title}: {servers[-1].answer()['edges']} edges", flush=True)
        for number in range(rounds):
            for server in servers:
                facts = {"round": number, "contestant": server.title, "starts_from": server.start}
                measured.append({**facts, **server.round()})
        for server in servers:
            server.close()
    return measured


def summarise(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row per contestant; ratios are taken round by round.

    Raises:
        SystemExit: If a contestant that builds edges found others.
    """
    seconds: dict[str, list[float]] = {}
    last = {row["contestant"]: row for row in measured}
    for row in measured:
        seconds.setdefault(row["contestant"], []).append(row["cpu_seconds"])
    arrays = {title: np.array(values) for title, values in seconds.items()}
    first = measured[0]
    table = list(rows(arrays, first["structures"], first["edges"], cutoff=CUTOFF))
    for row in table:
        other = last[row["variant"]]
        row["starts_from"], row["edges"] = other["starts_from"], other["edges"]
        off = abs(row["edges"] - first["edges"]) / first["edges"]
        if off > SAME_EDGES and "no edges" not in row["starts_from"]:
            raise SystemExit(f"{row['variant']} finds {row['edges']} edges, not {first['edges']}")
    return table


def write_rounds(measured: list[dict[str, Any]], path: Path) -> None:
    """Writes every round as it was measured."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, measured[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(measured)


def draw(table: list[dict[str, Any]], path: Path) -> None:
    """Draws time per structure in units of the first contestant's, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = sorted(table, key=lambda row: -row["times_ours"])
    colours = {"memory": "#9db4c0", "disk": "#5c6b73"}
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(shown) + 1.2), layout="constrained")
    for place, row in enumerate(shown):
        colour = colours[row["starts_from"].split(",")[0]]
        colour = "#c8553d" if row is table[0] else colour
        ratio, low, high = (row[f"times_ours{end}"] for end in ("", "_min", "_max"))
        axes.barh(place, ratio, color=colour, height=0.7)
        axes.plot([low, high], [place, place], color="black", linewidth=1.2)
        axes.text(high * 1.06, place, f"{ratio:.3g}", va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [f"{r['variant']}  [{r['starts_from']}]" for r in shown])
    axes.set_xscale("log")
    limit = 1.5 * max(row["times_ours_max"] for row in table)
    axes.set_xlim(0.7, limit)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick < limit]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("CPU time per structure, epitaxy = 1 (median of rounds; line: spread)")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    axes.legend(handles, [f"starts from {start}" for start in colours], frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names, epitaxy besides")
    parser.add_argument("--redraw", action="store_true", help="draw the recorded table again")
    arguments = parser.parse_args()
    if arguments.redraw:
        with (RESULTS / "data_path.csv").open(encoding="utf-8") as stream:
            table = list(csv.DictReader(stream))
        draw([{k: float(v) if "times" in k else v for k, v in r.items()} for r in table], PICTURE)
        return
    contestants = []
    for contestant in CONTESTANTS:
        wanted = not arguments.only or any(part in contestant.variant for part in arguments.only)
        if not (wanted or contestant is CONTESTANTS[0]):
            continue
        if Path(interpreter(contestant)).is_file():
            contestants.append(contestant)
        else:
            print(f"left out: {contestant.title}; benchmarks/peers/install.sh installs it")
    records = real_frames(data_folder(arguments.data), arguments.structures)
    measured = measure(contestants, frames_of(records, arguments.batch), arguments.rounds)
    table = summarise(measured)
    report("data_path", table)
    if not arguments.only:
        write_rounds(measured, RESULTS / "data_path_rounds.csv")
        draw(table, PICTURE)


if __name__ == "__main__":
    main()
