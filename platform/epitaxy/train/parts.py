"""Builds what a run trains: encoder, objective, model with its strategy applied, optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from epitaxy.build import build
from epitaxy.errors import ConfigError
from epitaxy.finetune.contract import Report, Strategy
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train.checkpoint import build_model, load_weights
from epitaxy.train.settings import OptimizerSettings, RunSettings

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Parts:
    """What is trained.

    Attributes:
        model: With the strategy applied.
        objective: Without statistics yet (``adopt`` brings them).
        report: What the strategy did.
    """

    model: Model
    objective: Objective
    report: Report


def build_parts(settings: RunSettings) -> Parts:
    """Returns the parts of a run; the same weights in every process that calls it.

    Raises:
        ConfigError: If a part is unknown, or the strategy does not fit.
        CheckpointError: If the model to start from is damaged or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        objective = build(settings.objective)
        model = build_model(build(settings.encoder), objective)
    model.to(DTYPES[settings.loop.precision])
    strategy: Strategy = build(settings.init.strategy)
    folder = settings.init.model
    source = load_weights(folder)[0] if folder is not None else None
    return Parts(model, objective, strategy.apply(model, source))


def set_training(model: Model, report: Report) -> None:
    """Puts the model into training mode, except for what the strategy keeps in eval mode."""
    model.train()
    for name in report.eval_modules:
        model.get_submodule(name).eval()


def make_optimizer(
    model: Model, report: Report, settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Returns the optimiser of the trainable parameters.

    Its groups carry ``multiplier``, the factor on the scheduled learning rate.

    Raises:
        ConfigError: If nothing is left to train.
    """
    parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
    groups: dict[float, list[nn.Parameter]] = {}
    for name, multiplier in report.multipliers.items():
        groups.setdefault(multiplier, []).append(parameters[name])
    if not groups:
        raise ConfigError("the fine-tune strategy leaves no parameter to train")
    described = [
        {"params": params, "multiplier": multiplier} for multiplier, params in groups.items()
    ]
    decay = settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(
            described, lr=settings.lr, momentum=settings.momentum, weight_decay=decay
        )
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(described, lr=settings.lr, weight_decay=decay)
