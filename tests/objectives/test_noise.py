from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.data.codec import encode
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.objectives.denoising import Denoising
from epitaxy.objectives.derivative_denoising import DerivativeDenoising
from epitaxy.objectives.noise import NOISE
from epitaxy.train.assemble import Assembler

OBJECTIVES = [Denoising, DerivativeDenoising]
SPEC = GraphSpec("radius", 4.0)


@pytest.fixture(scope="module")
def records(crystals: Any) -> list[CrystalRecord]:
    return crystals.many(12, seed=2, max_atoms=6)


def noised(records: Sequence[CrystalRecord], epoch: int = 0, **options: Any) -> dict[str, Any]:
    """Id to noise of each record, as the training loop draws it."""
    assembler = Assembler(Denoising(**options), SPEC, (), torch.float64, seed=3)
    (batch,) = assembler.views([encode(record) for record in records], epoch, "views")
    parts = batch.labels["noise"].split(batch.num_atoms.tolist())
    return dict(zip(batch.ids, parts, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_noise_is_what_was_added_and_the_only_label(objective: Any, records: Any) -> None:
    assert "energy" in records[5].labels
    (view,) = objective().views(records[5], np.random.default_rng(0))
    noise = view.labels["noise"]
    np.testing.assert_allclose(view.positions - records[5].positions, noise.value, atol=1e-14)
    assert set(view.labels) == {"noise"}
    assert noise.field("noise") == NOISE
    assert np.array_equal(view.cell, records[5].cell)
    assert view.id == records[5].id
    assert np.array_equal(view.numbers, records[5].numbers)


def test_the_noise_is_normal_and_alike_in_all_directions(crystals: Any) -> None:
    large = crystals.record("large", np.full(4000, 29), np.zeros((4000, 3)), np.eye(3) * 40)
    (view,) = Denoising(sigma=0.2).views(large, np.random.default_rng(1))
    drawn = view.labels["noise"].value.astype(np.float64) / 0.2
    # Bounds of five standard errors for 12,000 (4,000 per axis) independent standard normals.
    assert np.abs(drawn.mean(0)).max() < 5 / np.sqrt(4000)
    assert abs(np.square(drawn).sum() - 12000) < 5 * np.sqrt(2 * 12000)
    assert abs((drawn**4).mean() - 3) < 5 * np.sqrt(96 / 12000)
    correlation = drawn.T @ drawn / 4000 - np.diag(np.square(drawn).mean(0))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert abs((np.abs(drawn) < 1).mean() - 0.6827) < 5 * np.sqrt(0.6827 * 0.3173 / 12000)


def test_the_mean_is_removed_on_request(records: Any) -> None:
    kept, removed = noised(records), noised(records, remove_mean=True)
    for record in records:
        plain, centred = kept[record.id], removed[record.id]
        assert plain.mean(0).abs().min() > 1e-4
        torch.testing.assert_close(centred, plain - plain.mean(0), rtol=0, atol=1e-7)
    single = next(record for record in records if record.num_atoms == 1)
    assert not removed[single.id].any()


def test_noise_depends_on_record_and_epoch_not_on_company(records: Any) -> None:
    together, shuffled = noised(records), noised(records[::-1])
    alone = {name: value for record in records for name, value in noised([record]).items()}
    later = noised(records, epoch=1)
    for name, noise in together.items():
        assert torch.equal(noise, shuffled[name])
        assert torch.equal(noise, alone[name])
        assert not (noise == later[name]).any()
    first = torch.stack([noise[0] for noise in together.values()])
    assert len(torch.unique(first, dim=0)) == len(records)


def test_graphs_are_those_of_the_moved_atoms(crystals: Any) -> None:
    # Perfect bcc iron has 8 neighbours at 2.49 Å and 6 at 2.87 Å.
    record = crystals.record("bcc", [26, 26], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 2.87)
    spec = GraphSpec("radius", 3.2)
    (view,) = Denoising().views(record, np.random.default_rng(0))
    still, moved = (collate([r], [spec], (), torch.float64) for r in (record, view))
    assert still.graphs[spec].num_edges == 28
    lengths = still.edge_vectors(spec).norm(dim=-1)
    assert len(torch.unique(lengths.round(decimals=6))) == 2
    displaced = moved.edge_vectors(spec).norm(dim=-1)
    assert (displaced <= 3.2).all()
    # The pair (i, j) and the pair (j, i) share a length, an atom and its own image keep theirs.
    assert len(torch.unique(displaced.round(decimals=6))) > 8


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma.* must be > 0, got 0.0"),
        ({"sigma": float("nan")}, "must be > 0, got nan"),
        ({"loss": "l3"}, "unknown loss 'l3'"),
        ({"loss": "huber", "delta": -1.0}, "delta must be positive"),
    ],
)
def test_impossible_noise_is_refused(objective: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objective(**arguments)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_compositions_have_no_positions_to_move(objective: Any) -> None:
    assert objective.needs_structures
