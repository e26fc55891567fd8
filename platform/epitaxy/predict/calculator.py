"""A trained model as an ASE calculator, for relaxations and molecular dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress

from epitaxy.graph.record import CrystalRecord
from epitaxy.predict.predictor import Predictor


class EpitaxyCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a model trained on them.

    Stress is in ASE's Voigt order xx, yy, zz, yz, xz, xy with tension positive, and only for
    structures that are periodic along all three axes.

    Args:
        folder: Model folder.
        device: Where to compute.
        trusted_only: Whether to refuse parts from outside of epitaxy.
        **options: Passed on to ASE's ``Calculator``.

    Raises:
        NeedsError: If the model predicts no energy.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        trusted_only: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.predictor = Predictor(folder, device=device, trusted_only=trusted_only)
        self.predictor.require("energy", "an ASE calculator")

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills ``results`` for ``atoms``; ASE calls this.

        Raises:
            PropertyNotImplementedError: If the model lacks a property that is asked for, or stress
                is asked for a structure that is not periodic along all three axes.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        record = CrystalRecord(
            id=self.atoms.get_chemical_formula() or "empty",
            numbers=self.atoms.numbers,
            positions=self.atoms.positions,
            cell=self.atoms.cell.array,
            pbc=self.atoms.pbc,
        )
        predicted = self.predictor.predict([record])
        energy = float(predicted["energy"][0])
        self.results: dict[str, Any] = {"energy": energy, "free_energy": energy}
        if "forces" in predicted:
            self.results["forces"] = np.asarray(predicted["forces"][0])
        if "stress" in predicted and record.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(predicted["stress"][0])
        for name in properties:
            if name not in self.results:
                raise PropertyNotImplementedError(
                    f"{self.predictor.folder} gives no {name} for {record.id} "
                    f"(periodic axes: {record.pbc.tolist()})"
                )
