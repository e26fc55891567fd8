"""What is trained: precision that fits the objective, parameters by rate and weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.finetune.contract import Report
from epitaxy.train.parts import Parts, build_parts, make_optimizer
from epitaxy.train.settings import OptimizerSettings, RunSettings

MakeSettings = Callable[..., RunSettings]


@pytest.fixture
def parts(make_settings: MakeSettings) -> Parts:
    """A network with layer norms, whose head learns at twice the rate."""
    encoder = {
        "_target_": "epitaxy.encoders.cgcnn.CGCNN",
        "width": 4,
        "layers": 1,
        "norm": "layer",
    }
    built = build_parts(make_settings(encoder=encoder))
    multipliers = {
        name: 2.0 if name.startswith("head") else 1.0 for name in built.report.multipliers
    }
    return Parts(built.model, built.objective, Report(multipliers))


def moved_by_decay(parts: Parts, settings: OptimizerSettings) -> dict[str, float]:
    """Factor on each parameter in a step whose gradients are zero."""
    optimizer = make_optimizer(parts.model, parts.report, settings)
    before = {}
    for name, parameter in parts.model.named_parameters():
        torch.nn.init.constant_(parameter, 3.0)
        before[name] = parameter.detach().clone()
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * group["multiplier"]
    optimizer.step()
    return {
        name: float((parameter.detach() / before[name]).mean())
        for name, parameter in parts.model.named_parameters()
    }


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_spared_does_not_shrink(parts: Parts, name: Any) -> None:
    """Without gradients both optimisers multiply weights by 1 − rate · decay."""
    settings = OptimizerSettings(
        name, lr=0.1, weight_decay=0.5, momentum=0.0, no_decay=("bias", "norm")
    )
    factors = moved_by_decay(parts, settings)
    spared = {key for key in factors if "bias" in key or "norm" in key}
    assert {key for key in spared if not key.endswith("bias")} == {
        "encoder.interaction.0.edge_norm.weight",
        "encoder.interaction.0.node_norm.weight",
    }
    for key, factor in factors.items():
        shrunk = 1 - (0.2 if key.startswith("head") else 0.1) * 0.5
        assert factor == pytest.approx(1.0 if key in spared else shrunk), key


def test_by_default_everything_decays(parts: Parts) -> None:
    settings = OptimizerSettings("adamw", lr=0.1, weight_decay=0.5)
    assert all(factor < 0.96 for factor in moved_by_decay(parts, settings).values())
    optimizer = make_optimizer(parts.model, parts.report, settings)
    assert [group["multiplier"] for group in optimizer.param_groups] == [1.0, 2.0]


def test_a_pattern_that_spares_nothing_is_a_slip(parts: Parts) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.no_decay=\['baias'\].*encoder\.embedding"):
        make_optimizer(parts.model, parts.report, OptimizerSettings(no_decay=("baias",)))


def test_coarse_arithmetic_is_refused_for_derivatives(make_settings: MakeSettings) -> None:
    loop = {"precision": "bf16"}
    with pytest.raises(ConfigError, match=r"precision=bf16 does not suit .*EnergyForceStress"):
        build_parts(make_settings(loop=loop))
    energies = {
        "_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress",
        "force_weight": 0.0,
        "stress_weight": 0.0,
    }
    model = build_parts(make_settings(loop=loop, objective=energies)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
