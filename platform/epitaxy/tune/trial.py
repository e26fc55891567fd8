"""One trial of a sweep: a run in the trial's process, followed by the driver."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epitaxy.train.folders import read_json
from epitaxy.train.follow import Follower
from epitaxy.train.settings import RunSettings, from_dict

if TYPE_CHECKING:
    from epitaxy.tune.sweep import Trial

DESCRIPTION = "sweep.json"

logger = logging.getLogger(__name__)


def run_trial(config: Mapping[str, Any], directory: str) -> None:
    """Runs or resumes the run that ``sweep.json`` describes; Tune calls it in a trial's process."""
    from ray import tune

    from epitaxy.train.launch import launch

    name = config["point"]["trial"]
    described = read_json(Path(directory) / DESCRIPTION)["trials"][name]
    settings: RunSettings = from_dict(RunSettings, described["settings"])
    follower = Follower(Path(settings.directory), [_Reporter()])
    follower.start()
    try:
        result = launch(settings)
    finally:
        follower.stop()
    tune.report({"selected": 1, **_flat(result.metrics)})


class _Reporter:
    """Hands each validation to Tune, for TensorBoard and for schedulers."""

    def receive(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Reports the validations among ``lines``."""
        from ray import tune

        for line in lines:
            if line["kind"] == "val":
                tune.report({"selected": 0, **_flat(line)})

    def close(self) -> None:
        """Does nothing."""


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, (int, float))}


def trial_callback(sweep: str, trials: Sequence[Trial]) -> Any:
    """Returns a Tune callback that follows the trials' runs into MLflow, from the driver."""
    from ray.tune import Callback

    runs = {trial.name: trial for trial in trials}

    class MlflowFollower(Callback):
        def __init__(self) -> None:
            self._open: dict[str, tuple[Follower, Any]] = {}

        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            run = runs[trial.config["point"]["trial"]]
            if run.settings.tracking is not None and run.name not in self._open:
                self._open[run.name] = _follow(sweep, run)

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            logger.info("trial %s finished", trial.config["point"]["trial"])
            self._end(trial, "FINISHED")

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            logger.warning("trial %s failed", trial.config["point"]["trial"])
            self._end(trial, "FAILED")

        def _end(self, trial: Any, status: str) -> None:
            opened = self._open.pop(trial.config["point"]["trial"], None)
            if opened is not None:
                follower, tracker = opened
                follower.stop()
                tracker.end(status)

    return MlflowFollower()


def _follow(sweep: str, run: Trial) -> tuple[Follower, Any]:
    from epitaxy.train.tracking import Tracker

    directory = Path(run.settings.directory)
    directory.mkdir(parents=True, exist_ok=True)
    tags = {"epitaxy.sweep": sweep, "epitaxy.trial": run.name, "epitaxy.directory": str(directory)}
    tracker = Tracker(
        str(run.settings.tracking), directory, run.settings.name, run.settings.science(), tags
    )
    follower = Follower(directory, [tracker])
    follower.start()
    return follower, tracker
