"""The area under the ROC curve against counting pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from epitaxy.graph.batch import CrystalBatch
from epitaxy.train.ranking import Ranking, auc


def counted(label: np.ndarray, score: np.ndarray) -> float:
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in score[label == 1]
        for other in score[label == 0]
    ]
    return float(np.mean(pairs))


def test_by_hand() -> None:
    label = np.array([0, 0, 1, 1])
    assert auc(label, np.array([0.1, 0.4, 0.35, 0.8])) == 0.75  # 3 of 4 pairs
    assert auc(label, np.array([0.1, 0.2, 0.8, 0.9])) == 1.0
    assert auc(label, np.full(4, 0.3)) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_ties_count_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 60)
    score = rng.integers(0, 7, 60) / 7
    assert auc(label, score) == pytest.approx(counted(label, score))


def test_several_classes_are_each_set_against_the_others() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 50)
    scores = rng.dirichlet(np.ones(3), 50)
    areas = [counted((label == k).astype(int), scores[:, k]) for k in range(3)]
    assert auc(label, scores) == pytest.approx(np.mean(areas))
    two = label < 2  # class 2 does not occur: it has no curve
    areas = [counted((label[two] == k).astype(int), scores[two, k]) for k in range(2)]
    assert auc(label[two], scores[two]) == pytest.approx(np.mean(areas))


def test_it_is_undefined_for_one_class_and_for_nan() -> None:
    assert math.isnan(auc(np.ones(3), np.array([0.1, 0.2, 0.3])))
    assert math.isnan(auc(np.array([0, 1]), np.array([0.1, np.nan])))
    assert math.isnan(auc(np.ones(2), np.full((2, 3), 1 / 3)))


def batch(labels: list[float], mask: list[bool]) -> CrystalBatch:
    count = len(labels)
    return CrystalBatch(
        ids=tuple(map(str, range(count))),
        numbers=torch.ones(count, dtype=torch.long),
        positions=torch.zeros(count, 3),
        cell=torch.eye(3).repeat(count, 1, 1),
        graph_index=torch.arange(count),
        num_atoms=torch.ones(count, dtype=torch.long),
        labels={"kind": torch.tensor(labels)},
        masks={"kind": torch.tensor(mask)},
        graphs={},
    )


def test_ranks_are_ranked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Ranking({"kind": 2}), Ranking({"kind": 2})
    one.add(batch([0, 1], [True, True]), {"kind": torch.tensor([0.6, 0.7])})
    other.add(batch([1], [True]), {"kind": torch.tensor([0.5])})
    monkeypatch.setattr("epitaxy.train.collective.gather", lambda mine: [one._rows, other._rows])
    assert one.metrics("val") == other.metrics("val") == {"val/kind_auc": 0.5}


def test_batches_are_ranked_together_and_the_unlabelled_left_out() -> None:
    ranking = Ranking({"kind": 2})
    ranking.add(batch([0, 1], [True, True]), {"kind": torch.tensor([0.6, 0.7])})
    ranking.add(batch([0, 1], [False, True]), {"kind": torch.tensor([0.9, 0.5])})
    assert ranking.metrics("val") == {"val/kind_auc": 0.5}
    assert Ranking({"kind": 2}).metrics("val") == {}
    assert Ranking({}).metrics("val") == {}
