"""Each strategy changes exactly what it says, at once and over optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from epitaxy.build import build
from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.errors import CheckpointError, ConfigError
from epitaxy.finetune.contract import Report, Strategy
from epitaxy.finetune.full import Full
from epitaxy.finetune.last_layer import LastLayer
from epitaxy.finetune.scratch import Scratch
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import ScalarHead
from epitaxy.train.parts import make_optimizer, set_training
from epitaxy.train.settings import OptimizerSettings


def model(
    seed: int, *, width: int = 8, hidden: tuple[int, ...] = (6,), norm: str = "none"
) -> Model:
    torch.manual_seed(seed)
    encoder = CGCNN(width, 1, cutoff=4.0, num_basis=4, norm=norm)  # type: ignore[arg-type]
    return Model(encoder, {"scalar": ScalarHead(width, hidden)})


def state(made: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: nn.Module) -> set[str]:
    now = after.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}


def train(made: Model, report: Report, steps: int = 2) -> torch.optim.Optimizer:
    """Steps with random gradients everywhere, weight decay, and batches through the norms."""
    settings = OptimizerSettings(lr=0.1, weight_decay=0.1)
    optimizer = make_optimizer(made, report, settings)
    set_training(made, report)
    for _ in range(steps):
        for module in made.modules():
            if getattr(module, "running_mean", None) is not None:
                module(torch.randn(5, module.num_features))
        for parameter in made.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return optimizer


def test_scratch_keeps_the_random_start_and_trains_everything() -> None:
    made = model(1)
    before = state(made)
    report = Scratch().apply(made, None)
    assert not changed(before, made)
    assert report.loaded == ()
    assert set(report.reinitialised) == set(before)
    assert set(report.multipliers) == {name for name, _ in made.named_parameters()}
    train(made, report)
    assert changed(before, made) == set(report.multipliers)


def test_scratch_refuses_a_source_it_would_ignore() -> None:
    with pytest.raises(ConfigError, match="finetune=full"):
        Scratch().apply(model(1), state(model(2)))


@pytest.mark.parametrize("strategy", [Full(), LastLayer()])
def test_transfer_without_a_source_is_refused(strategy: Strategy) -> None:
    assert strategy.needs_source
    with pytest.raises(ConfigError, match="needs a model to start from"):
        strategy.apply(model(1), None)


def test_full_loads_everything_and_trains_everything() -> None:
    made, source = model(1), state(model(2))
    report = Full().apply(made, source)
    assert not changed(source, made)
    assert set(report.loaded) == set(source)
    assert (report.reinitialised, report.unused, report.frozen) == ((), {}, ())
    train(made, report)
    assert changed(source, made) == set(report.multipliers)


def test_full_with_a_fresh_head() -> None:
    made, source = model(1), state(model(2))
    before = state(made)
    report = Full(reset_head=True).apply(made, source)
    heads = {name for name in source if name.startswith("head.")}
    assert changed(before, made) == set(report.loaded) == set(source) - heads
    assert set(report.reinitialised) == set(report.unused) == heads


def test_full_reports_what_does_not_fit() -> None:
    made, source = model(1, hidden=(12,)), state(model(2))
    before = state(made)
    source["head.vector.weight"] = torch.zeros(2)
    report = Full().apply(made, source)
    misfits = {"head.scalar.hidden.0.weight", "head.scalar.hidden.0.bias", "head.scalar.out.weight"}
    assert set(report.unused) == misfits | {"head.vector.weight"}
    assert report.unused["head.scalar.out.weight"] == "shape [1, 6], the model has [1, 12]"
    assert report.unused["head.vector.weight"] == "the model has no such weight"
    assert set(report.reinitialised) == misfits
    assert not changed(before, made) & misfits
    assert "head.scalar.out.bias" in report.loaded


def test_encoder_rate_multiplies_the_learning_rate_of_the_encoder() -> None:
    made, source = model(1), state(model(2))
    report = Full(encoder_rate=0.25).apply(made, source)
    optimizer = make_optimizer(made, report, OptimizerSettings("sgd", lr=1.0, momentum=0.0))
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["multiplier"]  # as the loop does
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in made.named_parameters():
        step = 0.025 if name.startswith("encoder.") else 0.1
        torch.testing.assert_close(parameter.detach(), source[name] - step)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_encoder_rate_must_be_positive(rate: float) -> None:
    with pytest.raises(ConfigError, match="last_layer"):
        Full(encoder_rate=rate)


def test_another_encoder_is_refused() -> None:
    source = {name.replace("encoder.", "encoder.other."): t for name, t in state(model(2)).items()}
    with pytest.raises(CheckpointError, match="another encoder"):
        Full().apply(model(1), source)


OUT = {"head.scalar.out.weight", "head.scalar.out.bias"}


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_last_layer_moves_the_last_layer_alone(norm: str) -> None:
    made, source = model(1, norm=norm), state(model(2, norm=norm))
    report = LastLayer().apply(made, source)
    assert not changed(source, made)
    assert set(report.multipliers) == OUT
    assert set(report.frozen) == {name for name, _ in made.named_parameters()} - OUT
    optimizer = train(made, report)
    assert changed(source, made) == OUT  # neither weight decay nor running statistics moved
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in made.named_parameters() if name in OUT}
    assert len(optimizer.state) == 2


def test_frozen_norms_move_their_statistics_on_request() -> None:
    made, source = model(1, norm="batch"), state(model(2, norm="batch"))
    report = LastLayer(frozen_norm="batch").apply(made, source)
    train(made, report)
    statistics = {name for name in source if "running_" in name or "num_batches" in name}
    assert statistics
    assert changed(source, made) == OUT | statistics


def test_last_layer_refuses_to_freeze_random_weights() -> None:
    with pytest.raises(ConfigError, match=r"would freeze .*head\.scalar\.hidden\.0"):
        LastLayer().apply(model(1, hidden=(12,)), state(model(2)))


def test_last_layer_with_several_heads() -> None:
    torch.manual_seed(0)
    heads = nn.ModuleDict({"gap": ScalarHead(8, (6,)), "modulus": ScalarHead(8, (6,))})
    made = Model(CGCNN(8, 1, cutoff=4.0), {"property": heads})
    report = LastLayer().apply(made, state(made))
    assert set(report.multipliers) == {
        f"head.property.{name}.out.{kind}"
        for name in ("gap", "modulus")
        for kind in ("weight", "bias")
    }


def test_unknown_norm_policy() -> None:
    with pytest.raises(ConfigError, match="frozen_norm"):
        LastLayer(frozen_norm="train").apply(model(1), state(model(2)))  # type: ignore[arg-type]


def configs() -> dict[str, dict[str, Any]]:
    folder = files("epitaxy.conf").joinpath("finetune")
    return {
        path.name: yaml.safe_load(path.read_text("utf-8"))
        for path in folder.iterdir()
        if path.name.endswith(".yaml")
    }


@pytest.mark.parametrize("name", sorted(configs()))
def test_contract_of_every_config(name: str) -> None:
    strategy = build(configs()[name])
    assert isinstance(strategy, Strategy)
    made = model(1)
    report = strategy.apply(made, state(model(2)) if strategy.needs_source else None)
    trainable = {n for n, p in made.named_parameters() if p.requires_grad}
    assert set(report.multipliers) == trainable
    assert set(report.frozen) == {n for n, _ in made.named_parameters()} - trainable
    assert set(report.loaded) | set(report.reinitialised) == set(made.state_dict())
    assert not set(report.loaded) & set(report.reinitialised)
    assert report.to_json()["loaded"] == list(report.loaded)
