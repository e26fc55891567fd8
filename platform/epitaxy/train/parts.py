"""Builds what a run trains: encoder, objective, model with its strategy applied, optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from epitaxy.build import build
from epitaxy.errors import ConfigError
from epitaxy.finetune.contract import Report, Strategy
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train.checkpoint import build_model, load_weights
from epitaxy.train.precision import DTYPES, check_precision
from epitaxy.train.settings import OptimizerSettings, RunSettings
from epitaxy.train.teacher import introduce, load_teacher


@dataclass(frozen=True)
class Parts:
    """What is trained.

    Attributes:
        model: With the strategy applied.
        objective: Without statistics yet (``adopt`` brings them).
        report: What the strategy did.
        teacher: Frozen, without heads; the objective holds its encoder.
    """

    model: Model
    objective: Objective
    report: Report
    teacher: Model | None = None


def build_parts(settings: RunSettings) -> Parts:
    """Returns the parts of a run; the same weights in every process that calls it.

    Raises:
        ConfigError: If a part is unknown, strategy or precision do not fit, or nobody wants
            the teacher.
        NeedsError: If the objective needs a teacher and there is none.
        CheckpointError: If the model to start from or the teacher is damaged or does not fit.
    """
    dtype = DTYPES[settings.loop.precision]
    with torch.random.fork_rng(devices=[]):
        teacher = load_teacher(settings.teacher, dtype)
        torch.manual_seed(settings.seed)
        objective = build(settings.objective)
        check_precision(settings.loop.precision, objective)
        introduce(teacher, objective)
        model = build_model(build(settings.encoder), objective)
    model.to(dtype)
    strategy: Strategy = build(settings.init.strategy)
    folder = settings.init.model
    source = load_weights(folder)[0] if folder is not None else None
    return Parts(model, objective, strategy.apply(model, source), teacher)


def set_training(model: Model, report: Report) -> None:
    """Puts the model into training mode, except for what the strategy keeps in eval mode."""
    model.train()
    for name in report.eval_modules:
        model.get_submodule(name).eval()


def make_optimizer(
    model: Model, report: Report, settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Returns the optimiser of the trainable parameters.

    Its groups carry ``multiplier``, the factor on the scheduled learning rate; parameters that
    ``no_decay`` spares are in groups of their own.

    Raises:
        ConfigError: If nothing is left to train, or ``no_decay`` spares nothing.
    """
    groups = _groups(model, report, settings)
    if not groups:
        raise ConfigError("the fine-tune strategy leaves no parameter to train")
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr)


def _groups(model: Model, report: Report, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Returns the trainable parameters by learning rate and weight decay."""
    parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    spared = {name for name in report.multipliers if any(p in name for p in settings.no_decay)}
    if settings.no_decay and report.multipliers and not spared:
        raise ConfigError(
            f"no trainable parameter has any of optimizer.no_decay={list(settings.no_decay)} in "
            f"its name; there are {', '.join(list(report.multipliers)[:6])}…"
        )
    for name, multiplier in report.multipliers.items():
        decay = 0.0 if name in spared else settings.weight_decay
        groups.setdefault((multiplier, decay), []).append(parameters[name])
    return [
        {"params": params, "multiplier": multiplier, "weight_decay": decay}
        for (multiplier, decay), params in groups.items()
    ]
