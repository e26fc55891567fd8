"""Learning-rate curves at points worked out by hand, and step by step beside torch's schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD, Optimizer, lr_scheduler

from epitaxy.train.schedule import Plateau, factor, judge
from epitaxy.train.settings import ScheduleSettings

STEPS = 100


def test_linear_rise_then_constant() -> None:
    settings = ScheduleSettings("constant", warmup=0.2)
    assert [factor(settings, p) for p in (0.05, 0.1, 0.2, 0.9)] == pytest.approx([0.25, 0.5, 1, 1])


def test_cosine_passes_its_middle_and_ends_at_final() -> None:
    settings = ScheduleSettings("cosine", warmup=0.2, final=0.1)
    assert factor(settings, 0.2) == pytest.approx(1.0)
    assert factor(settings, 0.6) == pytest.approx(0.55)  # (1 + 0.1) / 2
    assert factor(settings, 1.0) == pytest.approx(0.1)


def test_one_cycle_starts_at_a_25th_and_ends_near_zero() -> None:
    settings = ScheduleSettings("one_cycle", warmup=0.3)
    assert factor(settings, 0.0) == pytest.approx(1 / 25)
    assert factor(settings, 0.15) == pytest.approx((1 + 1 / 25) / 2)
    assert factor(settings, 0.3) == pytest.approx(1.0)
    assert factor(settings, 1.0) == pytest.approx(4e-6)


def test_multi_step_multiplies_after_each_milestone() -> None:
    settings = ScheduleSettings("multi_step", warmup=0.0, milestones=(0.5, 0.75), gamma=0.1)
    values = [factor(settings, p) for p in (0.5, 0.51, 0.75, 0.76)]
    assert values == pytest.approx([1.0, 0.1, 0.1, 0.01])


def ours(settings: ScheduleSettings) -> list[float]:
    """The rate of each of ``STEPS`` equal steps."""
    return [factor(settings, (step + 1) / STEPS) for step in range(STEPS)]


def torchs(make: Callable[[Optimizer], Any], every: int = 1) -> list[float]:
    """The rate of each step, and of one more, with a scheduler that steps ``every`` so often."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for step in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


def test_the_rise_is_torchs_linear_one() -> None:
    rise = torchs(lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 20, total_iters=19))
    assert ours(ScheduleSettings("constant", warmup=0.2)) == pytest.approx(rise[:-1])


def test_cosine_is_torchs_one_step_ahead() -> None:
    """Torch's first step has the full rate, ours the last step the final one."""
    annealed = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1))
    assert ours(ScheduleSettings("cosine", warmup=0.0, final=0.1)) == pytest.approx(annealed[1:])


def test_multi_step_is_torchs_with_milestones_in_epochs() -> None:
    """Twenty epochs of five steps; epochs 10 and 16 begin at 0.5 and 0.8 of the run."""
    stepped = torchs(lambda o: lr_scheduler.MultiStepLR(o, [10, 16], gamma=0.3), every=5)
    settings = ScheduleSettings("multi_step", warmup=0.0, milestones=(0.5, 0.8), gamma=0.3)
    assert ours(settings) == pytest.approx(stepped[:-1])


def test_one_cycle_is_torchs_and_rises_less_than_a_step_ahead() -> None:
    """Torch's first step has the lowest rate; ours has left it, and both are highest at step 29."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=STEPS, pct_start=0.3, cycle_momentum=False
    )
    cycle = []
    for _ in range(STEPS):
        cycle.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(cycle) < STEPS:
            scheduler.step()
    rates = ours(ScheduleSettings("one_cycle", warmup=0.3))
    assert int(np.argmax(cycle)) == 29
    assert rates[29:] == pytest.approx(cycle[29:])
    assert all(cycle[k] < rates[k] < cycle[k + 1] for k in range(29))


@pytest.mark.parametrize(
    ("gamma", "patience", "threshold", "min_rate"),
    [(0.8, 10, 2e-4, 1e-5), (0.5, 0, 0.0, 0.0), (0.1, 2, 0.05, 3e-6)],
)
def test_plateau_is_torchs(gamma: float, patience: int, threshold: float, min_rate: float) -> None:
    rng = np.random.default_rng(patience)
    falling = np.exp(-np.arange(60) / 20) * rng.uniform(0.9, 1.1, 60)
    values = [*falling, *rng.uniform(0.05, 0.06, 60), *[0.05] * 30]
    settings = ScheduleSettings(
        "plateau", warmup=0.0, gamma=gamma, patience=patience, threshold=threshold,
        min_rate=min_rate,
    )  # fmt: skip
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=gamma, patience=patience, threshold=threshold, min_lr=min_rate, eps=0.0
    )
    plateau, rates = Plateau(), []
    for value in values:
        scheduler.step(value)
        plateau = judge(settings, plateau, value, peak=0.01)
        rates.append(0.01 * factor(settings, 0.5, plateau.reduction))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert len(set(rates)) > 3


def test_plateau_of_a_loss_below_zero() -> None:
    """A tenth better than -10 is -11; -9.5 is worse, whatever the threshold."""
    settings = ScheduleSettings("plateau", patience=3, threshold=0.1)
    plateau = judge(settings, Plateau(), -10.0, peak=1.0)
    assert judge(settings, plateau, -9.5, peak=1.0) == Plateau(1.0, -10.0, 1)
    assert judge(settings, plateau, -10.9, peak=1.0) == Plateau(1.0, -10.0, 1)
    assert judge(settings, plateau, -11.1, peak=1.0) == Plateau(1.0, -11.1, 0)


def test_validations_move_no_other_schedule() -> None:
    settings = ScheduleSettings("cosine", patience=0)
    assert judge(settings, Plateau(), 5.0, peak=1.0) == Plateau()


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "multi_step", "plateau"])
def test_first_and_last_step_are_not_wasted(name: str) -> None:
    settings = ScheduleSettings(name, warmup=0.1)  # type: ignore[arg-type]
    assert factor(settings, 0.001) > 0
    assert factor(settings, 1.0) > 0
