"""Every paper's pre-training, shortened, on real data, beside what a trivial prediction scores.

Each case is an experiment of ``jobs/experiment`` with fewer epochs, on a small data set and, where
the published network would take hours on a CPU, its recommended preset. After training, the figures
of the validation split are computed anew from the final weights, and so are those of the trivial
prediction: the mean label, no force, no noise, the most frequent answer, or other crystals in
place of the right ones. A case passes if every figure is below its trivial one by ``--margin``.
Finished runs in ``--home`` are not repeated.

    python benchmarks/objectives.py --home /tmp/objectives

Writes ``results/objectives.csv``, ``results/objectives_curves.csv``, and the pictures
``docs/images/objectives.png`` and ``docs/images/force_parity.png``.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epitaxy.data.dataset import Dataset
from epitaxy.errors import closest
from epitaxy.train.folders import read_json, write_json
from epitaxy.train.logs import read_metrics
from objective_figures import figures_of, parity_of
from objective_pictures import draw_curves, draw_parity
from rounds import DEFAULT_DATA, RESULTS, machine

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
COMMON = ("compute=local", "compute.threads=1", "tracking=null", "loop.log_every=1000000")

DATA = {
    "crystals": ("mp_csv", "small/mp_2000.csv.gz", ("symmetry=true",)),
    "frames": ("mattersim", "small/forces_300.xyz.gz", ()),
    "formulas": ("expt_gap", "composition/matbench_expt_gap.csv", ()),
    "phonons": ("phonons", "transfer7/ph_train.json.gz", ()),
    "dielectric": ("dielectric", "transfer7/dc_train.json.gz", ()),
    "piezoelectric": ("piezoelectric", "transfer7/pz_train.json.gz", ()),
}
MERGED = {"three properties": ("phonons", "dielectric", "piezoelectric")}


@dataclass(frozen=True)
class Case:
    """One shortened experiment.

    Attributes:
        experiment: Its name.
        data: Key of ``DATA`` or ``MERGED``.
        settings: What is shortened or left to the user by the experiment.
        teacher: Published checkpoint that teaches, below the folder of real data.
    """

    experiment: str
    data: str
    settings: tuple[str, ...] = ()
    teacher: str | None = None


_SMALL = ("encoder=torchmd_et", "encoder.width=64", "encoder.layers=3")
_FRAMES = (
    *_SMALL,
    "batch.graphs=8",
    "optimizer.lr=2e-3",
    "loop.epochs=25",
    "split.fractions=[0.8,0.2,0.0]",
)
_CRYSTALS = (*_SMALL, "filter.max_atoms=10", "batch.graphs=32", "loop.epochs=8")
CASES = (
    Case("force_pretraining_1_0_0", "frames", _FRAMES),
    Case("force_pretraining_0_1_0", "frames", _FRAMES),
    Case("force_pretraining_0_1_1", "frames", _FRAMES),
    Case("force_pretraining_1_1_1", "frames", _FRAMES),
    Case("force_pretraining_1_500_500", "frames", _FRAMES),
    Case("force_pretraining_denoise_head", "crystals", _CRYSTALS),
    Case("force_pretraining_denoise_derivative", "crystals", _CRYSTALS),
    Case("crysgnn", "crystals", ("loop.epochs=30", "batch.graphs=64")),
    Case("crysxpp", "crystals", ("loop.epochs=10", "batch.graphs=64")),
    Case("crystal_twins", "crystals", ("loop.epochs=8", "optimizer.lr=1e-3")),
    Case("crystal_twins_simsiam", "crystals", ("loop.epochs=8", "optimizer.lr=1e-3")),
    Case(
        "roost_pretraining_ssl", "formulas", ("encoder=roost", "loop.epochs=8", "optimizer.lr=1e-3")
    ),
    Case(
        "roost_pretraining_fingerprint",
        "formulas",
        ("encoder=roost", "loop.epochs=10", "optimizer.lr=1e-3"),
    ),
    Case(
        "roost_pretraining_multimodal",
        "crystals",
        ("encoder=roost", "loop.epochs=15", "optimizer.lr=1e-3"),
        teacher="checkpoints/crystal_twins_barlow.pth",
    ),
    Case("layer_transfer_formation_energy", "crystals", ("loop.epochs=15",)),
    Case(
        "layer_transfer_combined",
        "crystals",
        ("objective.label=[formation_energy_per_atom,band_gap]", "loop.epochs=15"),
    ),
    Case(
        "pt_ft_pairs_pretrain",
        "phonons",
        ("encoder=alignn", "objective.label=last_phonon_peak", "loop.epochs=12", "batch.graphs=16"),
    ),
    Case(
        "pt_ft_pairs_mpt",
        "three properties",
        ("encoder=alignn", "loop.epochs=6", "batch.graphs=16"),
    ),
)


def prepare_data(data: Path, home: Path) -> None:
    """Imports what the cases read, at the first call."""
    from epitaxy.app import api

    for name, (recipe, source, options) in DATA.items():
        folder = home / "data" / name
        if not (folder / "manifest.json").is_file():
            if not (data / source).is_file():
                sys.exit(f"no data at {data / source}; give their folder with --data")
            given = (f"recipe={recipe}", f"source={data / source}", f"out={folder}")
            api.prepare(*given, *options, "card=false", "workers=1", "checks=report")
    for file in {case.teacher for case in CASES if case.teacher}:
        folder = home / "teachers" / Path(file).stem
        if not folder.is_dir():
            api.registry("import-foreign", file=str(data / file), out=str(folder))
    for name, members in MERGED.items():
        folder = home / "data" / name.replace(" ", "-")
        if not (folder / "manifest.json").is_file():
            paths = [str(home / "data" / member) for member in members]
            api.data("merge", data=paths, out=str(folder))


def overrides(case: Case, home: Path) -> list[str]:
    """Returns the command line of a case after the verb."""
    folder = home / "data" / case.data.replace(" ", "-")
    words = [f"experiment={case.experiment}", f"data={folder}", *case.settings]
    if case.data in MERGED and not any("objective.label" in word for word in words):
        words.append(f"objective.label=[{','.join(sorted(Dataset.open(folder).fields))}]")
    if case.teacher:
        words.append(f"teacher={home / 'teachers' / Path(case.teacher).stem}")
    return [*words, *COMMON, f"home={home}", f"run.name={case.experiment}"]


def run(case: Case, home: Path) -> None:
    """Trains a case and computes its figures; in a process of its own."""
    from epitaxy.app import api

    began = time.process_time()
    words = overrides(case, home)
    trained = api.pretrain(*words)
    seconds = time.process_time() - began
    figures = figures_of(trained.directory)
    content = {
        "figures": [vars(figure) for figure in figures],
        "parity": parity_of(trained.directory),
        "command": "epitaxy pretrain " + shlex.join(words),
        "cpu_seconds": round(seconds, 1),
    }
    write_json(home / "figures" / f"{case.experiment}.json", content)


def start(case: Case, home: Path) -> str:
    """Runs a case in a process of its own and returns how that ended, in a line."""
    log = home / "logs" / f"{case.experiment}.log"
    print(f"{case.experiment}: started", file=sys.stderr, flush=True)
    with log.open("w", encoding="utf-8") as stream:
        status = subprocess.run(
            [sys.executable, __file__, "--home", home, "--child", case.experiment],
            stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **ONE_THREAD}, check=False,
        ).returncode  # fmt: skip
    if status:
        last = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        return f"{case.experiment}: FAILED ({log}): {last}"
    found = read_json(home / "figures" / f"{case.experiment}.json")
    told = ", ".join(
        f"{f['name']} {f['learnt']:.4g} ({f['trivial']:.4g})" for f in found["figures"]
    )
    return f"{case.experiment}: {told}, {found['cpu_seconds']:.0f} s"


def collect(home: Path, margin: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns a row per figure and a row per epoch of every finished case."""
    table, curves = [], []
    for case in CASES:
        path = home / "figures" / f"{case.experiment}.json"
        if not path.is_file():
            continue
        found = read_json(path)
        for figure in found["figures"]:
            ratio = figure["learnt"] / figure["trivial"] if figure["trivial"] > 0 else float("nan")
            gain = figure["trivial"] - figure["learnt"]
            passed = gain >= margin * abs(figure["trivial"])
            row = {"experiment": case.experiment, **figure, "ratio": round(ratio, 4)}
            row |= {"passed": passed, "margin": margin, "cpu_seconds": found["cpu_seconds"]}
            table.append({**row, "command": found["command"], "machine": machine()})
        for line in read_metrics(home / "runs" / case.experiment):
            if line["kind"] == "val":
                row = {"experiment": case.experiment, "epoch": line["epoch"] + 1}
                curves.append({**row, "val_loss": line["val/loss"]})
    return table, curves


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes a table."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def refresh(home: Path, margin: float) -> bool:
    """Writes and draws what there is; returns whether every figure so far passes."""
    table, curves = collect(home, margin)
    if not table:
        return True
    write(table, RESULTS / "objectives.csv")
    write(curves, RESULTS / "objectives_curves.csv")
    draw_curves(curves, table, IMAGES / "objectives.png")
    parities = {
        case.experiment: read_json(home / "figures" / f"{case.experiment}.json")["parity"]
        for case in CASES
        if case.experiment.startswith("force_pretraining")
        and (home / "figures" / f"{case.experiment}.json").is_file()
    }
    if parities:
        draw_parity(parities, IMAGES / "force_parity.png")
    return all(row["passed"] for row in table)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--home", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--margin", type=float, default=0.05, help="share of the trivial figure")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, on a core each")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = [case.experiment for case in CASES]
    for name in set(arguments.only or ()).difference(known):
        parser.error(f"no experiment {name!r}; {closest(name, known)}")
    return arguments


def main() -> None:
    arguments = parsed()
    home = arguments.home.absolute()
    cases = {case.experiment: case for case in CASES}
    if arguments.child:
        run(cases[arguments.child], home)
        return
    for folder in ("logs", "figures"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    prepare_data(Path(arguments.data or os.environ.get("EPITAXY_DATA", DEFAULT_DATA)), home)
    chosen = [case for name, case in cases.items() if name in (arguments.only or cases)]
    missing = [c for c in chosen if not (home / "figures" / f"{c.experiment}.json").is_file()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(start, case, home) for case in missing]):
            print(done.result(), file=sys.stderr, flush=True)
            refresh(home, arguments.margin)
    if not refresh(home, arguments.margin):
        sys.exit(f"some figures do not beat the trivial ones by {arguments.margin:.0%}")


if __name__ == "__main__":
    main()
