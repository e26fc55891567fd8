"""Learning curves of every encoder preset, trained as a user would: `prepare`, then `pretrain`.

Formation energies of 2,000 crystals of the Materials Project, and energies, forces and stresses of
300 DFT frames for the presets that can be differentiated. All have the same batch, optimiser and
schedule; none is tuned. A preset that would take longer than ``--minutes`` gets fewer epochs, with
a schedule as short: how many fit is measured beforehand on a few steps. Finished runs in ``--home``
are not repeated, others go on from their last epoch; each is a process of its own, on one thread.

    python benchmarks/training_curves.py --home /tmp/curves

Writes ``results/training_curves.csv`` and ``docs/images/training_curves.png`` whenever a run ends.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epitaxy.app.compose import compose
from epitaxy.data.dataset import Dataset
from epitaxy.data.splits import make_split
from epitaxy.errors import NeedsError, closest
from epitaxy.train.folders import read_json, write_json
from epitaxy.train.logs import TIMING, read_metrics
from rounds import DEFAULT_DATA, RESULTS, machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "training_curves.png"
TABLE = RESULTS / "training_curves.csv"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
COMMON = ("compute=local", "compute.threads=1", "tracking=null", "loop.log_every=1000000")
PAPER = "_paper"
TICKS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
MORE_COLOURS = ("#7F3C8D", "#8C564B", "#4D4D4D", "#999933", "#882255")
REFUSED = 3
"""Exit status of a child whose encoder cannot learn the task."""
PROBE_STEPS = 3
"""Steps of an epoch of the run that measures how long an epoch takes."""


@dataclass(frozen=True)
class Task:
    """What is learnt from which file.

    Attributes:
        source: Below the folder of real data.
        recipe: Reads it.
        settings: Of every run, besides the encoder and the number of epochs.
        batch: Structures per step.
        metric: Key of the validation lines.
        unit: Of the metric.
        title: Of the panel.
        trivial: What the dashed line is.
    """

    source: str
    recipe: str
    settings: tuple[str, ...]
    batch: int
    metric: str
    unit: str
    title: str
    trivial: str


TASKS = {
    "formation_energy": Task(
        "small/mp_2000.csv.gz",
        "mp_csv",
        ("objective=regression", "objective.label=formation_energy_per_atom", "optimizer.lr=1e-3"),
        32,
        "val/formation_energy_per_atom_mae",
        "eV/atom",
        "formation energy, 1,600 crystals",
        "mean of the training labels",
    ),
    "forces": Task(
        "small/forces_300.xyz.gz",
        "mattersim",
        ("objective=energy_force_stress", "optimizer.lr=1e-3"),
        8,
        "val/forces_mae",
        "eV/Å",
        "forces, with energies and stresses, 240 frames",
        "no forces",
    ),
}


@cache
def encoders() -> list[str]:
    """Returns the presets of the group, the recommended ones first."""
    return sorted(compose("pretrain").options["encoder"], key=lambda name: (PAPER in name, name))


def open_data(task: str, data: Path, home: Path) -> Dataset:
    """Returns the data set of a task, prepared at the first call."""
    folder = home / "data" / task
    if not (folder / "manifest.json").is_file():
        from epitaxy.app.api import prepare

        recipe, source = TASKS[task].recipe, str(data / TASKS[task].source)
        prepare(recipe=recipe, source=source, out=str(folder), card=False, workers=1)
    return Dataset.open(folder)


def trivial_error(task: str, data: Dataset) -> float:
    """Returns the validation error of the mean training label, or of no forces at all."""
    rows = make_split(data).rows
    if task == "forces":
        records = (data.record(int(row)) for row in rows["val"])
        forces = np.concatenate([record.labels["forces"].value for record in records])
        return float(np.abs(forces).mean())
    label = "formation_energy_per_atom"
    train, val = (data.label_table(rows[name]).scalar(label) for name in ("train", "val"))
    return float(np.abs(val - train.mean()).mean())


def overrides(task: str, encoder: str, home: Path) -> list[str]:
    """Returns the settings of a run, but for its name and length."""
    fixed = [f"data={home / 'data' / task}", f"encoder={encoder}", *TASKS[task].settings]
    return [*fixed, f"batch.graphs={TASKS[task].batch}", *COMMON]


def seconds_per_epoch(task: str, encoder: str, home: Path) -> float:
    """Returns the CPU time of an epoch with its validation, from short runs.

    CPU time, so that a busy machine does not make epochs fewer; the first run compiles.
    """
    from epitaxy.app.api import pretrain

    batch, name = TASKS[task].batch, f"{task}-{encoder}"
    sizes = f"split.sizes={[PROBE_STEPS * batch, PROBE_STEPS * batch // 8, 0]}"
    place, took = home / "probes", []
    for epochs in (1, 1, 3):
        shutil.rmtree(place / "runs" / name, ignore_errors=True)
        given = [*overrides(task, encoder, home), sizes, f"home={place}", f"run.name={name}"]
        began = time.process_time()
        run = pretrain(*given, f"loop.epochs={epochs}")
        took.append(time.process_time() - began)
    full = len(make_split(Dataset.open(home / "data" / task)).rows["train"])
    return 1.5 * (took[2] - took[1]) * full / run.history[-1]["records"]


def train(task: str, encoder: str, command: str, arguments: argparse.Namespace) -> None:
    """Trains one preset, in as many epochs as fit into the minutes that it has."""
    from epitaxy.app.api import pretrain
    from epitaxy.train.checkpoint import load_model

    home, name = arguments.home, f"{task}-{encoder}"
    chosen, failure = home / "plans" / f"{name}.json", home / "plans" / f"{name}.failed"
    if failure.exists():  # its checkpoints may be of other code
        shutil.rmtree(home / "runs" / name, ignore_errors=True)
        failure.unlink()
    try:
        if not chosen.is_file():
            fit = arguments.epochs
            if arguments.minutes:
                seconds = seconds_per_epoch(task, encoder, home)
                fit = max(1, min(fit, int(60 * arguments.minutes / seconds)))
            write_json(chosen, {"epochs": fit, "command": command})
        length = f"loop.epochs={read_json(chosen)['epochs']}"
        given = [*overrides(task, encoder, home), f"home={home}", f"run.name={name}"]
        run = pretrain(*given, length)
    except NeedsError as error:
        print(error)
        sys.exit(REFUSED)
    except Exception as error:
        failure.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise
    model, _, _ = load_model(run.model)
    parameters = sum(weights.numel() for weights in model.parameters())
    write_json(chosen, {**read_json(chosen), "parameters": parameters})


def start(task: str, encoder: str, arguments: argparse.Namespace) -> str:
    """Runs ``train`` in a process of its own and returns how that ended, in a line."""
    home, name = arguments.home, f"{task}-{encoder}"
    print(f"{name}: started", file=sys.stderr, flush=True)
    began, log = time.monotonic(), home / "logs" / f"{name}.log"
    limits = ["--epochs", str(arguments.epochs), "--minutes", str(arguments.minutes)]
    command = "python " + shlex.join(sys.argv)
    with log.open("w", encoding="utf-8") as stream:
        status = subprocess.run(
            [sys.executable, __file__, "--home", home, *limits, "--child", task, encoder, command],
            stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **ONE_THREAD}, check=False,
        ).returncode  # fmt: skip
    last = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
    if status:
        return f"{name}: {'not run' if status == REFUSED else f'FAILED ({log})'}: {last}"
    (*_, final) = points(home / "runs" / name, TASKS[task].metric)
    error = f"{final['val_mae']:.4g} {TASKS[task].unit}"
    return f"{name}: {error} after {final['epoch']} epochs, {time.monotonic() - began:.0f} s"


def points(run: Path, metric: str) -> Iterator[dict[str, Any]]:
    """Yields an entry per epoch; seconds are those of the training steps, waiting included."""
    lines = (run / TIMING).read_text(encoding="utf-8").splitlines()
    timing = {line["steps"]: line for line in map(json.loads, lines)}  # undone steps come again
    history = read_metrics(run)
    losses = {line["epoch"]: line["train/loss"] for line in history if line["kind"] == "train"}
    for line in history:
        if line["kind"] == "val":
            past = [entry["seconds"] for steps, entry in timing.items() if steps <= line["steps"]]
            yield {
                "epoch": line["epoch"] + 1,
                "train_loss": round(losses[line["epoch"]], 5),
                "val_mae": round(line[metric], 5),
                "train_seconds": round(sum(past), 1),
            }


def collect(home: Path) -> list[dict[str, Any]]:
    """Returns a row per task, preset and epoch of all finished runs, and one per failed run."""
    table = []
    for name, task in TASKS.items():
        if not (home / "data" / name / "manifest.json").is_file():
            continue
        trivial = round(trivial_error(name, Dataset.open(home / "data" / name)), 5)
        settings = " ".join([*task.settings, f"batch.graphs={task.batch}", *COMMON[:2]])
        origin = {"settings": settings, "machine": machine()}
        for encoder in encoders():
            known = {"task": name, "encoder": encoder, "trivial_mae": trivial, "unit": task.unit}
            found = outcome(home, f"{name}-{encoder}", task.metric)
            table += [{**known, **row, **origin} for row in found]
    return table


def outcome(home: Path, name: str, metric: str) -> list[dict[str, Any]]:
    """Returns a row per epoch of a finished run, one with a note of a failed run, else none."""
    failure, facts = home / "plans" / f"{name}.failed", facts_of(home, name)
    if failure.exists():
        return [{"note": failure.read_text(encoding="utf-8")}]
    known = {key: facts[key] for key in ("parameters", "command")} if facts else {}
    return [{**row, **known} for row in points(home / "runs" / name, metric)] if facts else []


def facts_of(home: Path, name: str) -> dict[str, Any]:
    """Returns what is known of a finished run; nothing of others."""
    path = home / "plans" / f"{name}.json"
    facts = read_json(path) if path.is_file() else {}
    return facts if "parameters" in facts else {}


def write(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the table."""
    first = ("task", "encoder", "epoch", "train_loss", "val_mae", "trivial_mae", "unit")
    columns = (*first, "train_seconds", "parameters", "note", "settings", "command", "machine")
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def draw(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws a panel per task; every curve has its name and last value at the right."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from epitaxy.report.drawing import PALETTE, STYLE, png

    families = sorted({name.removesuffix(PAPER) for name in encoders()})
    colours = dict(zip(families, [*PALETTE, *MORE_COLOURS], strict=False))
    names = list(dict.fromkeys(row["task"] for row in table))
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2 * len(names), 5.8), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(names)))
        for panel, name in zip(panels, names, strict=True):
            draw_panel(panel, name, [row for row in table if row["task"] == name], colours)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(figure))


