"""The training loop: plain PyTorch over an iterator of prepared steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from epitaxy.data.plan import Cursor, Plan
from epitaxy.errors import ConfigError, EpitaxyError, NonFiniteError, StreamError, closest
from epitaxy.train import collective, schedule
from epitaxy.train.checkpoint import RunState
from epitaxy.train.metrics import Sums, weighted_loss
from epitaxy.train.random import seed_torch
from epitaxy.train.settings import RunSettings
from epitaxy.train.step import Stepper, StepReport, Views

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedStep:
    """This rank's share of one step, ready for the device.

    Attributes:
        cursor: Which step.
        micro_batches: The same number on every rank; any may be empty.
    """

    cursor: Cursor
    micro_batches: tuple[Views, ...]


class Recorder(Protocol):
    """What the loop tells the outside world; each method is called on every rank."""

    def consume(self, step: PreparedStep) -> None:
        """Notes which records a step is about to consume."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends a line of metrics."""

    def checkpoint(self, state: RunState) -> None:
        """Writes a checkpoint."""

    def keep(self, state: RunState) -> None:
        """Keeps the present weights for good, as those after so many epochs."""

    def best(self, state: RunState) -> None:
        """Keeps the present weights as the best so far."""

    def epoch_end(self, state: RunState) -> None:
        """Reports the end of an epoch."""


