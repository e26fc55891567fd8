"""What a sweep found, read from the run folders of its trials."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epitaxy.errors import ConfigError, closest
from epitaxy.train.checkpoint import FINAL
from epitaxy.train.folders import read_json
from epitaxy.train.identity import RUN
from epitaxy.train.recorder import RESULT

if TYPE_CHECKING:
    from epitaxy.tune.sweep import SweepSettings, Trial

CSV_FILE, JSON_FILE = "results.csv", "results.json"


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        name: Of the trial.
        point: Value on each axis.
        directory: Its run folder.
        metrics: Of the selected weights; ``None`` if the trial has not finished.
    """

    name: str
    point: Mapping[str, Any]
    directory: str
    metrics: Mapping[str, float] | None

    @property
    def model(self) -> Path:
        """Its final model folder."""
        return Path(self.directory) / FINAL


@dataclass(frozen=True)
class SweepResult:
    """All trials of a sweep, best first, unfinished ones last.

    Attributes:
        directory: Of the sweep.
        metric: What ranks them; smaller is better.
        units: Units of the metrics.
        trials: The trials.
    """

    directory: str
    metric: str
    units: Mapping[str, str]
    trials: tuple[TrialResult, ...]

    @property
    def finished(self) -> tuple[TrialResult, ...]:
        """Trials that ran to the end, best first."""
        return tuple(trial for trial in self.trials if trial.metrics is not None)

    @property
    def best(self) -> TrialResult | None:
        """The best finished trial."""
        return self.finished[0] if self.finished else None

    def rows(self) -> list[dict[str, Any]]:
        """Returns one flat row per trial: name, axes, whether finished, metrics."""
        return [
            {"trial": t.name, **t.point, "finished": t.metrics is not None, **(t.metrics or {})}
            for t in self.trials
        ]

    def write(self, directory: Path) -> None:
        """Writes ``results.csv`` and ``results.json``."""
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (directory / CSV_FILE).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (directory / JSON_FILE).write_text(text + "\n", encoding="utf-8")


def collect(trials: Sequence[Trial], sweep: SweepSettings) -> SweepResult:
    """Returns what the run folders of ``trials`` say.

    Raises:
        ConfigError: If a finished trial does not have the metric that ranks them.
    """
    units: dict[str, str] = {}
    results = []
    for trial in trials:
        directory = Path(trial.settings.directory)
        metrics = None
        if (directory / RESULT).is_file():
            metrics = dict(read_json(directory / RESULT)["metrics"])
            units |= read_json(directory / RUN)["units"]
            if sweep.metric not in metrics:
                hint = closest(sweep.metric, metrics)
                raise ConfigError(f"sweep.metric {sweep.metric!r} was not measured; {hint}")
        results.append(TrialResult(trial.name, dict(trial.point), str(directory), metrics))
    ranked = sorted(results, key=lambda r: r.metrics[sweep.metric] if r.metrics else math.inf)
    return SweepResult(sweep.directory, sweep.metric, units, tuple(ranked))
