"""The original's outputs from the original's weights, for every pair of files in the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from epitaxy.build import build
from epitaxy.foreign.cgcnn import import_cgcnn
from epitaxy.graph.batch import CrystalBatch, Graph
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import ScalarHead

ROOT = Path(os.environ.get("EPITAXY_REFERENCE") or Path(__file__).parents[3] / "shared/reference")
WEIGHTS = sorted(ROOT.glob("cgcnn/weights/*.safetensors"))
PAIRS = [path.stem for path in WEIGHTS if (ROOT / f"cgcnn/{path.stem}.vectors.npz").exists()]
REGRESSORS = [
    name
    for name in PAIRS  # the original drops out at random while it trains classifiers
    if "train_mode/out_raw" in np.load(ROOT / f"cgcnn/{name}.vectors.npz")
    and json.loads((ROOT / f"cgcnn/weights/{name}.json").read_text("utf-8"))["architecture"]["task"]
    == "regression"
]
OUTPUT = {"rtol": 1e-5, "atol": 1e-5}
HIDDEN = {"rtol": 1e-5, "atol": 3e-5}
DISTANCE = 1e-6


@dataclass(frozen=True)
class Case:
    model: Model
    description: Mapping[str, Any]
    mean: float
    std: float
    vectors: Mapping[str, np.ndarray]

    @property
    def classifies(self) -> bool:
        return self.description["architecture"]["task"] == "classification"

    def run(self, batch: CrystalBatch) -> Tensor:
        """The original's output: normalised, or log-probabilities of two classes."""
        raw = self.model.head["scalar"](self.model.encoder(batch), batch)
        return torch.log_softmax(raw, dim=-1) if self.classifies else raw.unsqueeze(-1)

    def predict(self, batch: CrystalBatch) -> Tensor:
        """In the unit of the label (eV/atom), or the probability of the second class."""
        raw = self.run(batch)
        return raw.exp()[:, 1:] if self.classifies else raw * self.std + self.mean


@cache
def case(name: str) -> Case:
    description = json.loads((ROOT / f"cgcnn/weights/{name}.json").read_text("utf-8"))
    normalizer = description.get("normalizer") or {"mean": 0.0, "std": 1.0}
    published = import_cgcnn(
        load_file(ROOT / f"cgcnn/weights/{name}.safetensors"),
        mean=normalizer["mean"],
        std=normalizer["std"],
        graph=description.get("input"),
    )
    encoder = build(published.encoder)
    model = Model(encoder, {"scalar": ScalarHead(encoder.node_width, **published.head)})
    model.load_state_dict(published.state, strict=True)
    vectors = dict(np.load(ROOT / f"cgcnn/{name}.vectors.npz"))
    return Case(model.eval(), description, published.mean, published.std, vectors)


@cache
def inputs() -> Mapping[str, np.ndarray]:
    return dict(np.load(ROOT / "cgcnn/inputs.npz"))


def names() -> list[str]:
    return sorted({key.split("/")[0] for key in inputs() if "/" in key})


def record(name: str) -> CrystalRecord:
    given = inputs()
    lattice = given[f"{name}/lattice"]
    return CrystalRecord(name, given[f"{name}/Z"], given[f"{name}/frac"] @ lattice, lattice)


def with_reference_edges(case: Case, ids: list[str]) -> CrystalBatch:
    """A batch whose neighbour lists are those of the original, ties included."""
    spec = case.model.encoder.spec
    batch = collate([record(name) for name in ids], [])
    offsets = np.concatenate([[0], np.cumsum(batch.num_atoms.numpy())])
    source, target, shifts, padded = [], [], [], []
    for name, offset in zip(ids, offsets[:-1], strict=True):
        neighbors = inputs()[f"{name}/nbr_idx"]
        source.append(neighbors.ravel() + offset)
        target.append(np.repeat(np.arange(len(neighbors)), neighbors.shape[1]) + offset)
        shifts.append(inputs()[f"{name}/nbr_image"].reshape(-1, 3))
        padded.append(inputs()[f"{name}/nbr_dist"].ravel() > spec.cutoff)
    arrays = [torch.from_numpy(np.concatenate(a)) for a in (source, target, shifts, padded)]
    return batch.replace(graphs={spec: Graph(*arrays)})


def close(actual: Tensor, expected: np.ndarray, **tolerance: float) -> None:
    wanted = torch.from_numpy(np.asarray(expected))
    torch.testing.assert_close(actual.detach().reshape(wanted.shape), wanted, **tolerance)


def test_the_folder_holds_weights_with_vectors(reference_dir: Path) -> None:
    assert PAIRS, f"no weights/*.safetensors with *.vectors.npz under {reference_dir}/cgcnn"
    assert reference_dir == ROOT.resolve()


