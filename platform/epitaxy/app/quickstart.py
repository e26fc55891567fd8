"""The whole path on a data set made on the spot: prepare, pre-train, publish, fine-tune, report.

Everything lands in one folder, and whatever is finished there is not done again: running the same
command after an interruption continues where it stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from epitaxy.app import api
from epitaxy.app.overrides import parse
from epitaxy.app.paths import absolute_output
from epitaxy.data.manifest import FILE_NAME as MANIFEST
from epitaxy.data.manifest import Manifest
from epitaxy.errors import ConfigError
from epitaxy.train.settings import from_dict

if TYPE_CHECKING:
    from epitaxy.app.evaluation import Evaluated
    from epitaxy.predict.evaluation import Quantity
    from epitaxy.report.statistics import PairedDifference

TEACHER = "alloy-forces"
LABEL = "bulk_modulus"
SCRATCH, TRANSFER = "scratch", "full"


def _option(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Quickstart:
    """Sizes of the quickstart; the defaults are tuned to about four minutes on two cores."""

    out: str = _option("quickstart", "folder for data, runs, registry and report")
    alloys: int = _option(160, "alloys with trajectories")
    frames: int = _option(16, "frames per alloy")
    targets: int = _option(300, "alloys with a bulk modulus")
    labels: int = _option(50, "of these for training, and as many for validation")
    width: int = _option(32, "features per atom")
    epochs: int = _option(20, "of pre-training")
    finetune_epochs: int = _option(100, "of each fine-tune")
    seeds: int = _option(5, "pairs of fine-tunes")
    workers: int = _option(2, "Ray Train workers of the pre-training")


@dataclass(frozen=True)
class Outcome:
    """What the quickstart found.

    Attributes:
        report: The HTML file.
        teacher: Errors of the pre-trained model on the test split, by label.
        errors: Arm to its test errors, one per seed, GPa.
        difference: Of the transfer's errors to those from scratch, seed by seed.
    """

    report: Path
    teacher: dict[str, Quantity]
    errors: dict[str, list[float]]
    difference: PairedDifference


def main(words: Sequence[str], wants_help: bool = False) -> int:
    """Runs ``epitaxy quickstart`` with overrides such as ``out=DIR``; returns its exit code."""
    if wants_help:
        _say(help_text())
        return 0
    settings: Quickstart = from_dict(Quickstart, dict(parse(word) for word in words))
    started = time.monotonic()
    outcome = run(settings)
    _say(headline(outcome))
    _say(f"report {outcome.report}  ({time.monotonic() - started:.0f} s)")
    return 0


def help_text() -> str:
    """Returns the options with their defaults."""
    lines = [
        f"  {f'{item.name}={item.default}':<24}{item.metadata['help']}"
        for item in fields(Quickstart)
    ]
    return "\n".join(["epitaxy quickstart [key=value ...]", "", *lines])


def run(settings: Quickstart) -> Outcome:
    """Runs all steps that are not done yet.

    Raises:
        ConfigError: If ``out`` holds a quickstart with other settings.
    """
    _check(settings)
    home = Path(absolute_output(settings.out, "out"))
    frames = _prepared(
        home, "emt_trajectories", f"emt://?alloys={settings.alloys}&frames={settings.frames}"
    )
    targets = _prepared(home, "emt_bulk_modulus", f"emt://?alloys={settings.targets}")
    teacher = _pretrain(settings, home, frames)
    arms: dict[str, list[Evaluated]] = {SCRATCH: [], TRANSFER: []}
    for seed in range(settings.seeds):
        for arm, evaluated in arms.items():
            evaluated.append(_finetune(settings, home, targets, arm, seed))
    tuned = [item.directory.parent for evaluated in arms.values() for item in evaluated]
    runs = [teacher.directory.parent, *tuned]
    report = api.report(
        runs=[str(path) for path in runs],
        out=str(home / "report.html"),
        home=str(home),
        title="Quickstart: what a force teacher is worth for bulk moduli",
    )
    from epitaxy.report.statistics import paired_difference

    errors = {
        arm: [item.evaluation.quantities[LABEL].mae for item in evaluated]
        for arm, evaluated in arms.items()
    }
    return Outcome(
        report,
        dict(teacher.evaluation.quantities),
        errors,
        paired_difference(errors[TRANSFER], errors[SCRATCH]),
    )


def headline(outcome: Outcome) -> str:
    """Returns the findings in a few lines."""
    forces, stress = outcome.teacher["forces"], outcome.teacher["stress"]
    scratch, transfer = (fmean(outcome.errors[arm]) for arm in (SCRATCH, TRANSFER))
    found, change = outcome.difference, 100 * (transfer / scratch - 1)
    return "\n".join(
        [
            "",
            f"teacher, unseen alloys   forces {forces.mae:.4f} {forces.unit} "
            f"(predict zero {forces.mae_zero:.3f}), "
            f"stress {stress.mae:.5f} {stress.unit} (predict zero {stress.mae_zero:.4f})",
            f"bulk modulus, test MAE   scratch {scratch:.2f} GPa, from the teacher {transfer:.2f} "
            f"GPa ({change:+.0f} %)",
            f"paired difference        {found.mean:+.2f} GPa, 95 % interval "
            f"[{found.low:+.2f}, {found.high:+.2f}], {found.n} seeds",
        ]
    )


def _check(settings: Quickstart) -> None:
    for item in fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{item.name} must be at least 1, got {value}")
    if settings.seeds < 2:
        raise ConfigError("an interval needs at least two pairs: set seeds=2 or more")
    if settings.targets <= 2 * settings.labels:
        raise ConfigError(
            f"targets={settings.targets} leaves nothing to test on: training and validation take "
            f"{settings.labels} each"
        )


def _prepared(home: Path, recipe: str, source: str) -> Path:
    """Returns the data set, made unless it is there."""
    folder = home / "data" / recipe
    if (folder / MANIFEST).is_file():
        found = Manifest.load(folder).source.get("uri")
        if found != source:
            raise ConfigError(
                f"{folder} was made from {found}, not {source}: choose another out=, or remove it"
            )
        _say(f"data     {recipe}: there already")
        return folder
    _say(f"data     {recipe}: generating under the EMT potential …")
    manifest = api.prepare(recipe=recipe, source=source, out=str(folder), format="lmdb")
    _say(f"data     {recipe}: {manifest.num_records} records")
    return folder


def _pretrain(settings: Quickstart, home: Path, frames: Path) -> Evaluated:
    _say(f"teacher  pre-training on forces, {settings.workers} Ray Train workers …")
    trained = api.pretrain(
        *_common(home, frames, "teacher", settings.epochs),
        "compute=ray",
        f"compute.workers={settings.workers}",
        "compute.threads=1",
        "encoder=cgcnn",
        f"encoder.width={settings.width}",
        "encoder.layers=2",
        "encoder.cutoff=5.0",
        "encoder.num_basis=16",
        "encoder.message_scale=0.3",
        "objective=energy_force_stress",
        f"objective.hidden=[{2 * settings.width}]",
        "batch.graphs=32",
        "optimizer.lr=0.01",
        "schedule.warmup=0.05",
        f"publish={TEACHER}",
        "alias=[best]",
    )
    return _evaluated(home, trained.directory, frames)


def _finetune(settings: Quickstart, home: Path, targets: Path, arm: str, seed: int) -> Evaluated:
    """Trains with the same settings in both arms: only the initial weights differ."""
    test = settings.targets - 2 * settings.labels
    _say(f"finetune {arm}, seed {seed}")
    trained = api.finetune(
        *_common(home, targets, f"{LABEL}-{arm}-{seed}", settings.finetune_epochs),
        f"from={TEACHER}@best",
        f"finetune={arm}",
        f"objective.label={LABEL}",
        f"objective.hidden=[{2 * settings.width}]",
        f"seed={seed}",
        f"split.seed={seed}",
        f"split.sizes=[{settings.labels},{settings.labels},{test}]",
        "batch.graphs=16",
        "optimizer.lr=0.003",
        "schedule.warmup=0.05",
        "loop.validate_every=5",
        "tracking=null",
        "compute.threads=1",
    )
    return _evaluated(home, trained.directory, targets)


def _common(home: Path, data: Path, name: str, epochs: int) -> list[str]:
    return [f"data={data}", f"home={home}", f"run.name={name}", f"loop.epochs={epochs}"]


def _evaluated(home: Path, run_dir: Path, data: Path) -> Evaluated:
    return api.evaluate(
        model=str(run_dir / "final"),
        data=str(data),
        split="test",
        out=str(run_dir / "evaluation-test"),
        home=str(home),
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
