"""Writes what a run leaves behind: metric lines, checkpoints, the best and the final weights."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from epitaxy.errors import CheckpointError
from epitaxy.train import collective
from epitaxy.train.checkpoint import (
    BEST,
    CARD,
    FINAL,
    WEIGHTS,
    RunState,
    kept_folder,
    model_card,
    save_checkpoint,
    save_model,
)
from epitaxy.train.ema import Ema
from epitaxy.train.folders import read_json, write_folder, write_json
from epitaxy.train.logs import ConsumptionLog, MetricsLog, TimingLog
from epitaxy.train.loop import PreparedStep
from epitaxy.train.parts import Parts
from epitaxy.train.settings import RunSettings

RESULT = "result.json"

logger = logging.getLogger(__name__)


@dataclass
class RunRecorder:
    """The loop's recorder: rank 0 writes; consumption is written by every rank.

    Attributes:
        settings: Of the run.
        parts: What is trained.
        optimizer: Stored in checkpoints.
        ema: Its average is what ``best`` and ``final`` hold, if there is one.
        extra: Goes into every ``model.json``: statistics, fields, data.
        identity: Goes into every checkpoint: plan and digests.
        report: Called on every rank at the end of an epoch with the metrics.
        metrics_log: On rank 0.
        timing: On rank 0.
        consumption: On every rank, if switched on.
    """

    settings: RunSettings
    parts: Parts
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    extra: Mapping[str, Any]
    identity: Mapping[str, Any]
    report: Callable[[dict[str, Any]], None] | None = None
    metrics_log: MetricsLog | None = None
    timing: TimingLog | None = None
    consumption: ConsumptionLog | None = None
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.run_dir = Path(self.settings.directory)

    def consume(self, step: PreparedStep) -> None:
        """Notes which records a step is about to consume."""
        if self.consumption is not None:
            ids = [record_id for views in step.micro_batches for record_id in views[0].ids]
            self.consumption.write(step.cursor, ids)

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends a line of metrics."""
        if self.metrics_log is not None:
            self.metrics_log.write(line)
        if self.timing is not None and line["kind"] == "train":
            self.timing.write(line)

    def checkpoint(self, state: RunState) -> None:
        """Writes a checkpoint.

        Raises:
            CheckpointError: On every rank, if the file system refuses, say for want of space.
        """
        model, card = self.parts.model, self._card(state)
        self._write(
            lambda: save_checkpoint(
                self.run_dir, state, model, self.optimizer, self.ema, card, self.identity
            )
        )

    def keep(self, state: RunState) -> None:
        """Keeps the present (averaged) weights for good, as those after so many epochs.

        Raises:
            CheckpointError: As ``checkpoint``.
        """
        self._write(lambda: self._save_model(kept_folder(self.run_dir, state.epoch), state))

    def best(self, state: RunState) -> None:
        """Keeps the present (averaged) weights as the best so far.

        Raises:
            CheckpointError: As ``checkpoint``.
        """
        self._write(lambda: self._save_model(self.run_dir / BEST, state))

    def epoch_end(self, state: RunState) -> None:
        """Reports the metrics of an epoch, for a sweep to judge."""
        if self.timing is not None:
            self.timing.end_epoch()
        if self.report is not None:
            self.report({**state.metrics, "epoch": state.epoch, "records": state.records})

    def reconcile_best(self, state: RunState) -> RunState:
        """Returns ``state`` as the folder ``best`` allows, making that folder again if possible.

        A kill between a checkpoint and ``best``, or a damaged checkpoint, leaves them apart.
        """
        if state.best is None or _best_epoch(self.run_dir) == state.best_epoch:
            return state
        if state.step == 0 and state.best_epoch == state.epoch:
            self._save_model(self.run_dir / BEST, state)  # rank 0 is alone here
            return state
        logger.warning("the weights of epoch %d, the best so far, are lost", state.best_epoch - 1)
        return replace(state, best=None, stale=0)

    def finish(self, state: RunState) -> None:
        """Writes the folder ``final`` and, last of all, the result."""
        if collective.rank() != 0:
            return
        final = self.run_dir / FINAL
        if self.settings.loop.select == "best" and state.best is not None:
            best = self.run_dir / BEST
            write_folder(final, lambda path: _copy(best, path))
        else:
            self._save_model(final, state)
        metrics = read_json(final / CARD)["metrics"]
        reached = [epoch for epoch in self.settings.loop.keep_epochs if epoch <= state.epoch]
        kept = [kept_folder(self.run_dir, epoch) for epoch in sorted(set(reached))]
        write_json(
            self.run_dir / RESULT,
            {"metrics": metrics, "epochs": state.epoch, "steps": state.steps,
             "records": state.records, "stopped_early": state.stopped,
             "skipped_steps": state.skipped,
             "kept": [str(folder.relative_to(self.run_dir)) for folder in kept]},
        )  # fmt: skip

    def close(self) -> None:
        """Closes the log files."""
        for log in (self.metrics_log, self.timing, self.consumption):
            if log is not None:
                log.close()

    def _write(self, action: Callable[[], Any]) -> None:
        """Lets rank 0 write; what it cannot do is raised everywhere, for the others would wait."""
        error: CheckpointError | None = None
        if collective.rank() == 0:
            try:
                action()
            except (OSError, SafetensorError) as refused:
                error = CheckpointError(
                    f"{self.run_dir} cannot be written: {refused}. The checkpoints before are "
                    "whole: make room there, then start the run again to go on from the last"
                )
        collective.raise_together(error)

    def _save_model(self, folder: Path, state: RunState) -> None:
        settings, parts = self.settings, self.parts
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            save_model(
                folder, parts.model, settings.encoder, settings.objective, parts.objective,
                {**self.extra, **_progress(state)},
            )  # fmt: skip

    def _card(self, state: RunState) -> dict[str, Any]:
        settings, parts = self.settings, self.parts
        return model_card(
            parts.model, settings.encoder, settings.objective, parts.objective,
            {**self.extra, **_progress(state)},
        )  # fmt: skip


def _progress(state: RunState) -> dict[str, Any]:
    return {
        "metrics": dict(state.metrics),
        "epochs": state.epoch,
        "steps": state.steps,
        "records": state.records,
    }


def _best_epoch(run_dir: Path) -> int | None:
    folder = run_dir / BEST
    return int(read_json(folder / CARD)["epochs"]) if folder.is_dir() else None


def _copy(source: Path, target: Path) -> None:
    for name in (WEIGHTS, CARD):
        shutil.copyfile(source / name, target / name)
