"""Metrics as (sum, count) pairs, so that masked labels and uneven shares cannot bend them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from epitaxy.graph.batch import CrystalBatch
from epitaxy.objectives.contract import Term
from epitaxy.train import collective

ENERGY_LABEL = "energy"
NO_CLASSES: Mapping[str, int] = MappingProxyType({})
_METRICS = {"absolute": "mae", "square": "rmse", "correct": "accuracy"}


class Sums:
    """Named (sum, count) pairs that add up over batches and ranks."""

    def __init__(self, pairs: Mapping[str, tuple[float, float]] | None = None) -> None:
        self.pairs = dict(pairs or {})

    def add(self, other: Sums) -> None:
        """Adds the pairs of ``other`` to these."""
        for name, (total, count) in other.pairs.items():
            old_total, old_count = self.pairs.get(name, (0.0, 0.0))
            self.pairs[name] = (old_total + total, old_count + count)

    def reduced(self) -> Sums:
        """Returns the pairs summed over all ranks; ranks may hold different names."""
        names = sorted(set().union(*collective.gather(sorted(self.pairs))))
        flat = {f"{n}/{i}": self.pairs.get(n, (0.0, 0.0))[i] for n in names for i in (0, 1)}
        sums = collective.sum_numbers(flat)
        return Sums({name: (sums[f"{name}/0"], sums[f"{name}/1"]) for name in names})

    def means(self) -> dict[str, float]:
        """Returns sum / count of every pair with a count above zero."""
        return {name: total / count for name, (total, count) in self.pairs.items() if count > 0}


def weighted_loss(terms: Sums, weights: Mapping[str, float]) -> float:
    """Returns ``Σ weight · sum / count``.

    A term without samples adds nothing, nor does one whose weight has meanwhile come to 0.
    """
    return sum(weights.get(name, 0.0) * mean for name, mean in terms.means().items())


def term_sums(terms: Mapping[str, Term]) -> Sums:
    """Returns the terms of one batch as plain numbers."""
    return Sums({name: (float(term.total), float(term.count)) for name, term in terms.items()})


def prediction_sums(
    batch: CrystalBatch,
    predictions: Mapping[str, Tensor],
    classes: Mapping[str, int] = NO_CLASSES,
) -> Sums:
    """Returns absolute and squared errors of predicted labels over the labels that exist.

    A tensor label counts each of its components; the energy is counted per crystal and, as
    ``energy_per_atom``, divided by the number of atoms. For ``classes`` the errors are those of
    the probabilities, and the correct ones of the most probable classes are counted.
    """
    sums = Sums()
    for name, predicted in predictions.items():
        if name not in batch.labels:
            continue
        target, mask = batch.labels[name], batch.masks[name]
        if name in classes:
            sums.add(_correct(name, predicted[mask], target[mask]))
            target = certain(target, classes[name])
        error = (predicted.detach() - target).double()
        sums.add(_errors(name, error[mask]))
        if name == ENERGY_LABEL:
            per_atom = error / batch.sizes.to(error.dtype)
            sums.add(_errors(f"{ENERGY_LABEL}_per_atom", per_atom[mask]))
    return sums


def prediction_metrics(sums: Sums, prefix: str) -> dict[str, float]:
    """Returns ``<prefix>/<label>_mae``, ``_rmse`` and, of classes, ``_accuracy`` from sums."""
    means = sums.means()
    metrics = {}
    for name, mean in means.items():
        label, _, kind = name.rpartition(":")
        metric = f"{prefix}/{label}_{_METRICS[kind]}"
        metrics[metric] = math.sqrt(mean) if kind == "square" else mean
    return metrics


def metric_units(
    units: Mapping[str, str],
    prefixes: Iterable[str] = ("val",),
    classes: Mapping[str, int] = NO_CLASSES,
) -> dict[str, str]:
    """Returns the unit of every prediction metric, given the units of the labels."""
    labels = dict(units)
    if ENERGY_LABEL in units:
        labels[f"{ENERGY_LABEL}_per_atom"] = f"{units[ENERGY_LABEL]}/atom"
    return {
        f"{prefix}/{label}_{kind}": unit
        for prefix in prefixes
        for label, unit in labels.items()
        for kind in ("mae", "rmse", *(("accuracy", "auc") if label in classes else ()))
    }


def certain(labels: Tensor, classes: int) -> Tensor:
    """Returns the probabilities that class numbers are: shaped as a classification predicts them.

    Of two classes that is the number itself, (rows,), of more a 1 among zeros, (rows, classes).
    """
    if classes == 2:
        return labels
    return functional.one_hot(labels.long(), classes).to(labels.dtype)


def _correct(name: str, predicted: Tensor, label: Tensor) -> Sums:
    chosen = predicted.argmax(-1) if predicted.ndim == 2 else predicted > 0.5
    return Sums({f"{name}:correct": (float((chosen == label).sum()), float(len(label)))})


def _errors(name: str, error: Tensor) -> Sums:
    count = float(error.numel())
    absolute, square = torch.stack([error.abs().sum(), (error * error).sum()]).tolist()
    return Sums({f"{name}:absolute": (absolute, count), f"{name}:square": (square, count)})
