"""Every objective trains every encoder that it can, and says before the start if it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.app.objective_table import ONE, YES, verdict
from epitaxy.build import build
from epitaxy.errors import NeedsError
from epitaxy.finetune.contract import Report
from epitaxy.graph.record import CrystalRecord
from epitaxy.objectives.contract import Coupling
from epitaxy.train.needs import check_needs
from epitaxy.train.random import generator
from epitaxy.train.settings import RunSettings
from epitaxy.train.step import Stepper

STEPS, RATE = 6, 1e-3


@pytest.fixture(scope="module")
def structures(crystals: Any, label: Any) -> list[CrystalRecord]:
    """32 crystals of one to four atoms with every label."""
    small = [crystals.triclinic(seed, 1 + seed % 4, volume_per_atom=22.0) for seed in range(32)]
    return [label(crystals.labelled(record, seed), seed) for seed, record in enumerate(small)]


def test_a_few_steps_on_32_structures_lower_the_loss(
    pair_in_matrix: Any, structures: list[CrystalRecord], batch_of: Any, table_of: Any
) -> None:
    """The same views at every step, so that noise cannot pass for learning."""
    model, objective = pair_in_matrix(table_of(structures), torch.float32)
    drawn = [objective.views(r, generator(0, 0, r.id, "views")) for r in structures]
    views = tuple(
        batch_of([each[i] for each in drawn], specs, torch.float32, objective.made)
        for i, specs in enumerate(objective.view_specs(model.encoder.spec))
    )
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    stepper = Stepper(model, objective, optimizer, clip_norm=10.0)
    losses = []
    for step in range(STEPS):
        objective.begin((step + 1) / STEPS)
        report = stepper([views], f"step {step}")
        losses.append(sum(report.weights[n] * v for n, v in report.terms.means().items()))
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0], losses


def test_what_does_not_fit_is_refused_with_all_three_parties(refused_pair: Any) -> None:
    """Who asks, for what, and who lacks it."""
    encoder_config, objective_config = refused_pair
    encoder, objective = build(encoder_config), build(objective_config)
    settings = RunSettings("run", "/run", "/data", encoder_config, objective_config)
    with pytest.raises(NeedsError) as refusal:
        check_needs(settings, Everything(), encoder, objective, Report({}))
    message = str(refusal.value)
    assert type(objective).__name__ in message
    assert type(encoder).__name__ in message
    missing = objective.requires - encoder.provides
    assert all(name in message for name in missing)
    assert missing or "norm" in message
    assert "would do" in message


class Everything(dict[str, Any]):
    """The fields of a data set that has every label, and no compositions."""

    def __contains__(self, name: object) -> bool:
        return name != "amount"


def test_the_verdicts_are_those_of_the_check_before_a_run(all_pairs: Any) -> None:
    for encoder_config, objective_config in all_pairs:
        encoder, objective = build(encoder_config), build(objective_config)
        settings = RunSettings("run", "/run", "/data", encoder_config, objective_config)
        found = verdict(encoder, objective)
        try:
            check_needs(settings, Everything(), encoder, objective, Report({}))
        except NeedsError:
            assert found not in (YES, ONE)
        else:
            assert found == (ONE if encoder.couples_records else YES)


def test_a_coupling_alone_is_its_loss_times_its_rows() -> None:
    rows = {"z": torch.tensor([1.0, 3.0])}
    term = Coupling(rows, lambda all_rows: all_rows["z"].mean(), weight=0.5).alone()
    assert (float(term.total), term.count, term.weight) == (4.0, 2, 0.5)
