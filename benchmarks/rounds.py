"""What the benchmarks share: taking turns, ratios round by round, tables with their origin.

Variants run one after the other in every round, so that a busy machine slows all alike, and the
ratio is taken within each round. Times are CPU seconds of this process.
"""

from __future__ import annotations

import csv
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.data.recipe import load_recipe
from epitaxy.graph.record import CrystalRecord

RESULTS = Path(__file__).parent / "results"
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"
FRAMES = Path("forces") / "mattersim" / "mptrj-random-1k.xyz.gz"


def data_folder(given: str | None) -> Path:
    """Returns the folder of real data, or leaves with a sentence that says what is missing."""
    folder = Path(given or os.environ.get("EPITAXY_DATA", DEFAULT_DATA))
    if not (folder / FRAMES).is_file():
        sys.exit(
            f"no real frames at {folder / FRAMES}: this benchmark needs the MPtrj frames of "
            "MatterSim; give their folder with --data or EPITAXY_DATA"
        )
    return folder


def real_frames(data: Path, count: int) -> list[CrystalRecord]:
    """Returns the first ``count`` MPtrj frames with their labels."""
    items = load_recipe("mattersim").open_source().read(str(data / FRAMES))
    records = (item for item in items if isinstance(item, CrystalRecord))
    return list(islice(records, count))


def take_turns(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Returns CPU seconds per variant and round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def rows(
    seconds: Mapping[str, np.ndarray], structures: int, edges: int, **facts: Any
) -> Iterator[dict[str, Any]]:
    """Yields one row per variant; ``times_ours`` is its time over that of the first variant."""
    ours = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratios = values / ours
        yield {
            **facts,
            "variant": name,
            "structures": structures,
            "edges": edges,
            "us_per_structure": round(1e6 * float(np.median(values)) / structures, 2),
            "ns_per_edge": round(1e9 * float(np.median(values)) / edges, 2),
            "times_ours": round(float(np.median(ratios)), 2),
            "times_ours_min": round(float(ratios.min()), 2),
            "times_ours_max": round(float(ratios.max()), 2),
            "rounds": len(values),
        }


def report(name: str, table: list[dict[str, Any]]) -> None:
    """Prints the table and writes ``results/<name>.csv``, each row with command and machine."""
    for row in table:
        spread = f"[{row['times_ours_min']}, {row['times_ours_max']}]"
        print(
            f"{row['cutoff']:>4} Å  {row['variant']:<42} {row['us_per_structure']:>10} µs/structure"
            f" {row['ns_per_edge']:>8} ns/edge   {row['times_ours']:>6} × ours {spread}"
        )
    origin = {"command": "python " + shlex.join(sys.argv), "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*table[0], *origin], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **origin} for row in table)
    print(f"written to {path}")


def machine() -> str:
    """Returns processor, cores and the versions that matter."""
    import numba
    import pymatgen.core

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"numpy {np.__version__}, numba {numba.__version__}, "
        f"pymatgen-core {pymatgen.core.__version__}"
    )
