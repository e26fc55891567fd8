"""The loop's decisions, with a scripted step and validation instead of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.data.plan import Cursor, Plan
from epitaxy.data.sidecars import keys_of
from epitaxy.errors import ConfigError, NonFiniteError, StreamError
from epitaxy.train.checkpoint import RunState
from epitaxy.train.loop import Loop, PreparedStep
from epitaxy.train.metrics import Sums
from epitaxy.train.settings import LoopSettings, OptimizerSettings, RunSettings, ScheduleSettings
from epitaxy.train.step import StepReport


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.lines: list[Mapping[str, Any]] = []

    def consume(self, step: PreparedStep) -> None:
        self.events.append(("consume", step.cursor))

    def log(self, line: Mapping[str, Any]) -> None:
        self.lines.append(line)
        self.events.append(("log", line["kind"]))

    def checkpoint(self, state: RunState) -> None:
        self.events.append(("checkpoint", (state.epoch, state.step)))

    def keep(self, state: RunState) -> None:
        self.events.append(("keep", state.epoch))

    def best(self, state: RunState) -> None:
        self.events.append(("best", state.best))

    def epoch_end(self, state: RunState) -> None:
        self.events.append(("epoch_end", state.epoch))

    def named(self, kind: str) -> list[Any]:
        return [value for name, value in self.events if name == kind]


class Stepper:
    """Loss of step k is k; remembers the learning rates it was given."""

    def __init__(self) -> None:
        weight = torch.nn.Parameter(torch.zeros(1))
        head = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD(
            [{"params": [weight], "multiplier": 1.0}, {"params": [head], "multiplier": 0.1}], lr=0.0
        )
        self.rates: list[tuple[float, float]] = []
        self.objective = self
        self.begun: list[float] = []
        self.skips: frozenset[int] = frozenset()

    def begin(self, progress: float) -> None:
        self.begun.append(progress)

    def __call__(self, micro_batches: Any, where: str) -> StepReport:
        a, b = self.optimizer.param_groups
        self.rates.append((a["lr"], b["lr"]))
        k = len(self.rates)
        if k in self.skips:
            return StepReport(Sums({}), {"energy": 2.0}, math.nan, False, 4, f"step {k} is bad")
        return StepReport(
            Sums({"energy": (4.0 * k, 4.0)}), {"energy": 2.0}, float(k), k % 2 == 0, 4
        )


def plan(records: int = 10, graphs: int = 4) -> Plan:
    keys = keys_of(f"r{index}" for index in range(records))
    ones = np.ones(records, dtype=np.int64)
    return Plan(keys, {"edges": ones, "atoms": ones}, graphs=graphs)


def steps_of(cursors: Iterable[Cursor]) -> Iterator[PreparedStep]:
    return (PreparedStep(cursor, ()) for cursor in cursors)


def make(
    losses: list[float] | None, schedule: ScheduleSettings | None = None, **loop: Any
) -> tuple[Loop, Recorder, Stepper]:
    values = iter(losses or [])
    validate: Callable[[], dict[str, float]] | None = None
    if losses is not None:
        validate = lambda: {"val/loss": next(values)}  # noqa: E731
    settings = RunSettings(
        "run", "/nowhere", "/nowhere", {}, {},
        optimizer=OptimizerSettings(lr=2.0),
        schedule=schedule or ScheduleSettings("constant", warmup=0.0),
        loop=LoopSettings(**{"epochs": 3, "log_every": 2, **loop}),
    )  # fmt: skip
    recorder, stepper = Recorder(), Stepper()
    looped: Any = stepper
    return Loop(looped, plan(), settings, recorder, validate, lambda: None), recorder, stepper


def run(loop: Loop, state: RunState | None = None) -> RunState:
    state = state or RunState()
    cursor = Cursor(state.epoch, state.step)
    return loop.run(state, steps_of(loop.plan.steps_from(cursor, loop.settings.loop.epochs)))


def test_order_of_events_at_the_end_of_an_epoch() -> None:
    loop, recorder, _ = make([1.0], epochs=1, checkpoint_every=2)
    run(loop)
    assert [name for name, _ in recorder.events] == [
        "consume", "consume", "log", "checkpoint",  # after step 2
        "consume", "log", "log", "checkpoint", "best", "epoch_end",
    ]  # fmt: skip
    assert recorder.named("checkpoint") == [(0, 2), (1, 0)]


def test_lines_hold_means_since_the_last_line() -> None:
    loop, recorder, _ = make([1.0], epochs=1)
    run(loop)
    first, second, validation = recorder.lines
    assert first["train/energy"] == 1.5  # steps 1 and 2
    assert first["train/loss"] == 3.0  # weight 2
    assert first["train/grad_norm"] == 1.5
    assert first["train/clipped"] == 0.5
    assert second["train/energy"] == 3.0  # step 3 alone: the window was emptied
    assert (first["records"], first["progress"]) == (8, pytest.approx(0.8))
    assert (second["step"], second["steps"], second["progress"]) == (3, 3, 1.0)
    assert validation["val/loss"] == 1.0


def test_best_and_patience() -> None:
    loop, recorder, _ = make([5.0, 3.0, 4.0, 3.0, 9.0], epochs=9, patience=2)
    state = run(loop)
    assert recorder.named("best") == [5.0, 3.0]
    assert (state.best, state.best_epoch, state.stopped, state.epoch) == (3.0, 2, True, 4)
    assert recorder.named("checkpoint")[-1] == (4, 0)
    loop, recorder, _ = make([], epochs=9, patience=2)
    assert run(loop, state) == state  # a stopped run stays stopped
    assert not recorder.events


def test_validation_at_intervals_and_at_the_end() -> None:
    loop, recorder, _ = make([2.0, 1.0], epochs=3, validate_every=2)
    run(loop)
    assert [line["epoch"] for line in recorder.lines if line["kind"] == "val"] == [1, 2]


def test_rate_follows_records_and_multipliers() -> None:
    # 10 records in steps of 4, 4 and 2, three times over: the rise ends at 60 % of the records.
    loop, _, stepper = make(None, ScheduleSettings("constant", warmup=0.6), select="last")
    run(loop)
    consumed = np.cumsum([4, 4, 2] * 3) / 30
    expected = 2.0 * np.minimum(consumed / 0.6, 1.0)
    np.testing.assert_allclose([a for a, _ in stepper.rates], expected)
    np.testing.assert_allclose([b for _, b in stepper.rates], 0.1 * expected)


def test_a_plateau_lowers_the_rate_until_the_end() -> None:
    """Three steps an epoch; the second validation without improvement in a row halves the rate."""
    schedule = ScheduleSettings("plateau", warmup=0.0, gamma=0.5, patience=1, min_rate=0.8)
    losses = [3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    loop, _, stepper = make(losses, schedule, epochs=8)
    state = run(loop)
    by_epoch = [rate for rate, _ in stepper.rates[::3]]
    assert by_epoch == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.8, 0.8]
    assert [rate for rate, _ in stepper.rates] == [rate for rate in by_epoch for _ in range(3)]
    assert state.plateau.best == 2.0


def test_epochs_are_kept_before_their_checkpoint_and_validated() -> None:
    loop, recorder, _ = make([2.0, 1.0], epochs=3, validate_every=3, keep_epochs=(2, 3))
    run(loop)
    assert [event for event in recorder.events if event[0] in ("keep", "checkpoint", "best")] == [
        ("checkpoint", (1, 0)),
        ("keep", 2), ("checkpoint", (2, 0)), ("best", 2.0),
        ("keep", 3), ("checkpoint", (3, 0)), ("best", 1.0),
    ]  # fmt: skip
    assert [line["epoch"] for line in recorder.lines if line["kind"] == "val"] == [1, 2]


def test_resuming_continues_the_counters() -> None:
    loop, recorder, _ = make([1.0, 1.0], epochs=2, log_every=1)
    state = run(loop, RunState(epoch=1, step=1, steps=4, records=14))
    assert recorder.named("consume") == [Cursor(1, 1), Cursor(1, 2)]
    assert [line["steps"] for line in recorder.lines] == [5, 6, 6]
    assert (state.epoch, state.step, state.steps, state.records) == (2, 0, 6, 22)


def test_unknown_selection_metric() -> None:
    loop, _, _ = make([1.0], epochs=1, select_metric="val/los")
    with pytest.raises(ConfigError, match=r"did you mean 'val/loss'"):
        run(loop)


def test_validation_that_is_not_finite_stops_the_run() -> None:
    loop, recorder, _ = make([float("nan")], epochs=1)
    with pytest.raises(NonFiniteError, match="val/loss is nan after epoch 0"):
        run(loop)
    assert not recorder.named("checkpoint")


@pytest.mark.parametrize(
    ("cursors", "message"),
    [
        ([Cursor(0, 0), Cursor(0, 2)], r"delivered Cursor\(epoch=0, step=2\)"),
        ([Cursor(0, 0)], "ended before"),
    ],
)
def test_gap_in_the_stream(cursors: list[Cursor], message: str) -> None:
    loop, _, stepper = make(None, select="last")
    with pytest.raises(StreamError, match=message):
        loop.run(RunState(), steps_of(cursors))
    assert len(stepper.rates) == 1


def test_the_objective_hears_how_much_of_the_run_is_consumed() -> None:
    loop, _, stepper = make(None, epochs=2)
    run(loop)
    assert stepper.begun == pytest.approx([0.2, 0.4, 0.5, 0.7, 0.9, 1.0])


def test_skipped_steps_are_counted_and_bend_no_mean() -> None:
    loop, recorder, stepper = make(None, epochs=1, log_every=1)
    stepper.skips = frozenset({2})
    state = run(loop)
    assert (state.steps, state.records, state.skipped) == (3, 12, 1)
    lines = recorder.lines
    (line,) = [line for line in lines if line["kind"] == "skipped"]
    assert (line["step"], line["what"], line["skipped"]) == (2, "step 2 is bad", 1)
    losses = [line.get("train/loss") for line in lines if line["kind"] == "train"]
    assert losses == [2.0, 0, 6.0]
    assert all(math.isfinite(line.get("train/grad_norm", 0.0)) for line in lines)


def test_too_many_skipped_steps_end_the_run() -> None:
    loop, _, stepper = make(None, epochs=2, max_skipped=1)
    stepper.skips = frozenset({1, 4})
    with pytest.raises(NonFiniteError, match=r"step 4 is bad.*loop.max_skipped=1"):
        run(loop)
