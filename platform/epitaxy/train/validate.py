"""Validation: sums over all ranks, so that the metrics depend on the records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from epitaxy.errors import EpitaxyError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective, Term, Terms
from epitaxy.train import collective
from epitaxy.train.coupled import couplings, resolved, share
from epitaxy.train.metrics import (
    Sums,
    prediction_metrics,
    prediction_sums,
    term_sums,
    weighted_loss,
)
from epitaxy.train.ranking import Ranking
from epitaxy.train.transfer import Views, receive


def validate(
    model: Model, objective: Objective, batches: Iterable[Views], device: torch.device
) -> dict[str, float]:
    """Returns ``val/loss``, ``val/<term>`` and the metrics of every predicted label.

    Args:
        model: Is put into eval mode and left there.
        objective: Gives terms and predictions.
        batches: This rank's share of the validation split; may be empty.
        device: Where the model lives.

    Raises:
        EpitaxyError: On every rank, if any rank's share cannot be read.
    """
    model.eval()
    objective.begin(1.0)  # weights of the run's end, so that the figures of all epochs compare
    terms, errors = Sums(), Sums()
    ranking = Ranking(objective.class_counts)
    weights: dict[str, float] = {}
    totals = _Totals(terms, errors, ranking, weights)
    if objective.couples_records:
        _add_together(model, objective, batches, device, totals)
    else:
        failure: EpitaxyError | None = None
        try:
            for views in batches:
                if views[0].num_graphs:
                    moved = receive(views, device)
                    computed = resolved(_terms(model, objective, moved), {}, 0)
                    _add(model, objective, moved, computed, totals)
        except EpitaxyError as caught:
            failure = caught
        collective.raise_together(failure)
    everyone: dict[str, float] = {}
    for other in collective.gather(weights):
        everyone.update(other)
    terms, errors = terms.reduced(), errors.reduced()
    return {
        "val/loss": weighted_loss(terms, everyone),
        **{f"val/{name}": mean for name, mean in terms.means().items()},
        **prediction_metrics(errors, "val"),
        **ranking.metrics("val"),
    }


@dataclass(frozen=True)
class _Totals:
    """What adds up over the batches of a rank."""

    terms: Sums
    errors: Sums
    ranking: Ranking
    weights: dict[str, float]


def _add_together(
    model: Model,
    objective: Objective,
    batches: Iterable[Views],
    device: torch.device,
    totals: _Totals,
) -> None:
    """Adds all batches, each in step with those of the other ranks, with which it is compared."""
    remaining = iter(batches)
    while True:
        failure: EpitaxyError | None = None
        moved: Views | None = None
        computed: Terms = {}
        try:
            views = next(remaining, None)
            if views is not None:
                moved = receive(views, device)
                computed = _terms(model, objective, moved)
        except EpitaxyError as caught:
            failure = caught
        collective.raise_together(failure)
        if moved is None:  # on all ranks at once: a plan has as many steps for each
            return
        shared = share([couplings(computed)], gradients=False)
        _add(model, objective, moved, resolved(computed, shared, 0), totals)


@torch.no_grad()
def _terms(model: Model, objective: Objective, views: Views) -> Terms:
    return objective.terms(model, views)


@torch.no_grad()
def _add(
    model: Model, objective: Objective, views: Views, terms: Mapping[str, Term], totals: _Totals
) -> None:
    totals.weights.update({name: term.weight for name, term in terms.items()})
    totals.terms.add(term_sums(terms))
    if objective.units and views[0].num_graphs:
        predicted = objective.predict(model, views[0])
        totals.errors.add(prediction_sums(views[0], predicted, totals.ranking.classes))
        totals.ranking.add(views[0], predicted)
