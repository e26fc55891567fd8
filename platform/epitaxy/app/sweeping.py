"""The verb ``sweep``: a grid of fine-tunes from one command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epitaxy.app.compose import Composed, compose
from epitaxy.app.overrides import parse, render
from epitaxy.app.paths import set_absolute
from epitaxy.app.runs import check_publication, lineage_of, publish_once, save_config, settings_of
from epitaxy.errors import ConfigError
from epitaxy.registry.contract import Version
from epitaxy.train.settings import from_dict
from epitaxy.tune.results import SweepResult
from epitaxy.tune.space import grid, trial_name
from epitaxy.tune.sweep import SweepSettings, Trial, run_sweep

AXES = {"strategy": "finetune", "lr": "optimizer.lr", "seed": "seed"}
"""Axis of a sweep to the option it sets."""

_PER_SWEEP = ("run", "publish", "alias", "sweep")
_PER_TRIAL_PROCESS = ("metric", "cpus_per_trial", "concurrent")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """What ``sweep`` returns.

    Attributes:
        result: All trials, best first.
        version: Where the best one was published, if it was.
    """

    result: SweepResult
    version: Version | None = None


def run_grid(composed: Composed, given: Sequence[str], config_dirs: Sequence[str]) -> Swept:
    """Checks every trial, runs or resumes the sweep, and publishes the best trial if asked to.

    Raises:
        ConfigError: If an option is wrong, before anything starts.
        EpitaxyError: If trials failed; the results of the others are written first.
    """
    config = composed.require()
    set_absolute(config, (), ("home", "run.directory"))
    check_publication(config)
    options = {name: config["sweep"][name] for name in _PER_TRIAL_PROCESS}
    sweep: SweepSettings = from_dict(SweepSettings, {**config["run"], **options})
    trials = _trials(composed, sweep, given, config_dirs)
    save_config(Path(sweep.directory), config)
    result = run_sweep(sweep, trials)
    return Swept(result, _publish_best(config, trials, result))


def _trials(
    composed: Composed, sweep: SweepSettings, given: Sequence[str], config_dirs: Sequence[str]
) -> list[Trial]:
    axes = {axis: _listed(composed.config["sweep"][axis]) for axis in AXES}
    for axis, option in AXES.items():
        if axes[axis] is not None and option in composed.given:
            raise ConfigError(f"{option} and sweep.{axis} are both set; leave one out")
    shared = [text for text in given if parse(text)[0].split(".")[0] not in _PER_SWEEP]
    trials = []
    for point in grid(axes):
        name = trial_name(point)
        run = {"name": f"{sweep.name}-{name}", "directory": f"{sweep.directory}/trials/{name}"}
        chosen = {AXES[axis]: value for axis, value in point.items()}
        overrides = [*shared, *render({**chosen, "run": run})]
        trials.append(Trial(name, point, settings_of(compose("finetune", overrides, config_dirs))))
    return trials


def _listed(value: Any) -> list[Any] | None:
    return value if value is None or isinstance(value, list) else [value]


def _publish_best(
    config: Mapping[str, Any], trials: Sequence[Trial], result: SweepResult
) -> Version | None:
    best = result.best
    if not config["publish"] or best is None or best.metrics is None:
        return None
    (settings,) = [trial.settings for trial in trials if trial.name == best.name]
    lineage = lineage_of(settings, Path(best.directory), best.metrics)
    lineage["notes"] = f"Best of {len(trials)} trials by {result.metric}."
    return publish_once(config, Path(best.directory), best.model, lineage)
