"""A trained model as a function of crystals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.train.checkpoint import load_model

DEFAULT_MAX_ATOMS = 512
"""Atoms per batch: at a cutoff of 8 Å about 50 000 edges, below 1 GiB with forces."""


class Predictor:
    """Predicts the labels of a model folder, in the units of its training data.

    Args:
        folder: Model folder or checkpoint.
        max_atoms: Atoms per batch; a larger crystal forms a batch of its own.
        device: Where to compute, e.g. ``cpu`` or ``cuda``.
        trusted_only: Whether to refuse parts from outside of epitaxy.

    Attributes:
        units: Predicted label to its unit.
        card: Contents of ``model.json``.

    Raises:
        CheckpointError: If the folder is damaged or no model folder.
        ConfigError: If it names a part that is unknown or not trusted.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_atoms: int = DEFAULT_MAX_ATOMS,
        device: str | torch.device = "cpu",
        trusted_only: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.device = torch.device(device)
        self.max_atoms = max_atoms
        self._model, self.objective, self.card = load_model(self.folder, trusted_only=trusted_only)
        self._model.to(self.device).requires_grad_(False)
        self._dtype = next(self._model.parameters()).dtype
        self.units: Mapping[str, str] = dict(self.objective.units)

    @property
    def encoder(self) -> Encoder:
        """The model's encoder, in eval mode on ``device``."""
        return self._model.encoder

    @cached_property
    def per_atom(self) -> frozenset[str]:
        """Predicted labels that have one value for each atom."""
        probe = CrystalRecord("probe", np.array([1, 1]), np.eye(3)[:2], np.eye(3) * 4.0)
        predicted = self._compute(self._batch([probe], ()))
        return frozenset(name for name, value in predicted.items() if len(value) == 2)

    def predict(self, records: Sequence[CrystalRecord]) -> dict[str, np.ndarray | list[np.ndarray]]:
        """Returns predictions by label, in the order of ``records``.

        A label of the crystal gives an array (records, …), one per atom a list with an array
        (atoms, …) for each record. Stress (eV/Å³, tension positive) has a meaning only for
        crystals that are periodic along all three axes.
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.units}
        for batch, predicted in self.batches(records):
            bounds = np.cumsum(batch.num_atoms.numpy())[:-1]
            for name, values in predicted.items():
                pieces = np.split(values, bounds) if name in self.per_atom else [values]
                parts.setdefault(name, []).extend(pieces)
        return {
            name: pieces if name in self.per_atom else np.concatenate(pieces)
            for name, pieces in parts.items()
            if pieces
        }

    def batches(
        self, records: Sequence[CrystalRecord], fields: Sequence[LabelField] = ()
    ) -> Iterator[tuple[CrystalBatch, dict[str, np.ndarray]]]:
        """Yields batches (on the CPU, labels of ``fields`` in fp64) with their predictions."""
        for group in _grouped(records, self.max_atoms):
            batch = self._batch(group, fields)
            yield batch, self._compute(batch)

    def _batch(
        self, records: Sequence[CrystalRecord], fields: Sequence[LabelField]
    ) -> CrystalBatch:
        specs = (self._model.encoder.spec, *self.objective.specs)
        return collate(records, specs, fields, dtype=torch.float64)

    def _compute(self, batch: CrystalBatch) -> dict[str, np.ndarray]:
        unlabelled = batch.replace(labels={}, masks={})
        with torch.no_grad():
            predicted = self.objective.predict(
                self._model, unlabelled.to(self.device, dtype=self._dtype)
            )
        return {name: _numpy(value) for name, value in predicted.items()}

    def require(self, label: str, who: str) -> None:
        """Refuses a model that does not predict ``label``.

        Raises:
            NeedsError: Naming ``who`` asks for it and what the model predicts.
        """
        if label not in self.units:
            offered = ", ".join(sorted(self.units)) or "nothing"
            raise NeedsError(
                f"{who} needs a model that predicts {label!r}; {self.folder} predicts {offered}"
            )


def _grouped(records: Sequence[CrystalRecord], max_atoms: int) -> Iterator[list[CrystalRecord]]:
    group: list[CrystalRecord] = []
    atoms = 0
    for record in records:
        if group and atoms + record.num_atoms > max_atoms:
            yield group
            group, atoms = [], 0
        group.append(record)
        atoms += record.num_atoms
    if group:
        yield group


def _numpy(value: Tensor) -> np.ndarray:
    array: np.ndarray[Any, Any] = value.detach().cpu().double().numpy()
    return array
