"""Area under the ROC curve: a metric that needs all predictions at once, of all ranks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from epitaxy.graph.batch import CrystalBatch
from epitaxy.train import collective


class Ranking:
    """Collects class labels and their predicted probabilities.

    Args:
        classes: Labels that are class numbers, with their numbers of classes.
    """

    def __init__(self, classes: Mapping[str, int]) -> None:
        self.classes = classes
        self._rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in classes}

    def add(self, batch: CrystalBatch, predicted: Mapping[str, Tensor]) -> None:
        """Adds the records of a batch that carry the labels."""
        for name, rows in self._rows.items():
            if name in batch.labels and name in predicted:
                mask = batch.masks[name]
                pair = (batch.labels[name][mask], predicted[name][mask])
                label, probability = (tensor.detach().double().cpu().numpy() for tensor in pair)
                rows.append((label, probability))

    def metrics(self, prefix: str) -> dict[str, float]:
        """Returns ``<prefix>/<label>_auc`` over all ranks, where it is defined."""
        if not self.classes:
            return {}
        found = {}
        ranks = collective.gather(self._rows)
        for name in self.classes:
            rows = [row for rank in ranks for row in rank[name]]
            if rows:
                label, probability = (np.concatenate(part) for part in zip(*rows, strict=True))
                area = auc(label, probability)
                if not np.isnan(area):
                    found[f"{prefix}/{name}_auc"] = area
        return found


def auc(label: np.ndarray, probability: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN where it is undefined.

    It is the share of pairs of records of either class that the probabilities order rightly, ties
    counted half. With more than two classes it is the mean over each class against the others.

    Args:
        label: Class numbers, (records,).
        probability: Of class 1, (records,), or of each class, (records, classes).
    """
    if probability.ndim == 1:
        return _area(label == 1, probability)
    areas = [_area(label == number, column) for number, column in enumerate(probability.T)]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def _area(positive: np.ndarray, score: np.ndarray) -> float:
    """Returns the area of one class against the rest, by the ranks of the scores."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives or np.isnan(score).any():
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # from 1; ties share the mean of their ranks
    rank_sum = float(mean_rank[place][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
