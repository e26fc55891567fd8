"""Validation: sums over all ranks, so that the metrics depend on the records alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from epitaxy.errors import EpitaxyError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective, class_counts
from epitaxy.train import collective
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
    terms, errors = Sums(), Sums()
    ranking = Ranking(class_counts(objective))
    weights: dict[str, float] = {}
    failure: EpitaxyError | None = None
    try:
        for views in batches:
            _add_batch(model, objective, views, device, terms, errors, ranking, weights)
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


@torch.no_grad()
def _add_batch(
    model: Model,
    objective: Objective,
    views: Views,
    device: torch.device,
    terms: Sums,
    errors: Sums,
    ranking: Ranking,
    weights: dict[str, float],
) -> None:
    if views[0].num_graphs == 0:
        return
    moved = receive(views, device)
    computed = objective.terms(model, moved)
    weights.update({name: term.weight for name, term in computed.items()})
    terms.add(term_sums(computed))
    predicted = objective.predict(model, moved[0])
    errors.add(prediction_sums(moved[0], predicted, ranking.classes))
    ranking.add(moved[0], predicted)
