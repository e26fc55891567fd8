"""Learning-rate curves at points worked out by hand."""

from __future__ import annotations

import pytest

from epitaxy.train.schedule import factor
from epitaxy.train.settings import ScheduleSettings


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


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "multi_step"])
def test_first_and_last_step_are_not_wasted(name: str) -> None:
    settings = ScheduleSettings(name, warmup=0.1)  # type: ignore[arg-type]
    assert factor(settings, 0.001) > 0
    assert factor(settings, 1.0) > 0
