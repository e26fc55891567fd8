"""Factors that keep the parts of a loss in proportion, with gradients that are known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from epitaxy.errors import ConfigError
from epitaxy.objectives.contract import Balance, Term
from epitaxy.train.balance import Balancer
from epitaxy.train.checkpoint import load_weights
from epitaxy.train.launch import launch
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import RunSettings

COUNTS = {"a.x": 4.0, "a.y": 2.0, "b.x": 5.0}
EFS = "epitaxy.objectives.energy_force_stress.EnergyForceStress"
REGRESSION = "epitaxy.objectives.regression.Regression"


def make(rule: Balance | None, weights: Mapping[str, float]) -> tuple[Balancer, nn.Linear]:
    encoder = nn.Linear(2, 1, bias=False).double()
    objective = SimpleNamespace(balance=rule, part_weights=weights)
    model: Any = SimpleNamespace(encoder=encoder)
    goal: Any = objective
    return Balancer(model, goal), encoder


def terms_of(encoder: nn.Linear, weights: Mapping[str, float]) -> dict[str, Term]:
    """Part a has the slope (3, 4) from two terms, part b (0, 1.25): norms 5 and 1.25."""
    first, second = encoder.weight[0]
    return {
        "a.x": Term(12.0 * first, 4.0, weights["a"]),
        "a.y": Term(16.0 * second, 2.0, 0.5 * weights["a"]),
        "b.x": Term(6.25 * second, 5.0, weights["b"]),
    }


def step(balancer: Balancer, encoder: nn.Linear, weights: Mapping[str, float]) -> dict[str, Term]:
    balancer.begin()
    terms = balancer.weighed(terms_of(encoder, weights), COUNTS)
    torch.stack(
        [term.total for term in terms.values()]
    ).sum().backward()  # the graph is still there
    balancer.end()
    return terms


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 7.0}])
def test_factors_by_hand(weights: dict[str, float]) -> None:
    balancer, encoder = make(Balance(every=1, decay=0.75), weights)
    terms = step(balancer, encoder, weights)
    assert terms["a.y"].weight == 0.5 * weights["a"]  # the first step is as if unbalanced
    # The geometric mean of 5 and 1.25 is 2.5: a halves, b doubles, with a quarter of the exponent.
    assert balancer.factors == pytest.approx({"a": 0.5**0.25, "b": 2**0.25})
    terms = step(balancer, encoder, weights)
    assert terms["a.y"].weight == pytest.approx(0.5 * weights["a"] * 0.5**0.25)
    assert balancer.factors == pytest.approx({"a": 0.5**0.4375, "b": 2**0.4375})
    for _ in range(100):
        step(balancer, encoder, weights)
    assert balancer.factors["a"] * 5.0 == pytest.approx(balancer.factors["b"] * 1.25)


def test_only_every_so_many_steps_are_measured() -> None:
    weights = {"a": 1.0, "b": 1.0}
    balancer, encoder = make(Balance(every=3, decay=0.0), weights)
    balancer.resume(2, {"a": 1.0, "b": 1.0})
    moved = []
    for _ in range(5):
        before = dict(balancer.factors)
        step(balancer, encoder, {"a": 1.0, "b": 1.0})
        moved.append(balancer.factors != before)
        balancer.factors.update(before)
    assert moved == [False, True, False, False, True]  # steps 3 and 6 of the run


def test_a_part_without_a_gradient_keeps_its_factor() -> None:
    weights = {"a": 1.0, "b": 1.0, "c": 0.0}
    balancer, encoder = make(Balance(every=1, decay=0.5), weights)
    balancer.resume(0, {"c": 3.0})
    step(balancer, encoder, weights)
    assert balancer.factors == pytest.approx({"a": math.sqrt(0.5), "b": math.sqrt(2.0), "c": 3.0})


def test_factors_stay_within_their_limit() -> None:
    weights = {"a": 1.0, "b": 1.0}
    balancer, encoder = make(Balance(every=1, decay=0.0, limit=1.5), weights)
    step(balancer, encoder, weights)
    assert balancer.factors == pytest.approx({"a": 1 / 1.5, "b": 1.5})


def test_without_a_rule_nothing_changes() -> None:
    balancer, encoder = make(None, {"a": 1.0, "b": 1.0})
    terms = step(balancer, encoder, {"a": 1.0, "b": 2.0})
    assert [term.weight for term in terms.values()] == [1.0, 0.5, 2.0]
    assert balancer.factors == {}


def test_a_frozen_encoder_has_nothing_to_balance() -> None:
    encoder = nn.Linear(2, 1).requires_grad_(False)
    model: Any = SimpleNamespace(encoder=encoder)
    goal: Any = SimpleNamespace(balance=Balance(), part_weights={"a": 1.0})
    with pytest.raises(ConfigError, match=r"set objective\.balance=null"):
        Balancer(model, goal)


def combined(**changes: Any) -> dict[str, Any]:
    energies = {"_target_": EFS, "hidden": [8], "force_weight": 0.0, "stress_weight": 0.0}
    numbers = {"_target_": REGRESSION, "label": "mean_number", "hidden": [8]}
    return {
        "_target_": "epitaxy.objectives.combined.Combined",
        "parts": {
            "energies": {"objective": energies},
            "numbers": {"objective": numbers, "weight": {"start": 1.0, "end": 0.0}},
        },
        **changes,
    }


def test_a_resumed_run_goes_on_with_the_same_factors(
    make_settings: Callable[..., RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"every": 3, "decay": 0.5}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    whole = launch(make_settings("whole", objective=combined(balance=rule)))
    broken = make_settings("broken", objective=combined(balance=rule))
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            launch(broken)
    resumed = launch(broken)
    lines = [
        [{k: v for k, v in line.items() if k.startswith("train/")} for line in run.history]
        for run in (whole, resumed)
    ]
    assert resumed.resumed
    assert lines[0] == lines[1]
    measured = [line["train/balance/numbers"] for line in lines[0] if line]
    assert len(measured) == 8
    assert len(set(measured)) == 3  # steps 1, 4 and 7 of 8
    for name, tensor in load_weights(whole.model)[0].items():
        assert torch.equal(tensor, load_weights(resumed.model)[0][name]), name


def test_a_weight_that_comes_to_nothing_leaves_loss_and_validation(
    make_settings: Callable[..., RunSettings],
) -> None:
    run = launch(make_settings(objective=combined(), loop={"epochs": 2, "log_every": 50}))
    train = [line for line in run.history if line["kind"] == "train"]
    assert all("train/numbers.mean_number" in line for line in train)  # until the last step
    assert train[-1]["train/loss"] == pytest.approx(train[-1]["train/energies.energy"])
    assert not any(name.startswith("train/balance") for name in train[-1])
    assert "val/numbers.mean_number" not in run.metrics
    assert run.metrics["val/loss"] == run.metrics["val/energies.energy"]
    assert "val/mean_number_mae" in run.metrics
