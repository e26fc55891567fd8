"""A sweep: independent runs under Ray Tune, resumed by starting the same sweep again.

Tune places the trials and writes TensorBoard events; what a trial achieved is read from its run
folder, whose name is that of its point. So a killed sweep needs nothing of Tune's own state:
finished runs are kept, the others continue from their last checkpoints. MLflow is written by the
driver, which follows the runs: sqlite stays with one process, and a resumed trial continues its
MLflow run instead of leaving a stale one.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epitaxy.data.mixture import conflicts_of, open_data
from epitaxy.errors import ConfigError, EpitaxyError
from epitaxy.train.folders import read_json, write_json
from epitaxy.train.launch import cluster
from epitaxy.train.needs import check_needs
from epitaxy.train.parts import build_parts
from epitaxy.train.settings import RunSettings, to_dict
from epitaxy.train.worker import plans_of
from epitaxy.tune.results import CSV_FILE, SweepResult, collect
from epitaxy.tune.trial import DESCRIPTION, run_trial, trial_callback

TUNE_FOLDER = "tune"
FORMAT = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One run of a sweep; its settings name its folder.

    Attributes:
        name: Unique within the sweep.
        point: Value on each axis.
        settings: The run. ``tracking`` is used by the driver, not by the trial.
    """

    name: str
    point: Mapping[str, Any]
    settings: RunSettings


@dataclass(frozen=True)
class SweepSettings:
    """A sweep.

    Attributes:
        name: Name of the sweep; the same name resumes it.
        directory: Folder of the sweep.
        metric: What ranks the trials; smaller is better.
        cpus_per_trial: Logical CPUs of each trial's own process.
        concurrent: Trials at a time; ``None``: as many as the cluster holds.
    """

    name: str
    directory: str
    metric: str = "val/loss"
    cpus_per_trial: float = 1.0
    concurrent: int | None = None


def run_sweep(sweep: SweepSettings, trials: Sequence[Trial]) -> SweepResult:
    """Runs or resumes a sweep and returns its results, best trial first.

    Raises:
        ConfigError: If a sweep of that name has other trials, or a trial can never be placed.
        EpitaxyError: If trials failed; the results of the others are written first.
    """
    directory = Path(sweep.directory)
    check(trials)
    _remember(directory, sweep, trials)
    errors: dict[str, str] = {}
    unfinished = [trial for trial in trials if not collect([trial], sweep).finished]
    if unfinished:
        finished = len(trials) - len(unfinished)
        logger.info("%d trials to run, %d finished before", len(unfinished), finished)
        errors = _run(sweep, unfinished)
    result = collect(trials, sweep)
    result.write(directory)
    failed = [trial.name for trial in result.trials if trial.metrics is None]
    if failed:
        raise EpitaxyError(
            f"{len(failed)} of {len(trials)} trials failed: {', '.join(failed)}; the first: "
            f"{errors.get(failed[0], 'it was not run')}. The results of the others are in "
            f"{directory / CSV_FILE}; the same command tries the failed ones again"
        )
    return result


def check(trials: Sequence[Trial]) -> None:
    """Builds what every trial trains and on what, so that a misfit shows before hours of others.

    Raises:
        EpitaxyError: Naming the trial.
    """
    datasets = {data: open_data(data) for data in {t.settings.data for t in trials}}
    for trial in trials:
        settings, dataset = trial.settings, datasets[trial.settings.data]
        try:
            parts = build_parts(settings)
            encoder = parts.model.encoder
            check_needs(
                settings,
                dataset.fields,
                encoder,
                parts.objective,
                parts.report,
                conflicts_of(dataset),
            )
            plans_of(settings, dataset, encoder.spec)
        except EpitaxyError as error:
            raise type(error)(f"trial {trial.name}: {error}") from error


def _remember(directory: Path, sweep: SweepSettings, trials: Sequence[Trial]) -> None:
    """Writes what the sweep consists of; refuses to continue one that consists of other trials."""
    path = directory / DESCRIPTION
    described = {
        trial.name: {
            "point": dict(trial.point),
            "science": trial.settings.science_digest(),
            "settings": to_dict(trial.settings) | {"tracking": None},
        }
        for trial in trials
    }
    if path.is_file():
        known = read_json(path)["trials"]
        changed = sorted(
            name
            for name in known | described
            if known.get(name, {}).get("science") != described.get(name, {}).get("science")
        )
        if changed:
            raise ConfigError(
                f"the sweep {sweep.name!r} in {directory} was started with other settings: "
                f"{', '.join(changed)} differ; restore them to resume it, or choose another "
                "run.name"
            )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "name": sweep.name, "trials": described})


def _run(sweep: SweepSettings, trials: Sequence[Trial]) -> dict[str, str]:
    """Returns the errors of trials that failed."""
    compute = trials[0].settings.compute
    per_trial = cpus_of_trial(sweep, trials[0].settings)
    with cluster(math.ceil(per_trial), compute.address):
        # Tune's own console boxes name folders that vanish; the trials are logged by us.
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        from ray import tune
        from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

        concurrent = place(sweep, per_trial, _cluster_cpus())
        points = [{"trial": trial.name, **trial.point} for trial in trials]
        loggers = [TBXLoggerCallback(), CSVLoggerCallback(), JsonLoggerCallback()]
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, directory=sweep.directory),
                {"cpu": sweep.cpus_per_trial},
            ),
            param_space={"point": tune.grid_search(points)},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=concurrent,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name=TUNE_FOLDER,
                storage_path=sweep.directory,
                callbacks=[*loggers, trial_callback(sweep.name, trials)],
                verbose=0,
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are summed up here
        grid = tuner.fit()
        return {
            result.config["point"]["trial"]: _last_line(result.error)
            for result in grid
            if result.error is not None
        }


def cpus_of_trial(sweep: SweepSettings, settings: RunSettings) -> float:
    """Returns the logical CPUs of a trial: its own process, and the workers it starts."""
    compute = settings.compute
    if compute.backend == "local":
        return sweep.cpus_per_trial
    reading = 1.0 if compute.stream == "ray" else 0.0
    return sweep.cpus_per_trial + compute.workers * compute.cpus_per_worker + reading


def place(sweep: SweepSettings, per_trial: float, cluster_cpus: float) -> int:
    """Returns how many trials may run at a time.

    Trials and the workers they start are placed separately: too many trials at once would hold
    the CPUs that their own workers wait for, for ever.

    Raises:
        ConfigError: If not even one trial fits.
    """
    fitting = math.floor(cluster_cpus / per_trial + 1e-9)
    if fitting < 1:
        raise ConfigError(
            f"a trial needs {per_trial:g} CPUs, the cluster has {cluster_cpus:g}; lower "
            "sweep.cpus_per_trial or compute.workers, or start Ray with more --num-cpus"
        )
    if sweep.concurrent is not None and sweep.concurrent < 1:
        raise ConfigError(f"sweep.concurrent must be at least 1, got {sweep.concurrent}")
    return min(fitting, sweep.concurrent or fitting)


def _cluster_cpus() -> float:
    import ray

    return float(ray.cluster_resources().get("CPU", 0.0))


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1]


def _name_of(trial: Any) -> str:
    return str(trial.config["point"]["trial"])