def draw_panel(
    panel: Axes, task: str, table: Sequence[dict[str, Any]], colours: dict[str, str]
) -> None:
    """Draws the curves of one task on a logarithmic axis."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    last = max(int(row.get("epoch") or 0) for row in table)
    labels = []
    for encoder, rows in groupby(table, key=lambda row: row["encoder"]):
        curve = [(int(row["epoch"]), float(row["val_mae"])) for row in rows if row.get("epoch")]
        if not curve:
            continue
        colour, paper = colours[encoder.removesuffix(PAPER)], encoder.endswith(PAPER)
        style: Any = {"linestyle": (0, (3, 1.5)), "linewidth": 1.1} if paper else {"linewidth": 1.7}
        panel.plot(*zip(*curve, strict=True), color=colour, **style)
        panel.plot(*curve[-1], marker="o", markersize=3, color=colour, clip_on=False)
        labels.append((*curve[-1], encoder, colour))
    trivial = float(table[0]["trivial_mae"])
    panel.plot([0, last], [trivial, trivial], color="#555555", linestyle="--", linewidth=1.0)
    place: Any = {"xytext": (4, 3), "textcoords": "offset points", "color": "#555555"}
    panel.annotate(TASKS[task].trivial, (0, trivial), **place)
    panel.set(yscale="log", xlim=(0, last), xlabel="epoch")
    panel.yaxis.set_major_locator(LogLocator(subs=TICKS))
    panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_ylabel(f"validation MAE ({TASKS[task].unit})")
    panel.set_title(TASKS[task].title, loc="left")
    label_curves(panel, labels, last)


def label_curves(panel: Axes, labels: list[tuple[int, float, str, str]], last: int) -> None:
    """Writes names beside the ends of curves, spread so that none covers another."""
    labels = sorted(labels, key=lambda label: label[1])
    low, high = np.log(panel.get_ylim())
    places: list[float] = []
    gap = (high - low) / 25
    for _, value, *_ in labels:
        places.append(max(np.log(value), places[-1] + gap) if places else np.log(value))
    shift = np.mean([np.log(label[1]) for label in labels]) - np.mean(places)
    shift = min(max(shift, low + gap / 2 - places[0]), high - gap / 2 - places[-1])
    for (epoch, value, encoder, colour), place in zip(labels, np.exp(places + shift), strict=True):
        ends = [epoch, 1.05 * last], [value, place]
        panel.plot(*ends, color=colour, linewidth=0.5, linestyle=":", clip_on=False)
        text = f"{encoder.replace('_', ' ')}  {value:.3f}"
        short = f"  ({epoch} epochs)" if epoch < last else ""
        panel.text(1.06 * last, place, text + short, color=colour, va="center", fontsize=8)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--home", type=Path, help="where runs are kept, to go on with them")
    parser.add_argument("--encoders", nargs="+", default=encoders(), metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--epochs", type=int, default=20, help="of every run, at most")
    parser.add_argument("--minutes", type=float, default=6.0, help="of CPU per run; 0: no limit")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, on a core each")
    parser.add_argument("--redraw", action="store_true", help="draw the recorded table again")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in set(arguments.encoders).difference(encoders()):
        parser.error(f"no encoder {name!r}; {closest(name, encoders())}")
    if arguments.home is None and not arguments.redraw:
        parser.error("--home is missing: the folder where runs are kept")
    return arguments


def main() -> None:
    arguments = parsed()
    if arguments.redraw:
        with TABLE.open(encoding="utf-8", newline="") as stream:
            draw(list(csv.DictReader(stream)), PICTURE)
        return
    arguments.home = arguments.home.absolute()
    if arguments.child:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        task, encoder, command = arguments.child
        train(task, encoder, command, arguments)
        return
    data = Path(arguments.data or os.environ.get("EPITAXY_DATA", DEFAULT_DATA))
    for task in arguments.tasks:
        if not (data / TASKS[task].source).is_file():
            sys.exit(f"no data at {data / TASKS[task].source}; give their folder with --data")
        open_data(task, data, arguments.home)
    for folder in ("logs", "plans"):
        (arguments.home / folder).mkdir(exist_ok=True)
    names = [name for name in encoders() if name in arguments.encoders]
    queue = [(task, name) for task in arguments.tasks for name in names]
    queue.sort(key=lambda item: item[1].endswith(PAPER))
    missing = [item for item in queue if not facts_of(arguments.home, "-".join(item))]
    print(f"{len(queue) - len(missing)} of {len(queue)} runs finished before", file=sys.stderr)
    refresh(arguments.home)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(start, *item, arguments) for item in missing]):
            print(done.result(), file=sys.stderr, flush=True)
            refresh(arguments.home)


def refresh(home: Path) -> None:
    """Writes and draws what there is."""
    if table := collect(home):
        write(table, TABLE)
        draw(table, PICTURE)


if __name__ == "__main__":
    main()
