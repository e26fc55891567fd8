"""Opening a plan in the middle of a run on ten million records: time and memory of a new process.

The data set is sidecars only, made up: ten million records in groups of one to nine (relaxation
trajectories), 1 to 80 atoms, 12 to 90 neighbours per atom at 8 Å. Each row is a fresh process that
opens the manifest, splits by group, makes the three plans, and deals this rank's share of a step in
the middle of an epoch: what every worker does when a run is resumed. Checksums of the sidecars that
it reads are part of the time; so are the imports.

    python benchmarks/plan.py
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
BATCHES: dict[str, dict[str, Any]] = {
    "128 structures": {"graphs": 128},
    "128 structures, blocks": {"graphs": 128, "shuffle": "blocks"},
    "budget of 200,000 edges": {"edges": 200_000},
}
EPOCH = 37


def write_data_set(folder: Path, count: int) -> None:
    """Writes a manifest and the sidecar arrays that plans read."""
    from epitaxy.data.manifest import FILE_NAME, Manifest, file_entry

    rng = np.random.default_rng(0)
    sidecars = folder / "sidecars"
    sidecars.mkdir()
    group = np.repeat(np.arange(count), rng.integers(1, 10, count))[:count]
    atoms = np.minimum(rng.lognormal(3.0, 0.7, count).astype(np.int64) + 1, 80)
    at_8 = (atoms * rng.uniform(12, 90, count)).astype(np.int32)
    radii = np.array([3.0, 4.0, 5.0, 6.0, 8.0])
    arrays = {
        **_text("ids", np.arange(count)),
        **_text("groups", group),
        "id_keys": rng.integers(0, 2**64, count, dtype=np.uint64),
        "group_keys": rng.integers(0, 2**64, count, dtype=np.uint64)[group],
        "num_atoms": atoms,
        "neighbor_radii": radii,
        "neighbors": np.asfortranarray(
            np.stack([at_8 * (r / 8) ** 3 for r in radii], axis=1).astype(np.int32)
        ),
    }
    for name, values in arrays.items():
        np.save(sidecars / f"{name}.npy", values)
    files = tuple(file_entry(folder, path) for path in sorted(sidecars.iterdir()))
    manifest = Manifest("lmdb", count, (), (), files, "synthetic")
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _text(name: str, numbers: np.ndarray) -> dict[str, np.ndarray]:
    digits = numbers[:, None] // 10 ** np.arange(9, -1, -1) % 10
    content = np.concatenate([np.full((len(numbers), 1), ord("r")), digits + ord("0")], axis=1)
    return {
        name: content.astype(np.uint8).reshape(-1),
        f"{name}_offsets": np.arange(len(numbers) + 1, dtype=np.int64) * 11,
    }


def open_in_the_middle(folder: Path, batch: dict[str, Any]) -> dict[str, Any]:
    """Opens the plan and deals a share; returns seconds and the peak of resident memory."""
    start = time.perf_counter()
    from epitaxy.data.dataset import Dataset
    from epitaxy.data.partition import make_plans
    from epitaxy.graph.spec import GraphSpec

    imported = time.perf_counter()
    data = Dataset.open(folder)
    plans, _ = make_plans(
        data, split={"by": "group"}, filter={}, batch=batch, spec=GraphSpec(), seed=0
    )
    planned = time.perf_counter()
    steps = plans["train"].num_steps(EPOCH)
    share = plans["train"].share(EPOCH, steps // 2, 3, 8, 1)
    dealt = time.perf_counter()
    plans["train"].share(EPOCH, steps // 2 + 1, 3, 8, 1)
    return {
        "records": len(data),
        "train_records": plans["train"].num_records,
        "steps": steps,
        "share": len(share[0]),
        "seconds_imports": round(imported - start, 2),
        "seconds_open_split_plan": round(planned - imported, 2),
        "seconds_epoch_and_first_share": round(dealt - planned, 2),
        "seconds_next_share": round(time.perf_counter() - dealt, 5),
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int:
    """Returns the peak of resident memory of this process, mapped files included."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="made-up data set to use again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        json.dump(open_in_the_middle(arguments.folder, json.loads(arguments.child)), sys.stdout)
        return
    from rounds import machine

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "manifest.json").is_file():
            folder.mkdir(exist_ok=True)
            write_data_set(folder, arguments.records)
        table = []
        for name, batch in BATCHES.items():
            command = [sys.executable, __file__, "--folder", str(folder)]
            child = subprocess.run(
                [*command, "--child", json.dumps(batch)], stdout=subprocess.PIPE, check=True
            )
            row = {"batch": name, **json.loads(child.stdout)}
            table.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    origin = {"command": "python " + shlex.join(sys.argv), "machine": machine()}
    path = RESULTS / "plan.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*table[0], *origin], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **origin} for row in table)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
