"""Logs a run to MLflow, from the driver only."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from epitaxy.errors import ConfigError
from epitaxy.train.folders import read_json, write_json

TRACKING = "tracking.json"
EXPERIMENT = "epitaxy"
BATCH = 1000
"""MLflow's limit on metrics per call."""
PARAM_LENGTH = 500
COUNTERS = frozenset({"time", "kind", "epoch", "step", "steps", "progress"})


class Tracker:
    """Sends metric lines to an MLflow run; a resumed run continues the same one.

    The folder of the run remembers which MLflow run it is and what was sent, so steps that are
    done again after a restart are not logged twice.

    Args:
        uri: MLflow tracking URI, e.g. ``sqlite:////home/me/.epitaxy/mlflow.db``.
        run_dir: Folder of the run.
        name: Of the run.
        settings: Logged as parameters, nested names joined by dots.
        tags: Logged as tags.

    Raises:
        ConfigError: If MLflow cannot use ``uri``.
    """

    def __init__(
        self,
        uri: str,
        run_dir: Path,
        name: str,
        settings: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for talker in ("alembic", "mlflow.store.db.utils"):  # a page of migrations at first use
            logging.getLogger(talker).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self._uri, self._path = uri, run_dir / TRACKING
        self._sent: dict[str, int] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's own use of what SQLAlchemy deprecates
                self._client = MlflowClient(tracking_uri=uri)
                self.run_id = self._continued() or self._created(name, settings, tags)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"tracking={uri} cannot be used: {reason}. Correct it, or switch it off with "
                "tracking=null"
            ) from error
        self._remember()

    def receive(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Logs lines that were not sent before."""
        from mlflow.entities import Metric

        fresh = [line for line in lines if line["steps"] > self._sent.get(line["kind"], 0)]
        metrics = [
            Metric(name, float(value), int(line["time"] * 1000), int(line["steps"]))
            for line in fresh
            for name, value in line.items()
            if name not in COUNTERS
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        for line in fresh:
            self._sent[line["kind"]] = int(line["steps"])
        if fresh:
            self._remember()

    def close(self) -> None:
        """Does nothing: ``end`` says how the run ended."""

    def end(self, status: str) -> None:
        """Closes the MLflow run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._client.set_terminated(self.run_id, status=status)

    def _continued(self) -> str | None:
        """Returns the MLflow run that an earlier start of this run logged to."""
        known = read_json(self._path) if self._path.is_file() else {}
        if known.get("uri") != self._uri:
            return None
        self._sent = {str(kind): int(steps) for kind, steps in known["sent"].items()}
        # A killed driver leaves its run RUNNING for ever; a failed one FAILED.
        self._client.update_run(known["run_id"], status="RUNNING")
        return str(known["run_id"])

    def _created(self, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        )
        run = self._client.create_run(experiment_id, run_name=name, tags=dict(tags))
        self._log_parameters(run.info.run_id, settings)
        return str(run.info.run_id)

    def _log_parameters(self, run_id: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [
            Param(name, str(value)[:PARAM_LENGTH]) for name, value in _flatten(settings, "")
        ]
        for start in range(0, len(parameters), 100):
            self._client.log_batch(run_id, params=parameters[start : start + 100])

    def _remember(self) -> None:
        write_json(self._path, {"uri": self._uri, "run_id": self.run_id, "sent": self._sent})


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