@dataclass
class Loop:
    """Trains from a state to the end.

    Attributes:
        stepper: Does one step.
        plan: Says how long epochs are and how much of one is consumed.
        settings: Of the run.
        recorder: Gets lines, checkpoints and the best weights.
        validate: Returns the validation metrics of the present weights, equal on all ranks;
            ``None`` without a validation split.
        set_training: Puts the model into training mode (parts of it may stay frozen).
    """

    stepper: Stepper
    plan: Plan
    settings: RunSettings
    recorder: Recorder
    validate: Callable[[], dict[str, float]] | None
    set_training: Callable[[], None]

    def run(self, state: RunState, steps: Iterator[PreparedStep]) -> RunState:
        """Runs every remaining step and returns the final state.

        Raises:
            NonFiniteError: If a loss, gradient or validation metric is not finite.
            StreamError: If ``steps`` does not deliver what the plan expects next.
        """
        window, norms = Sums(), Sums()
        self.set_training()
        remaining = self.plan.steps_from(Cursor(state.epoch, state.step), self._epochs)
        for cursor in () if state.stopped else remaining:
            prepared = _expect(cursor, steps)
            self.recorder.consume(prepared)
            rate = self._set_rate(cursor, state.plateau.reduction)
            seed_torch(self.settings.seed, cursor.epoch, cursor.step, collective.rank())
            where = f"epoch {cursor.epoch}, step {cursor.step}"
            self.stepper.objective.begin(self._progress(cursor))
            report = self.stepper(prepared.micro_batches, where)
            state = self._advance(state, cursor, report)
            if report.skipped is None:
                window.add(report.terms)
                norms.add(_norm_sums(report))
            else:
                self._note_skipped(report.skipped, cursor, state)
            at_end = cursor.step + 1 == self.plan.num_steps(cursor.epoch)
            if at_end or state.steps % self.settings.loop.log_every == 0:
                self.recorder.log(self._train_line(cursor, state, window, norms, report, rate))
                window, norms = Sums(), Sums()
            state = self._end_epoch(cursor, state) if at_end else self._maybe_checkpoint(state)
            if state.stopped:
                break
        return state

    @property
    def _epochs(self) -> int:
        return self.settings.loop.epochs

    def _progress(self, cursor: Cursor) -> float:
        """Returns the fraction of the run's records consumed once the step is done."""
        done = self.plan.progress(Cursor(cursor.epoch, cursor.step + 1))
        return (cursor.epoch + done) / self._epochs

    def _set_rate(self, cursor: Cursor, reduction: float) -> float:
        factor = schedule.factor(self.settings.schedule, self._progress(cursor), reduction)
        rate = self.settings.optimizer.lr * factor
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
        return rate

    def _advance(self, state: RunState, cursor: Cursor, report: StepReport) -> RunState:
        at_end = cursor.step + 1 == self.plan.num_steps(cursor.epoch)
        return replace(
            state,
            epoch=cursor.epoch + at_end,
            step=0 if at_end else cursor.step + 1,
            steps=state.steps + 1,
            records=state.records + report.records,
            skipped=state.skipped + (report.skipped is not None),
            factors=report.factors,
        )

    def _note_skipped(self, what: str, cursor: Cursor, state: RunState) -> None:
        """Logs a step that was left out; too many of them end the run."""
        line = {**self._line("skipped", cursor, state), "what": what, "skipped": state.skipped}
        self.recorder.log(line)
        logger.warning("%s. The step was left out (%d so far)", what, state.skipped)
        if state.skipped > self.settings.loop.max_skipped:
            raise NonFiniteError(
                f"{what}. {state.skipped} steps were left out by now, more than "
                f"loop.max_skipped={self.settings.loop.max_skipped}: lower optimizer.lr or filter "
                "the data"
            )

    def _maybe_checkpoint(self, state: RunState) -> RunState:
        every = self.settings.loop.checkpoint_every
        if every and state.steps % every == 0:
            self.recorder.checkpoint(state)
        return state

    def _end_epoch(self, cursor: Cursor, state: RunState) -> RunState:
        keeps = state.epoch in self.settings.loop.keep_epochs
        every = self.settings.loop.validate_every
        due = keeps or state.epoch % every == 0 or state.epoch == self._epochs
        improved = False
        if self.validate is not None and due:
            metrics = self.validate()
            self.set_training()
            state, improved = self._judge(state, metrics)
            self.recorder.log({**self._line("val", cursor, state), **metrics})
        # Lines and kept weights first, then the checkpoint, then the best weights: whatever a kill
        # cuts off is made again by the run that continues from the checkpoint before.
        if keeps:
            self.recorder.keep(state)
        self.recorder.checkpoint(state)
        if improved:
            self.recorder.best(state)
        self.recorder.epoch_end(state)
        return state

    def _judge(self, state: RunState, metrics: Mapping[str, float]) -> tuple[RunState, bool]:
        name = self.settings.loop.select_metric
        if name not in metrics:
            raise ConfigError(f"loop.select_metric is {name!r}; {closest(name, metrics)}")
        value = metrics[name]
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{name} is {value} after epoch {state.epoch - 1}: a validation record has a label "
                "or prediction that is not finite; lower optimizer.lr or filter the data"
            )
        improved = state.best is None or value < state.best
        peak = self.settings.optimizer.lr
        plateau = schedule.judge(self.settings.schedule, state.plateau, value, peak)
        state = replace(state, metrics=dict(metrics), plateau=plateau)
        if improved:
            return replace(state, best=value, best_epoch=state.epoch, stale=0), True
        stale = state.stale + 1
        patience = self.settings.loop.patience
        return replace(state, stale=stale, stopped=bool(patience) and stale >= patience), False

    def _line(self, kind: str, cursor: Cursor, state: RunState) -> dict[str, Any]:
        return {
            "kind": kind,
            "epoch": cursor.epoch,
            "step": cursor.step + 1,
            "steps": state.steps,
            "progress": self._progress(cursor),
            "records": state.records,
        }

    def _train_line(
        self,
        cursor: Cursor,
        state: RunState,
        window: Sums,
        norms: Sums,
        report: StepReport,
        rate: float,
    ) -> dict[str, Any]:
        """Returns a line with the means since the last one."""
        means = {f"train/{name}": mean for name, mean in window.means().items()}
        loss = weighted_loss(window, report.weights)
        return {
            **self._line("train", cursor, state),
            "train/loss": loss,
            **means,
            **norms.means(),
            **{f"train/balance/{part}": factor for part, factor in report.factors.items()},
            "lr": rate,
        }


def _norm_sums(report: StepReport) -> Sums:
    return Sums(
        {"train/grad_norm": (report.grad_norm, 1.0), "train/clipped": (float(report.clipped), 1.0)}
    )


def _expect(cursor: Cursor, steps: Iterator[PreparedStep]) -> PreparedStep:
    """Returns the next prepared step; trouble on any rank is raised on all of them."""
    prepared: PreparedStep | None = None
    error: EpitaxyError | None = None
    try:
        prepared = next(steps, None)
        if prepared is None:
            error = StreamError(f"the stream ended before {cursor}")
        elif prepared.cursor != cursor:
            error = StreamError(f"the stream delivered {prepared.cursor}, the plan has {cursor}")
    except EpitaxyError as caught:
        error = caught
    collective.raise_together(error)
    if prepared is None:
        raise StreamError(f"the stream ended before {cursor}")
    return prepared
