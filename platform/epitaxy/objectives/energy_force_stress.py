"""Supervised training on energies, forces and stresses, the latter two by differentiation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from epitaxy.encoders.activations import ActivationName, smooth_activation
from epitaxy.encoders.contract import Encoder, Provision
from epitaxy.errors import ConfigError, NeedsError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import MAX_ATOMIC_NUMBER, CrystalRecord
from epitaxy.heads.derivatives import energy_and_derivatives
from epitaxy.heads.element_reference import fit_element_reference
from epitaxy.heads.energy import ROLE, energy_head, network_energy
from epitaxy.heads.losses import (
    VECTOR,
    VectorLossName,
    check_loss,
    entries,
    vector_loss,
    where_present,
)
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import Order
from epitaxy.objectives.contract import BaseObjective, Term, Terms, Views
from epitaxy.shapes import GraphScalars
from epitaxy.units import ENERGY, FORCE, STRESS, factor

ForceReduction = Literal["component_mean", "per_structure_mean"]
Reference = Literal["linear", "none"]
COMPONENTS = {"energy": 1, "forces": 3, "stress": 9}
"""Numbers of a crystal's energy and stress, and of an atom's force."""


class EnergyForceStress(BaseObjective):
    """``L = w_E ℓ(ΔE/n) + w_F ℓ(ΔF) + w_S ℓ(Δσ)`` with ``F = −∂E/∂r``, ``σ = (1/V) ∂E/∂ε``.

    The energy of a crystal is ``E = Σ_atoms scale · out_i + Σ_atoms reference(Z_i)``. The linear
    element reference and the scale are fitted robustly on the training split: the scale is the
    median over records of the root-mean-square force (eV/Å · Å), or without a force term the spread
    of the energies per atom above the reference. Labels are ``energy`` (eV), ``forces``
    (eV/Å) and ``stress`` (eV/Å³, tension positive); records may lack any of them. Terms whose
    weight is 0 are not computed, so 1:0:0 needs no second derivative. Stresses of crystals that
    are not periodic along all three axes are undefined and left out of loss and counts.

    A mean is taken over crystals (energy) and components (forces, stress); of ``l2norm``, whose
    rows are vectors, over crystals, atoms and crystals.

    Three rules keep outliers from ruling, and none of them drops a record in silence. The loss of
    every term is ``huber`` by default, because DFT data hold frames with forces of 100 eV/Å:
    beyond ``delta`` a frame's pull no longer grows. ``filter.max_force`` and ``max_stress`` leave
    frames out of training and count them. ``loop.clip_norm`` bounds what one step can do.
    # Differs from force_pretraining, whose code has L1 on total energies without reference:
    ``energy_per_atom: false``, ``reference: none``, ``*_loss: l1``, ``order: early``.

    Args:
        energy_weight: Of the energy term.
        force_weight: Of the force term.
        stress_weight: Of the stress term.
        energy_loss: ``l1``, ``mse``, ``huber`` or ``smooth_l1`` of the energy error; ``l2norm``,
            its magnitude, is ``l1``.
        force_loss: The same per force component; ``l2norm`` is the length of an atom's error.
        stress_loss: The same per stress component; ``l2norm`` is the Frobenius norm of a
            crystal's error.
        energy_delta: Where ``huber`` turns linear, eV/atom (eV if not per atom).
        force_delta: The same in eV/Å.
        stress_delta: The same in ``stress_unit``.
        energy_per_atom: Whether the energy error is divided by the number of atoms.
        force_reduction: ``component_mean`` weighs every component (``l2norm``: every atom) alike,
            so large cells count more; ``per_structure_mean`` weighs every crystal alike.
        stress_unit: Unit in which the stress loss is measured: ``eV/Å^3`` or ``GPa``.
        reference: ``none`` trains on raw energies and leaves the network's output unscaled.
        hidden: Widths of the head's hidden layers.
        activation: Of the head.
        order: Of the head's network and its pooling; only ``late`` is extensive.
        allow_coupling: Whether to accept encoders with batch norm, through which the energy of
            one crystal depends on the others of its batch.

    Raises:
        ConfigError: If a name is unknown or no weight is positive.
    """

    units: Mapping[str, str] = {"energy": ENERGY, "forces": FORCE, "stress": STRESS}
    plain_view = True

    def __init__(
        self,
        *,
        energy_weight: float = 1.0,
        force_weight: float = 10.0,
        stress_weight: float = 10.0,
        energy_loss: VectorLossName = "huber",
        force_loss: VectorLossName = "huber",
        stress_loss: VectorLossName = "huber",
        energy_delta: float = 0.1,
        force_delta: float = 0.1,
        stress_delta: float = 0.1,
        energy_per_atom: bool = True,
        force_reduction: ForceReduction = "component_mean",
        stress_unit: str = STRESS,
        reference: Reference = "linear",
        hidden: Sequence[int] = (128,),
        activation: ActivationName = "silu",
        order: Order = "late",
        allow_coupling: bool = False,
    ) -> None:
        self.weights = {"energy": energy_weight, "forces": force_weight, "stress": stress_weight}
        if min(self.weights.values()) < 0 or max(self.weights.values()) == 0:
            raise ConfigError(f"weights must be ≥ 0 and one of them positive, got {self.weights}")
        self.losses = {
            "energy": (energy_loss, energy_delta),
            "forces": (force_loss, force_delta),
            "stress": (stress_loss, stress_delta),
        }
        for loss, delta in self.losses.values():
            check_loss(loss, delta, VECTOR)
        _check_choice("force_reduction", force_reduction, ("component_mean", "per_structure_mean"))
        _check_choice("reference", reference, ("linear", "none"))
        self.energy_per_atom = energy_per_atom
        self.force_reduction: ForceReduction = force_reduction
        self.stress_factor = factor(STRESS, stress_unit)
        self.reference: Reference = reference
        self.hidden = tuple(hidden)
        smooth_activation(activation)
        self.activation: ActivationName = activation
        self.order: Order = order
        self.labels = tuple(name for name, weight in self.weights.items() if weight > 0)
        derived = self.weights["forces"] > 0 or self.weights["stress"] > 0
        needed: set[Provision] = {"node", "position_grad"} if derived else {"node"}
        self.requires: frozenset[str] = frozenset(needed)
        self.forbids_coupling = derived and not allow_coupling
        self._scale = 1.0
        self._element_energies = [0.0] * (MAX_ATOMIC_NUMBER + 1)

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns one scalar head: energy of an atom, summed over the crystal."""
        return {ROLE: energy_head(encoder, self.hidden, self.activation, self.order)}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns (and adopts) scale and element reference of the training split.

        Raises:
            NeedsError: If a label with a positive weight is missing from every record.
        """
        for name in self.labels:
            if not _present(table, name).any():
                raise NeedsError(
                    f"energy_force_stress has a weight of {self.weights[name]} on {name!r}, but no "
                    f"record of the training split has this label; set its weight to 0, or "
                    f"prepare data that hold it"
                )
        statistics: dict[str, Any] = {"scale": 1.0, "reference": {}, "other_elements": 0.0}
        spread = 0.0
        if self.reference == "linear" and self.weights["energy"] > 0:
            spread = _fit_reference(table, statistics)
        if self.reference == "linear":
            forces = table.root_mean_square.get("forces") if "forces" in self.labels else None
            statistics["scale"] = _fit_scale(forces, spread)
        self.adopt(statistics)
        return statistics

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over ``scale`` (eV) and ``reference`` (eV per atomic number)."""
        self._scale = float(statistics["scale"])
        self._element_energies = [float(statistics["other_elements"])] * (MAX_ATOMIC_NUMBER + 1)
        for number, energy in statistics["reference"].items():
            self._element_energies[int(number)] = float(energy)

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record, without a stress where none is defined."""
        if "stress" in record.labels and not record.pbc.all():
            kept = {name: label for name, label in record.labels.items() if name != "stress"}
            record = record.replace(labels=kept)
        return (record,)

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns crystals with an energy, force components, and stress components."""
        (batch,) = views
        rows = {name: float(batch.masks[name].sum()) for name in self.labels}
        numbers = {name: rows[name] * self._entries(name) for name in self.labels}
        if "forces" in numbers and self.force_reduction == "per_structure_mean":
            present = batch.graph_index[batch.masks["forces"]]
            numbers["forces"] = float(len(torch.unique(present)))
        return numbers

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the weighted parts of the loss."""
        (batch,) = views
        interaction, forces, stress = energy_and_derivatives(
            partial(self._interaction, model),
            batch,
            forces="forces" in self.labels,
            stress="stress" in self.labels,
            create_graph=torch.is_grad_enabled(),
        )
        errors: dict[str, Tensor] = {}
        if "energy" in self.labels:
            errors["energy"] = self._energy_error(batch, interaction)
        if forces is not None:
            errors["forces"] = forces - _label(batch, "forces")
        if stress is not None:
            errors["stress"] = (stress - _label(batch, "stress")) * self.stress_factor
        counts = self.counts(views)
        return {
            name: Term(self._total(name, error, batch), counts[name], self.weights[name])
            for name, error in errors.items()
        }

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns ``energy`` and, if the encoder can be differentiated, ``forces`` and ``stress``.

        Stress is zero for crystals whose cell spans no volume.
        """
        derived = "position_grad" in model.encoder.provides
        interaction, forces, stress = energy_and_derivatives(
            partial(self._interaction, model),
            batch,
            forces=derived,
            stress=derived,
            create_graph=False,
        )
        predictions = {"energy": interaction.detach() + self._reference_energy(batch)}
        if forces is not None and stress is not None:
            predictions |= {"forces": forces, "stress": stress}
        return predictions

    def _interaction(self, model: Model, batch: CrystalBatch) -> GraphScalars:
        """Returns energies above the element reference, eV."""
        return self._scale * network_energy(model, batch)

    def _reference_energy(self, batch: CrystalBatch) -> GraphScalars:
        table = batch.positions.new_tensor(self._element_energies)
        total = batch.positions.new_zeros(batch.num_graphs)
        return total.index_add(0, batch.graph_index, table[batch.numbers.long()])

    def _energy_error(self, batch: CrystalBatch, interaction: GraphScalars) -> GraphScalars:
        error = interaction - (_label(batch, "energy") - self._reference_energy(batch))
        return error / batch.num_atoms if self.energy_per_atom else error

    def _total(self, name: str, error: Tensor, batch: CrystalBatch) -> Tensor:
        """Returns the sum of the losses of the crystals or atoms that have the label."""
        loss, delta = self.losses[name]
        losses = where_present(vector_loss(loss, error, delta), batch.masks[name])
        if name == "forces" and self.force_reduction == "per_structure_mean":
            losses = losses / (self._entries(name) * batch.num_atoms[batch.graph_index])
        return losses.sum()

    def _entries(self, name: str) -> int:
        """Returns how many numbers a crystal's (or an atom's) label counts as."""
        return entries(self.losses[name][0], COMPONENTS[name])