@pytest.mark.parametrize("pair", PAIRS)
def test_hidden_states_and_outputs_on_the_original_neighbour_lists(pair: str) -> None:
    reference = case(pair)
    for name in names():
        states: dict[str, Tensor] = {}
        hooks = _record_states(reference.model, states)
        batch = with_reference_edges(reference, [name])
        raw = reference.run(batch)
        for hook in hooks:
            hook.remove()
        for quantity, state in states.items():
            close(state, reference.vectors[f"{name}/{quantity}"], **HIDDEN)
        close(raw, reference.vectors[f"{name}/out_raw"], **OUTPUT)
        close(reference.predict(batch), reference.vectors[f"{name}/prediction"], **OUTPUT)


@pytest.mark.parametrize("pair", PAIRS)
def test_batched_outputs_are_those_of_the_original(pair: str) -> None:
    reference = case(pair)
    batch = with_reference_edges(reference, [str(x) for x in reference.vectors["batched/ids"]])
    close(reference.run(batch), reference.vectors["batched/out_raw"], **OUTPUT)
    close(reference.predict(batch), reference.vectors["batched/prediction"], **OUTPUT)


@pytest.mark.parametrize("pair", PAIRS)
def test_our_own_graphs_have_the_same_distances_and_predictions(pair: str) -> None:
    reference = case(pair)
    spec = reference.model.encoder.spec
    compared = 0
    for name in names():
        batch = collate([record(name)], [spec])
        distances = batch.distances(spec).reshape(-1, spec.max_neighbors)
        expected = np.sort(inputs()[f"{name}/nbr_dist"], axis=1).astype(np.float32)
        close(distances, expected, rtol=0.0, atol=DISTANCE)
        if inputs()[f"{name}/tie_at_cut"].any():
            continue  # which of the equidistant neighbours counts is arbitrary in the original
        compared += 1
        close(reference.predict(batch), reference.vectors[f"{name}/prediction"], **OUTPUT)
    assert compared >= 4


@pytest.mark.parametrize("pair", REGRESSORS)
def test_a_training_pass_moves_statistics_and_gradients_alike(pair: str) -> None:
    reference = case(pair)
    model = reference.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    vectors = reference.vectors
    try:
        model.train()
        batch = with_reference_edges(reference, [str(x) for x in vectors["batched/ids"]])
        raw = reference.run(batch)
        loss = raw.square().mean()
        loss.backward()
        first = model.encoder.interaction[0]
        close(raw, vectors["train_mode/out_raw"], **HIDDEN)
        close(loss, np.float32(vectors["train_mode/loss_mse_vs_zero"]), **OUTPUT)
        weight = model.encoder.embedding.weight.grad
        close(weight, vectors["train_mode/grad_embedding_weight"], **HIDDEN)
        close(first.linear.bias.grad, vectors["train_mode/grad_conv0_fc_full_bias"], **HIDDEN)
        for moment in ("mean", "var"):
            after = getattr(first.edge_norm, f"running_{moment}")
            close(after, vectors[f"train_mode/conv0_bn1_running_{moment}_after"], **HIDDEN)
    finally:
        model.zero_grad()
        model.load_state_dict(before)
        model.eval()


def test_the_gaussians_are_those_of_the_original(reference_dir: Path) -> None:
    given = dict(np.load(reference_dir / "cgcnn/gaussian_check.npz"))
    basis = case(PAIRS[0]).model.encoder.basis
    close(basis.centers, given["centers"].astype(np.float32), rtol=0.0, atol=1e-6)
    expanded = basis(torch.from_numpy(given["distances"]).float())
    close(expanded, given["expanded"].astype(np.float32), **OUTPUT)


def _record_states(model: Model, states: dict[str, Tensor]) -> list[Any]:
    """Stores what the parts compute, under the reference's names."""

    def keep(name: str) -> Any:
        return lambda module, given, result: states.__setitem__(name, result.detach())

    def keep_input(name: str) -> Any:
        return lambda module, given: states.__setitem__(name, given[0].detach())

    blocks, head = model.encoder.interaction, model.head["scalar"]
    modules: dict[str, nn.Module] = {
        "embedding": model.encoder.embedding,
        "conv0_bn1": blocks[0].edge_norm,
        "conv0_bn2": blocks[0].node_norm,
        "conv_to_fc": head.hidden[0],
    }
    modules |= {f"conv{index}_out": block for index, block in enumerate(blocks)}
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    hooks.append(blocks[0].edge_norm.register_forward_pre_hook(keep_input("conv0_linear")))
    hooks.append(head.hidden[0].register_forward_pre_hook(keep_input("pooled_softplus")))
    return hooks
