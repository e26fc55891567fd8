"""What every encoder with a configuration keeps: its shapes, its declared invariances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from epitaxy.encoders.contract import Encoder
from epitaxy.graph.record import CrystalRecord

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
KNOWN = {"rotation", "translation", "permutation", "supercell", "smooth_cutoff"}


def declared(encoder: Any, invariance: str) -> None:
    if invariance not in encoder.invariances:
        pytest.skip(f"does not declare {invariance}")


def states(encoder: Any, records: list[CrystalRecord], batch_of: Any) -> torch.Tensor:
    with torch.no_grad():
        return encoder(batch_of(records, [encoder.spec])).node


def rotation() -> np.ndarray:
    """A proper rotation about no special axis."""
    matrix, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def test_it_is_an_encoder(encoder: Any, examples: Any, batch_of: Any) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.invariances <= KNOWN
    assert encoder.provides <= {"graph", "node", "edge", "vector", "position_grad"}
    node = states(encoder, examples, batch_of)
    assert node.shape == (sum(r.num_atoms for r in examples), encoder.node_width)
    assert torch.isfinite(node).all()


def test_its_blocks_hold_all_of_its_parameters_in_order(encoder: Any) -> None:
    owned = [name for name, _ in encoder.named_parameters()]
    by_block = [
        f"{block}.{name}"
        for block in encoder.blocks
        for name, _ in encoder.get_submodule(block).named_parameters()
    ]
    assert by_block == owned


def test_a_batch_equals_its_crystals(encoder: Any, examples: Any, batch_of: Any) -> None:
    singly = torch.cat([states(encoder, [record], batch_of) for record in examples])
    torch.testing.assert_close(states(encoder, examples, batch_of), singly, **CLOSE)


def test_rotation(encoder: Any, examples: Any, batch_of: Any) -> None:
    declared(encoder, "rotation")
    turned = [
        r.replace(positions=r.positions @ rotation(), cell=r.cell @ rotation()) for r in examples
    ]
    expected = states(encoder, examples, batch_of)
    torch.testing.assert_close(states(encoder, turned, batch_of), expected, **CLOSE)


def test_translation(encoder: Any, examples: Any, batch_of: Any) -> None:
    declared(encoder, "translation")
    moved = [r.replace(positions=r.positions + np.array([1.3, -7.7, 22.1])) for r in examples]
    expected = states(encoder, examples, batch_of)
    torch.testing.assert_close(states(encoder, moved, batch_of), expected, **CLOSE)


def test_an_atom_in_another_cell(encoder: Any, examples: Any, batch_of: Any) -> None:
    declared(encoder, "translation")
    record = examples[0]
    positions = record.positions.copy()
    positions[1] += np.array([2.0, -1.0, 3.0]) @ record.cell
    moved = states(encoder, [record.replace(positions=positions)], batch_of)
    torch.testing.assert_close(moved, states(encoder, [record], batch_of), **CLOSE)


def test_permutation(encoder: Any, examples: Any, batch_of: Any) -> None:
    declared(encoder, "permutation")
    for record in examples:
        order = np.random.default_rng(3).permutation(record.num_atoms)
        shuffled = CrystalRecord(
            "shuffled", record.numbers[order], record.positions[order], record.cell
        )
        expected = states(encoder, [record], batch_of)[torch.from_numpy(order)]
        torch.testing.assert_close(states(encoder, [shuffled], batch_of), expected, **CLOSE)


def test_supercell(encoder: Any, examples: Any, batch_of: Any) -> None:
    declared(encoder, "supercell")
    for record in examples[:4]:
        larger = CrystalRecord(
            "larger",
            np.tile(record.numbers, 2),
            np.concatenate([record.positions, record.positions + record.cell[1]]),
            record.cell * np.array([[1.0], [2.0], [1.0]]),
        )
        expected = states(encoder, [record], batch_of).repeat(2, 1)
        torch.testing.assert_close(states(encoder, [larger], batch_of), expected, **CLOSE)


def dimer(distance: float) -> CrystalRecord:
    positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    return CrystalRecord("dimer", np.array([8, 26]), positions, np.zeros((3, 3)), np.zeros(3, bool))


def test_states_and_slopes_are_continuous_at_the_cutoff(encoder: Any, batch_of: Any) -> None:
    declared(encoder, "smooth_cutoff")
    step = 1e-4
    around = encoder.spec.cutoff + step * np.arange(-3, 4)
    values = torch.stack([states(encoder, [dimer(d)], batch_of) for d in around])
    slopes = values.diff(dim=0) / step
    assert values.diff(dim=0).abs().max() < 1e-9
    assert slopes.abs().max() < 1e-5
    assert slopes.diff(dim=0).abs().max() < 1e-5
    near = states(encoder, [dimer(0.4 * encoder.spec.cutoff)], batch_of)
    assert (near - values[-1]).abs().max() > 1e-3


def test_fragments_beyond_reach_do_not_see_each_other(
    encoder: Any, crystals: Any, batch_of: Any
) -> None:
    declared(encoder, "smooth_cutoff")
    isolated = {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}
    one, other = (crystals.triclinic(seed, 4).replace(**isolated) for seed in (5, 6))
    away = other.positions + np.array([200.0, 0.0, 0.0])
    both = one.replace(
        numbers=np.concatenate([one.numbers, other.numbers]),
        positions=np.concatenate([one.positions, away]),
    )
    expected = torch.cat([states(encoder, [r], batch_of) for r in (one, other)])
    torch.testing.assert_close(states(encoder, [both], batch_of), expected, **CLOSE)


def test_every_parameter_gets_a_gradient(encoder: Any, examples: Any, batch_of: Any) -> None:
    node = encoder(batch_of(examples, [encoder.spec])).node
    weights = torch.randn(node.shape, generator=torch.Generator().manual_seed(0)).to(node)
    (node * weights).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_is_legal(encoder: Any, batch_of: Any, training: bool) -> None:
    encoder.train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    node = encoder(batch_of([], [encoder.spec])).node
    assert node.shape == (0, encoder.node_width)
    node.sum().backward()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_saving_and_loading_is_exact(
    encoder: Any, examples: Any, batch_of: Any, tmp_path: Path
) -> None:
    expected = states(encoder, examples, batch_of)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    encoder.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    assert torch.equal(states(encoder, examples, batch_of), expected)


def test_it_runs_in_single_precision(encoder: Any, examples: Any, batch_of: Any) -> None:
    expected = states(encoder, examples, batch_of)
    encoder.float()
    batch = batch_of(examples, [encoder.spec], torch.float32)
    node = encoder(batch).node
    assert node.dtype == torch.float32
    scale = float(expected.abs().max())
    torch.testing.assert_close(node.double(), expected, rtol=0.0, atol=2e-5 * scale)
