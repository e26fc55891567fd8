"""Where the time of one epoch of a real pre-training run goes.

CGCNN learns energies, forces and stresses of real MPtrj frames, in this process. The first epoch
warms up; the second is measured. Every stage is timed in the thread that does it, without the
stages inside it. The prefetch thread works beside the training: what counts is how long the
training waits for it.

    python benchmarks/epoch_profile.py --frames 512

Writes ``results/epoch_profile.csv`` and ``docs/images/epoch_profile.png``.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from epitaxy.data import prefetch, stream
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.graph import collate
from epitaxy.objectives.energy_force_stress import EnergyForceStress
from epitaxy.train import assemble, recorder, step, transfer, worker
from epitaxy.train.launch import launch
from epitaxy.train.settings import (
    BatchSettings,
    ComputeSettings,
    LoopSettings,
    RunSettings,
    SplitSettings,
)
from rounds import RESULTS, data_folder, machine, real_frames

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "epoch_profile.png"
TRAINING, PREFETCH = "training", "prefetch"
COLORS = plt.get_cmap("Set2").colors

STAGES: tuple[tuple[str, Any, str], ...] = (
    ("read", Dataset, "read"),
    ("check digests", stream, "_check_records"),
    ("decode", assemble, "decode"),
    ("views", EnergyForceStress, "views"),
    ("edges", collate, "build_edges"),
    ("collate", assemble, "collate"),
    ("send to the device", transfer.Courier, "send"),
    ("wait for data", prefetch, "_wait"),
    ("forward", EnergyForceStress, "terms"),
    ("backward", torch.Tensor, "backward"),
    ("count, reduce, clip", step, "global_counts"),
    ("count, reduce, clip", step.Stepper, "_reduce"),
    ("optimiser", torch.optim.AdamW, "step"),
    ("checkpoint", recorder, "save_checkpoint"),
    ("checkpoint", recorder, "save_model"),
    ("validation", worker, "validate"),
)
"""Name of a stage, where its function is found, and the function's name there."""


class Stopwatch:
    """Wall and CPU seconds of stages by thread, without the stages inside them."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._inner = threading.local()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns ``function``, timed as ``stage``."""

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            outer = getattr(self._inner, "spent", [0.0, 0.0])
            self._inner.spent = spent = [0.0, 0.0]
            began = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                took = (time.perf_counter() - began[0], time.thread_time() - began[1])
                side = PREFETCH if threading.current_thread().name == "prefetch" else TRAINING
                total = self.seconds[side, stage]
                for kind in (0, 1):
                    total[kind] += took[kind] - spent[kind]
                    outer[kind] += took[kind]
                self._inner.spent = outer

        return call

    def clear(self) -> None:
        """Forgets what was measured so far."""
        self.seconds.clear()


def settings(data: Path, root: Path, frames: int) -> RunSettings:
    """The recommended force pre-training, at a size for a laptop."""
    return RunSettings(
        name="profile",
        directory=str(root / "run"),
        data=str(data),
        encoder={"_target_": "epitaxy.encoders.cgcnn.CGCNN"},
        objective={"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress"},
        split=SplitSettings(by="record", sizes=(frames * 7 // 8, frames // 8, 0)),
        batch=BatchSettings(graphs=32),
        loop=LoopSettings(epochs=2),
        compute=ComputeSettings(prefetch=2),
    )


def measure(watch: Stopwatch, run: RunSettings) -> float:
    """Runs two epochs; returns the wall seconds of the second, whose stages ``watch`` holds."""
    for stage, place, name in STAGES:
        setattr(place, name, watch.timed(stage, getattr(place, name)))
    ends: list[float] = []
    epoch_end = recorder.RunRecorder.epoch_end

    def at_end(self: Any, state: Any) -> None:
        epoch_end(self, state)
        ends.append(time.perf_counter())
        if len(ends) == 1:
            watch.clear()

    recorder.RunRecorder.epoch_end = at_end  # type: ignore[method-assign]
    launch(run)
    return ends[1] - ends[0]


def table(watch: Stopwatch, wall: float, records: int) -> list[dict[str, Any]]:
    """Returns a row per stage and thread, the longest first, and what is left of each thread."""
    rows = []
    origin = {"command": "python " + shlex.join(sys.argv), "machine": machine()}
    for side in (TRAINING, PREFETCH):
        stages = {name: took for (thread, name), took in watch.seconds.items() if thread == side}
        rest = wall - sum(took[0] for took in stages.values())
        stages["the rest" if side == TRAINING else "idle"] = [rest, float("nan")]
        for name, (seconds, cpu) in sorted(stages.items(), key=lambda item: -item[1][0]):
            rows.append(
                {
                    "thread": side,
                    "stage": name,
                    "wall_s": round(seconds, 4),
                    "cpu_s": round(cpu, 4),
                    "share_of_epoch": round(seconds / wall, 4),
                    "us_per_structure": round(1e6 * seconds / records, 1),
                    **origin,
                }
            )
    return rows


def draw(rows: list[dict[str, Any]], wall: float, steps: int) -> None:
    """Draws a bar per thread, and one that shows what the prefetch thread does while it works."""
    working = [row for row in rows if row["thread"] == PREFETCH and row["stage"] != "idle"]
    busy = sum(row["share_of_epoch"] for row in working)
    bars = {
        TRAINING: [(r["stage"], r["share_of_epoch"]) for r in rows if r["thread"] == TRAINING],
        PREFETCH: [("at work", busy), ("idle", 1 - busy)],
        f"prefetch at work\n({100 * busy:.2g} % of the epoch)": [
            (row["stage"], row["share_of_epoch"] / busy) for row in working
        ],
    }
    figure, panels = plt.subplots(3, figsize=(9, 6.6), layout="constrained")
    for axes, (name, parts) in zip(panels, bars.items(), strict=True):
        left = 0.0
        for number, (stage, share) in enumerate(parts):
            faint = stage in ("idle", "the rest", "wait for data")
            color = "0.85" if faint else COLORS[number % len(COLORS)]
            label = f"{stage} {100 * share:.3g} %"
            axes.barh(0, 100 * share, left=left, color=color, edgecolor="white", label=label)
            if share > 0.12:
                axes.text(left + 50 * share, 0, stage, ha="center", va="center")
            left += 100 * share
        axes.set(yticks=[0], yticklabels=[name], xlim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    panels[0].set_title(f"% of the {wall:.1f} s of an epoch of {steps} steps", fontsize=10)
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data sets; default EPITAXY_DATA")
    parser.add_argument("--frames", type=int, default=512)
    options = parser.parse_args()
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frames = real_frames(data_folder(options.data), options.frames)
        prepare(frames, root / "data", recipe=None, progress=False, checks="report")
        run = settings(root / "data", root, len(frames))
        wall = measure(watch, run)
    records = run.split.sizes[0] if run.split.sizes else 0
    rows = table(watch, wall, records)
    for row in rows:
        print(
            f"{row['thread']:<9} {row['stage']:<20} {row['wall_s']:>9.3f} s wall "
            f"{row['cpu_s']:>9.3f} s CPU {row['us_per_structure']:>9.1f} µs/structure "
            f"{100 * row['share_of_epoch']:>6.2f} %"
        )
    path = RESULTS / "epoch_profile.csv"
    with path.open("w", encoding="utf-8", newline="") as stream_:
        writer = csv.DictWriter(stream_, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, wall, -(-records // 32))
    print(f"written to {path} and {PICTURE}")


if __name__ == "__main__":
    main()
