"""What every encoder with a configuration keeps: its shapes, its declared invariances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from epitaxy.encoders.contract import Encoder, Encoding
from epitaxy.errors import RecordError
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.symbols import SYMBOLS

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
KNOWN = {"rotation", "translation", "permutation", "supercell", "unit_cell", "smooth_cutoff"}
PROVISIONS = {"graph", "node", "vector", "position_grad", "composition"}
NEVER_LEARNS = {
    "ALIGNN": {
        f"{norm}.{kind}": "norms an update that nobody reads (paper preset only)"
        for norm in ("interaction.3.edge_update.edge_norm", "interaction.7.edge_norm")
        for kind in ("weight", "bias")
    },
    "EquivariantTransformer": {"interaction.0.mix.weight": "acts on vectors that start at 0"},
}
"""Parameters that no output depends on, by class, and why they exist all the same."""

Records = list[CrystalRecord]


@pytest.fixture(params=["made", "real"])
def sample(request: pytest.FixtureRequest) -> Records:
    """Crystals made up for the tests, then crystals of the Materials Project."""
    found: Records = request.getfixturevalue(
        {"made": "examples", "real": "real_crystals"}[request.param]
    )
    return found


def encode(encoder: Any, records: Records, batch_of: Any) -> Encoding:
    with torch.no_grad():
        return encoder(batch_of(records, [encoder.spec]))


def tensors(encoding: Encoding) -> dict[str, Tensor]:
    """What there is of ``node``, ``graph`` and ``vector``."""
    given = {name: getattr(encoding, name) for name in ("node", "graph", "vector")}
    return {name: value for name, value in given.items() if value is not None}


def same(one: Encoding, other: Encoding) -> None:
    assert tensors(one).keys() == tensors(other).keys()
    for name, value in tensors(one).items():
        torch.testing.assert_close(value, tensors(other)[name], **CLOSE)


def together(singles: list[Encoding]) -> Encoding:
    """The encodings of single crystals as one of all."""
    parts = [tensors(one) for one in singles]
    return Encoding(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def loss(encoding: Encoding) -> Tensor:
    """A number that depends on every entry."""
    generator = torch.Generator().manual_seed(0)
    weighed = [
        (value * torch.randn(value.shape, generator=generator).to(value)).sum()
        for value in tensors(encoding).values()
    ]
    return torch.stack(weighed).sum()


def rotation() -> np.ndarray:
    """A proper rotation about no special axis."""
    matrix, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def test_it_is_an_encoder(encoder: Any, sample: Records, batch_of: Any) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.invariances <= KNOWN
    assert encoder.provides <= PROVISIONS
    encoding = encode(encoder, sample, batch_of)
    assert tensors(encoding).keys() == encoder.provides - {"position_grad", "composition"}
    assert ("composition" in encoder.provides) == (encoder.spec.rule == "composition")
    atoms = sum(r.num_atoms for r in sample)
    shapes = {
        "node": (atoms, encoder.node_width),
        "graph": (len(sample), encoder.graph_width),
        "vector": (atoms, 3, encoder.vector_width),
    }
    for name, shape in shapes.items():
        value = getattr(encoding, name)
        assert (value is None) == (shape[-1] == 0)
        if value is not None:
            assert value.shape == shape
            assert torch.isfinite(value).all()


def test_its_blocks_hold_all_of_its_parameters_in_order(encoder: Any) -> None:
    owned = [name for name, _ in encoder.named_parameters()]
    by_block = [
        f"{block}.{name}"
        for block in encoder.blocks
        for name, _ in encoder.get_submodule(block).named_parameters()
    ]
    assert by_block == owned


def test_a_batch_equals_its_crystals(encoder: Any, sample: Records, batch_of: Any) -> None:
    singles = together([encode(encoder, [record], batch_of) for record in sample])
    same(encode(encoder, sample, batch_of), singles)


@pytest.mark.invariance("rotation")
def test_rotation(encoder: Any, sample: Records, batch_of: Any) -> None:
    turn = rotation()
    turned = [r.replace(positions=r.positions @ turn, cell=r.cell @ turn) for r in sample]
    before = encode(encoder, sample, batch_of)
    expected = before
    if before.vector is not None:  # vectors turn along
        along = torch.einsum("nak,ab->nbk", before.vector, torch.from_numpy(turn))
        expected = Encoding(before.node, before.graph, along)
    same(encode(encoder, turned, batch_of), expected)


@pytest.mark.invariance("translation")
def test_translation(encoder: Any, sample: Records, batch_of: Any) -> None:
    moved = [r.replace(positions=r.positions + np.array([1.3, -7.7, 22.1])) for r in sample]
    same(encode(encoder, moved, batch_of), encode(encoder, sample, batch_of))


@pytest.mark.invariance("translation")
def test_an_atom_in_another_cell(encoder: Any, sample: Records, batch_of: Any) -> None:
    record = next(r for r in sample if r.num_atoms > 1)
    positions = record.positions.copy()
    positions[1] += np.array([2.0, -1.0, 3.0]) @ record.cell
    moved = encode(encoder, [record.replace(positions=positions)], batch_of)
    same(moved, encode(encoder, [record], batch_of))


@pytest.mark.invariance("permutation")
def test_permutation(encoder: Any, sample: Records, batch_of: Any) -> None:
    for record in sample:
        order = np.random.default_rng(3).permutation(record.num_atoms)
        shuffled = bare(record, record.numbers[order], record.positions[order], record.cell)
        same(encode(encoder, [shuffled], batch_of), picked(encoder, record, order, batch_of))


@pytest.mark.invariance("supercell")
def test_supercell(encoder: Any, sample: Records, batch_of: Any) -> None:
    for record in sample[:5]:
        larger = bare(
            record,
            np.tile(record.numbers, 2),
            np.concatenate([record.positions, record.positions + record.cell[1]]),
            record.cell * np.array([[1.0], [2.0], [1.0]]),
        )
        twice = np.tile(np.arange(record.num_atoms), 2)
        same(encode(encoder, [larger], batch_of), picked(encoder, record, twice, batch_of))


@pytest.mark.invariance("unit_cell")
def test_another_cell_of_the_same_lattice(encoder: Any, sample: Records, batch_of: Any) -> None:
    basis = np.array([[1, 1, 0], [0, 1, -2], [0, 0, 1]])  # determinant 1
    for record in sample:
        cell = basis @ record.cell
        fractions = np.linalg.solve(cell.T, record.positions.T).T % 1.0
        other = bare(record, record.numbers, fractions @ cell, cell)
        everyone = np.arange(record.num_atoms)
        same(encode(encoder, [other], batch_of), picked(encoder, record, everyone, batch_of))


def bare(
    record: CrystalRecord, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray
) -> CrystalRecord:
    return CrystalRecord("other", numbers, positions, cell, record.pbc)


def picked(encoder: Any, record: CrystalRecord, atoms: np.ndarray, batch_of: Any) -> Encoding:
    """The encoding of ``record`` with its atoms in another order, or repeated."""
    rows = torch.from_numpy(atoms)
    given = tensors(encode(encoder, [record], batch_of))
    return Encoding(**{k: v if k == "graph" else v[rows] for k, v in given.items()})


def molecule(*places: tuple[float, float]) -> CrystalRecord:
    """Oxygen at the origin, then iron and aluminium in the plane."""
    positions = np.array([[0.0, 0.0, 0.0], *([x, y, 0.0] for x, y in places)])
    numbers = np.array([8, 26, 13][: len(positions)])
    return CrystalRecord("molecule", numbers, positions, np.zeros((3, 3)), np.zeros(3, bool))


@pytest.mark.invariance("smooth_cutoff")
@pytest.mark.parametrize("others", [(), ((1.1, 1.6),)], ids=["pair", "triple"])
def test_states_and_slopes_are_continuous_at_the_cutoff(
    encoder: Any, batch_of: Any, others: tuple[tuple[float, float], ...]
) -> None:
    step = 1e-4
    for cutoff in {encoder.spec.cutoff, getattr(encoder, "angle_cutoff", encoder.spec.cutoff)}:
        around = cutoff + step * np.arange(-3, 4)
        values = torch.stack([states(encoder, (d, 0.0), others, batch_of) for d in around])
        slopes = values.diff(dim=0) / step
        if not others and cutoff == encoder.spec.cutoff:  # beyond it nothing changes at all
            assert values.diff(dim=0).abs().max() < 1e-8
            assert slopes.abs().max() < 1e-4
        assert slopes.diff(dim=0).abs().max() < 1e-3  # a jump would be divided by the step
        near = states(encoder, (0.4 * cutoff, 0.0), others, batch_of)
        assert (near - values[-1]).abs().max() > 1e-3


def states(
    encoder: Any, moving: tuple[float, float], others: tuple[tuple[float, float], ...], batch: Any
) -> Tensor:
    node = encode(encoder, [molecule(moving, *others)], batch).node
    assert node is not None
    return node


@pytest.mark.invariance("smooth_cutoff")
def test_fragments_beyond_reach_do_not_see_each_other(
    encoder: Any, crystals: Any, batch_of: Any
) -> None:
    isolated = {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}
    one, other = (crystals.triclinic(seed, 4).replace(**isolated) for seed in (5, 6))
    away = other.positions + np.array([200.0, 0.0, 0.0])
    both = one.replace(
        numbers=np.concatenate([one.numbers, other.numbers]),
        positions=np.concatenate([one.positions, away]),
    )
    expected = together([encode(encoder, [r], batch_of) for r in (one, other)])
    found = encode(encoder, [both], batch_of)
    torch.testing.assert_close(found.node, expected.node, **CLOSE)


def test_lone_atoms_and_one_atom_cells(encoder: Any, crystals: Any, batch_of: Any) -> None:
    """No edges at all, an atom with only its own images, and both in one batch."""
    gas = CrystalRecord("gas", np.array([2]), np.zeros((1, 3)), np.eye(3) * 40.0)
    atom = CrystalRecord("atom", np.array([2]), np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3)
    records = [gas, atom, crystals.fcc()]
    batch = batch_of(records, [encoder.spec])
    batch = batch.replace(positions=batch.positions.requires_grad_())
    encoding = encoder(batch)
    for value in tensors(encoding).values():
        assert torch.isfinite(value).all()
    same(
        encode(encoder, records, batch_of),
        together([encode(encoder, [r], batch_of) for r in records]),
    )
    if "position_grad" in encoder.provides:  # by symmetry nothing pulls
        (slope,) = torch.autograd.grad(loss(Encoding(encoding.node)), batch.positions)
        torch.testing.assert_close(slope, torch.zeros_like(slope), **CLOSE)


def test_every_element_is_encoded_or_refused_by_name(
    encoder: Any, crystals: Any, batch_of: Any
) -> None:
    refused = {}
    for number in range(1, 119):
        try:
            encoding = encode(encoder, [crystals.fcc(number=number)], batch_of)
        except RecordError as error:
            refused[number] = str(error)
        else:
            assert all(torch.isfinite(value).all() for value in tensors(encoding).values())
    for number, message in refused.items():
        assert f"{SYMBOLS[number]} (Z = {number})" in message
    assert sorted(refused) == list(range(119 - len(refused), 119))
    assert len(refused) <= 19


def test_every_parameter_gets_a_gradient(encoder: Any, sample: Records, batch_of: Any) -> None:
    loss(encoder(batch_of(sample, [encoder.spec]))).backward()
    idle = NEVER_LEARNS.get(type(encoder).__name__, {})
    for name, parameter in encoder.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert learns == (name not in idle), name


@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_is_legal(encoder: Any, batch_of: Any, training: bool) -> None:
    encoder.train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoding = encoder(batch_of([], [encoder.spec]))
    assert tensors(encoding)
    assert all(len(value) == 0 for value in tensors(encoding).values())
    loss(encoding).backward()
    torch.testing.assert_close(
        dict(encoder.state_dict()), before, rtol=0.0, atol=0.0, equal_nan=True
    )


def test_saving_and_loading_is_exact(
    encoder: Any, examples: Any, batch_of: Any, tmp_path: Path
) -> None:
    expected = tensors(encode(encoder, examples, batch_of))
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    encoder.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    for name, value in tensors(encode(encoder, examples, batch_of)).items():
        assert torch.equal(value, expected[name])


def test_it_runs_in_single_precision(encoder: Any, examples: Any, batch_of: Any) -> None:
    check_single_precision(encoder, examples, batch_of, "cpu")


@pytest.mark.gpu
def test_it_runs_on_a_gpu(encoder: Any, examples: Any, batch_of: Any) -> None:
    check_single_precision(encoder, examples, batch_of, "cuda")


def check_single_precision(encoder: Any, examples: Any, batch_of: Any, device: str) -> None:
    expected = tensors(encode(encoder, examples, batch_of))
    encoder.float().to(device)
    batch = batch_of(examples, [encoder.spec], torch.float32).to(device)
    for name, value in tensors(encoder(batch)).items():
        assert value.dtype == torch.float32
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(
            value.cpu().double(), expected[name], rtol=0.0, atol=3e-5 * scale
        )


def test_it_trains_in_bfloat16(encoder: Any, examples: Any, batch_of: Any) -> None:
    """With 7 bits of mantissa in the products: states stay near, gradients single precision."""
    expected = tensors(encode(encoder, examples, batch_of))
    encoder.float()
    with torch.autocast("cpu", torch.bfloat16):
        states = tensors(encoder(batch_of(examples, [encoder.spec], torch.float32)))
    for name, value in states.items():
        error = (value.detach().double() - expected[name]).norm() / expected[name].norm()
        assert 1e-4 < float(error) < 0.1, name
    sum(value.float().square().sum() for value in states.values()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in gradients)
