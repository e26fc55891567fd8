from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from epitaxy.encoders.norms import COUPLING, make_norm
from epitaxy.errors import ConfigError

DEALS = ([[0, 1, 4, 5, 7], [2, 3, 6, 8]], [[], list(range(9))])


def reference() -> nn.BatchNorm1d:
    return nn.BatchNorm1d(3).double()


def test_two_workers_normalise_like_one_whatever_their_shares(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(2.0, 3.0, (9, 3)), rng.normal(size=(9, 3))
    scale = np.array([0.5, 1.0, -2.0])
    shares = {
        f"share{deal}{rank}": np.array(DEALS[deal][rank], dtype=np.int64)
        for deal in range(2)
        for rank in range(2)
    }
    np.savez(tmp_path / "given.npz", rows=rows, weights=weights, scale=scale, **shares)
    answers = run_peers(tmp_path)

    norm = reference()
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(scale))
    for deal in range(2):
        given = torch.from_numpy(rows).requires_grad_()
        norm.zero_grad()
        result = norm(given)
        (result.square() * torch.from_numpy(weights)).sum().backward()
        expected = {
            "parameters": torch.cat([norm.weight.grad, norm.bias.grad]),
            "mean": norm.running_mean,
            "variance": norm.running_var,
            "updates": norm.num_batches_tracked,
        }
        for rank in range(2):
            share = DEALS[deal][rank]
            rows_of_rank = {"result": result.detach()[share], "gradient": given.grad[share]}
            for name, value in {**expected, **rows_of_rank}.items():
                np.testing.assert_allclose(answers[rank][f"{name}{deal}"], value, atol=1e-12)


def run_peers(folder: Path) -> list[dict[str, np.ndarray]]:
    script = str(Path(__file__).with_name("norm_peer.py"))
    peers = [
        subprocess.Popen([sys.executable, script, str(rank), "2", str(folder)]) for rank in range(2)
    ]
    assert [peer.wait(timeout=120) for peer in peers] == [0, 0]
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(2)]


@pytest.mark.parametrize("name", sorted(COUPLING))
@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_batch_norm(name: str, training: bool) -> None:
    norm, plain = make_norm(name, 3).double().train(training), reference().train(training)
    for seed in range(3):
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).double()
        torch.testing.assert_close(norm(rows), plain(rows))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[key], value)


@pytest.mark.parametrize("name", sorted(COUPLING))
def test_one_row_becomes_the_bias_and_moves_only_the_mean(name: str) -> None:
    norm = make_norm(name, 2)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([0.25, -1.0]))
    torch.testing.assert_close(norm(torch.tensor([[3.0, 5.0]])), norm.bias.detach()[None])
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3, 0.5]))
    torch.testing.assert_close(norm.running_var, torch.ones(2))


@pytest.mark.parametrize("name", [*sorted(COUPLING), "layer", "none"])
def test_no_rows_change_nothing(name: str) -> None:
    norm = make_norm(name, 2)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    rows = torch.zeros(0, 2, requires_grad=True)
    norm(rows).sum().backward()
    assert rows.grad.shape == (0, 2)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key])


def test_only_batch_norms_couple_rows() -> None:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for name in (*sorted(COUPLING), "layer", "none"):
        norm = make_norm(name, 3)
        alone = norm(rows[:2])
        assert torch.allclose(norm(rows)[:2], alone) == (name not in COUPLING)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown norm 'batchs'; did you mean 'batch'"):
        make_norm("batchs", 3)
