"""The originals' weights with the originals' outputs: pairs of files, and models made of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from epitaxy.build import build
from epitaxy.foreign.family import family_of, import_weights
from epitaxy.foreign.published import PublishedModel
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.heads.derivatives import energy_and_derivatives
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import ScalarHead, head_input

ROOT = Path(
    os.environ.get("EPITAXY_REFERENCE") or Path(__file__).parents[3] / "shared/reference"
).resolve()
OUTPUT = {"rtol": 1e-5, "atol": 1e-5}
HIDDEN = {"rtol": 1e-5, "atol": 3e-5}
EXACT = {"rtol": 0.0, "atol": 1e-9}


@dataclass(frozen=True)
class Pair:
    """Weights of one model and what it computes with them."""

    weights: Path
    vectors: Path

    def __str__(self) -> str:
        return str(self.weights.relative_to(ROOT))


@cache
def pairs() -> dict[str, list[Pair]]:
    """Family to its pairs: ``X.safetensors`` with ``X.vectors.npz``, or the folder's vectors."""
    found: dict[str, list[Pair]] = {}
    for weights in sorted(ROOT.rglob("*.safetensors")):
        names = (f"{weights.stem}.vectors.npz", f"{weights.stem}_vectors.npz", "vectors.npz")
        folders = (weights.parent, weights.parent.parent)
        places = [folder / name for folder in folders for name in names]
        vectors = [place for place in places if place.is_file()]
        if vectors:
            family = family_of(load_file(weights))
            found.setdefault(family, []).append(Pair(weights, vectors[0]))
    return found


@dataclass(frozen=True)
class Case:
    """A model with the original's weights, and the original's vectors."""

    model: Model
    published: PublishedModel
    vectors: Mapping[str, np.ndarray]
    dtype: torch.dtype

    @property
    def names(self) -> list[str]:
        """Structures of which there are single results."""
        groups = {key.split("/")[0] for key in self.vectors if "/" in key}
        return sorted(groups - {"batched", "train_mode"})

    def vector(self, name: str, quantity: str) -> np.ndarray:
        return self.vectors[f"{name}/{quantity}"]

    def record(self, name: str) -> CrystalRecord:
        cell = self.vector(name, "cell").reshape(3, 3)
        return CrystalRecord(name, self.vector(name, "Z"), self.vector(name, "pos"), cell)

    def batch(self, *names: str) -> CrystalBatch:
        records = [self.record(name) for name in names]
        return collate(records, [self.model.encoder.spec], (), self.dtype)

    def output(self, batch: CrystalBatch) -> Tensor:
        return self.model.head["scalar"](self.model.encoder(batch), batch)

    def derivatives(self, batch: CrystalBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Energy, forces and stress."""
        results = energy_and_derivatives(
            self.output, batch, forces=True, stress=True, create_graph=False
        )
        energy, forces, stress = results
        assert forces is not None
        assert stress is not None
        return energy, forces, stress

    def states(self, batch: CrystalBatch, modules: Mapping[str, str]) -> dict[str, Any]:
        """What the submodules of the encoder return, by name, while it encodes ``batch``."""
        seen: dict[str, Any] = {}

        def keep(name: str) -> Any:
            return lambda module, given, result: seen.__setitem__(name, result)

        handles = [
            self.model.encoder.get_submodule(path).register_forward_hook(keep(name))
            for name, path in modules.items()
        ]
        try:
            with torch.no_grad():
                self.model.encoder(batch)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def case(pair: Pair, *, dtype: torch.dtype = torch.float32, **settings: Any) -> Case:
    """Builds the model; ``settings`` go to the importer of the family."""
    published = import_weights(load_file(pair.weights), **settings)
    encoder = build(published.encoder)
    heads = build(published.objective).heads(encoder) if published.objective else {}
    if published.head:
        _, width = head_input(encoder, published.head["order"])
        heads["scalar"] = ScalarHead(width, **published.head)
    model = Model(encoder, heads)
    tables = {k: v for k, v in model.state_dict().items() if k.endswith("features.table")}
    model.load_state_dict({**tables, **published.state}, strict=True)
    return Case(model.to(dtype).eval(), published, dict(np.load(pair.vectors)), dtype)


def close(actual: Tensor, expected: np.ndarray, **tolerance: float) -> None:
    wanted = torch.from_numpy(np.asarray(expected))
    found = actual.detach().to(wanted.dtype).reshape(wanted.shape)
    torch.testing.assert_close(found, wanted, **tolerance)