def _label(batch: CrystalBatch, name: str) -> Tensor:
    return where_present(batch.labels[name], batch.masks[name])


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{argument} is {value!r}; {closest(value, choices)}")


def _present(table: LabelTable, name: str) -> np.ndarray:
    """Returns which records carry ``name``; none if the data set has no such label."""
    for columns in (table.scalars, table.root_mean_square, table.largest):
        if name in columns:
            present: np.ndarray = ~np.isnan(columns[name])
            return present
    return np.zeros(len(table.num_atoms), dtype=bool)


def _fit_reference(table: LabelTable, statistics: dict[str, Any]) -> float:
    """Fills in the element reference; returns the spread of the residual, eV/atom."""
    rows = table.present("energy")
    fitted = fit_element_reference(table.composition[rows], table.scalar("energy")[rows])
    statistics["reference"] = {str(number): energy for number, energy in fitted.energies.items()}
    statistics["other_elements"] = fitted.other
    return fitted.spread


def _fit_scale(forces: Float64[np.ndarray, " records"] | None, spread: float) -> float:
    """Returns the median of the root-mean-square forces, else the energies' spread, else 1."""
    if forces is not None:
        forces = forces[forces > 0]  # NaN where missing; 0 where symmetry forbids forces
        if len(forces):
            return float(np.median(forces))
    return spread if spread > 0 else 1.0
