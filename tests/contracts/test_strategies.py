"""Every encoder goes with every fine-tune strategy: what it says it trains is what changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from epitaxy.build import build
from epitaxy.heads.model import Model
from epitaxy.objectives.regression import Regression
from epitaxy.train.parts import make_optimizer, set_training
from epitaxy.train.settings import OptimizerSettings

CONF = Path(__file__).parents[2] / "platform/epitaxy/conf/finetune"
STRATEGIES = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_changes_what_the_strategy_trains(
    encoder: Any, examples: Any, batch_of: Any, table_of: Any, strategy: str
) -> None:
    objective = Regression("energy", hidden=(8,))
    objective.fit(table_of(examples))
    source = Model(encoder, objective.heads(encoder)).double()
    weights = {name: value.clone() for name, value in source.state_dict().items()}
    model = Model(encoder, objective.heads(encoder)).double()
    made = build(yaml.safe_load((CONF / f"{strategy}.yaml").read_text("utf-8")))
    report = made.apply(model, weights if made.needs_source else None)

    set_training(model, report)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(model, report, OptimizerSettings(lr=0.1, weight_decay=0.0))
    batch = batch_of(examples, [encoder.spec])
    terms = objective.terms(model, (batch,))
    terms["energy"].total.backward()
    optimizer.step()

    moved = {n for n, value in model.named_parameters() if not torch.equal(before[n], value)}
    assert moved <= set(report.multipliers)
    assert not moved & set(report.frozen)
    assert set(report.multipliers) | set(report.frozen) == set(before)
    assert any(name.startswith("head.") for name in moved)
    assert any(name.startswith("encoder.") for name in moved) == (strategy != "last_layer")
