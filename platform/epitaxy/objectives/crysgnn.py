"""Self-supervision of CrysGNN (Das et al., AAAI 37, 7323, 2023) and of CrysXPP's auto-encoder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.contract import Encoder, Encoding
from epitaxy.encoders.pooling import pool
from epitaxy.errors import ConfigError, NeedsError, RecordError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.elements import known_elements
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.graph.spec import GraphSpec, Ties
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.heads.decoders import EdgeDecoder, ElementDecoder
from epitaxy.heads.model import Model
from epitaxy.objectives.connectivity import (
    CLASS_WEIGHTS,
    Pairs,
    Reduction,
    connectivity_loss,
    draw_centers,
    pairs_in,
)
from epitaxy.objectives.contract import BaseObjective, Coupling, Rows, Term, Terms
from epitaxy.objectives.contrast import Denominator, nt_xent
from epitaxy.shapes import GraphFeatures, NodeFeatures

Padding = Literal["masked", "index0"]

SPACE_GROUP, CRYSTAL_SYSTEM = "space_group", "crystal_system"
_RANGES = {SPACE_GROUP: (1, 230), CRYSTAL_SYSTEM: (0, 6)}
_CENTERS = LabelField("connectivity_centers", "", per_atom=True)
"""Which atoms a view drew to be centres of pairs."""


class CrysGNN(BaseObjective):
    """What a crystal's states tell of its elements, connections, space group and crystal system.

    With states ``z_u`` of atoms and their mean ``z_G`` over a crystal, the loss is the weighted
    sum of the means of

    * ``features``: binary cross entropy of the 92 element features of u, from ``W z_u + b``; over
      atoms and features. Nothing is hidden from the encoder.
    * ``connectivity``: ``−log p_c(z_u, z_v)`` for each ordered pair of atoms of a crystal, u = v
      included, where the class ``c`` is how often v is among the ``max_neighbors`` nearest
      neighbours of u, at most 5 (``heads.decoders.EdgeDecoder``). A weighted mean over pairs:
      those without an edge weigh 0.1, the others 1.
    * ``space_group``: cross entropy of the label ``space_group`` (1 … 230) from ``W z_G + b``.
    * ``contrast``: NT-Xent of ``z_G`` with the label ``crystal_system`` (0 … 6) over all crystals
      of a step, see ``contrast.nt_xent``.

    A term of weight 0 is not computed, and its label and graph are not asked for. Records without a
    label add nothing to its term. Encoders without states of atoms can have the last two, of
    their own crystal vector. Connectivity is told of the cell as it is: a supercell has other
    pairs.

    Weights of 0.1 for ``features``, 0.9 for ``connectivity`` and 0 for the others with
    ``reduction: per_crystal`` are the auto-encoder of CrysXPP (npj Comput. Mater. 8, 43, 2022).
    # Differs from its authors' code, which divides a step's sum by the nominal batch size even if
    the last batch of an epoch is smaller: here the divisor is the number of its crystals.

    Args:
        feature_weight: Of ``features``.
        connectivity_weight: Of ``connectivity``.
        space_group_weight: Of ``space_group``.
        contrast_weight: Of ``contrast``.
        reduction: ``step`` averages ``features`` and ``connectivity`` over all atoms and pairs of
            a step, ``per_crystal`` over those of each crystal, and then over crystals.
        cutoff: Of the graph whose edges are counted, Å; whatever the encoder's own graph is.
        max_neighbors: Of this graph, per atom.
        ties: Of this graph, see ``GraphSpec``; ``keep`` makes the classes independent of the order
            of atoms.
        padding: For atoms with fewer neighbours: ``masked`` counts those there are; ``index0``
            counts the missing ones as edges to the first atom of the crystal, as the authors' code
            does.
        max_pairs: Pairs of a crystal to look at, in whole rows of a few centres drawn anew in
            each epoch; ``None`` for all.
        block_pairs: Pairs at a time: bounds the memory of ``connectivity``, not its result.
        temperature: Of ``contrast``.
        denominator: Of ``contrast``: ``negatives`` or ``all_others``, see ``nt_xent``.

    Raises:
        ConfigError: If a name is unknown, a number is impossible or no weight is positive.
    """

    def __init__(
        self,
        *,
        feature_weight: float = 0.25,
        connectivity_weight: float = 0.25,
        space_group_weight: float = 0.25,
        contrast_weight: float = 0.25,
        reduction: Reduction = "step",
        cutoff: float = 8.0,
        max_neighbors: int = 12,
        ties: Ties = "cut",
        padding: Padding = "masked",
        max_pairs: int | None = None,
        block_pairs: int = 65536,
        temperature: float = 0.07,
        denominator: Denominator = "negatives",
    ) -> None:
        self.weights = _positive(
            {
                "features": feature_weight,
                "connectivity": connectivity_weight,
                SPACE_GROUP: space_group_weight,
                "contrast": contrast_weight,
            }
        )
        _check_choice("reduction", reduction, Reduction)
        _check_choice("padding", padding, Padding)
        _check_choice("denominator", denominator, Denominator)
        for name, number in (("max_pairs", max_pairs), ("block_pairs", block_pairs)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} must be at least 1, got {number}")
        if not temperature > 0:
            raise ConfigError(f"temperature must be positive, got {temperature}")
        self.reduction: Reduction = reduction
        self.max_pairs = max_pairs
        self.block_pairs = block_pairs
        self.compare = partial(_contrast, temperature=temperature, denominator=denominator)
        self.graph = GraphSpec(
            "nearest", cutoff, max_neighbors, padded=padding == "index0", ties=ties
        )
        self.couples_records = "contrast" in self.weights
        if self.couples_records:
            self.labels += (CRYSTAL_SYSTEM,)
        if SPACE_GROUP in self.weights:
            self.labels += (SPACE_GROUP,)
        if {"features", "connectivity"} & self.weights.keys():
            self.requires = frozenset({"node"})
        if "connectivity" in self.weights:
            self.specs = (self.graph,)
            self.needs_structures = True
            self.made = (_CENTERS,) if max_pairs is not None else ()

    @property
    def plain_view(self) -> bool:
        """Whether the view is the crystal as it is, without centres drawn."""
        return not self.made

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns a decoder for each term but ``contrast``, by the term's name."""
        heads: dict[str, nn.Module] = {}
        if "features" in self.weights:
            heads["features"] = ElementDecoder(encoder.node_width)
        if "connectivity" in self.weights:
            heads["connectivity"] = EdgeDecoder(encoder.node_width, len(CLASS_WEIGHTS))
        if SPACE_GROUP in self.weights:
            width = encoder.node_width or encoder.graph_width
            heads[SPACE_GROUP] = nn.Linear(width, _RANGES[SPACE_GROUP][1])
        return heads

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns no statistics, but looks at the labels.

        Raises:
            NeedsError: If no record of the training split has one, or it holds anything but the
                numbers it should.
        """
        for name in self.labels:
            values = table.scalar(name)[table.present(name)]
            low, high = _RANGES[name]
            strange = values[(values != values.round()) | (values < low) | (values > high)]
            if len(strange) or not len(values):
                found = f"{strange[0]:g}" if len(strange) else "none"
                raise NeedsError(
                    f"CrysGNN wants the label {name!r} to hold whole numbers from {low} to {high}, "
                    f"the training split has {found}; where a data set lacks it, it is derived "
                    "from the structures; or set its term's weight to 0"
                )
        return {}

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record, with the centres that were drawn if ``max_pairs`` is given.

        Raises:
            RecordError: If ``features`` are to be told of an element that has none.
        """
        if "features" in self.weights:
            _check_elements(record)
        if self.made and self.max_pairs is not None:
            drawn = draw_centers(record.num_atoms, self.max_pairs, rng)
            label = Label(drawn, _CENTERS.unit, per_atom=True)
            record = record.replace(labels={**record.labels, _CENTERS.name: label})
        return (record,)

    def counts(self, views: tuple[CrystalBatch, ...]) -> Mapping[str, float]:
        """Returns atoms, summed weights of pairs and crystals with each label.

        With ``reduction: per_crystal`` the first two are numbers of crystals.
        """
        (batch,) = views
        found: dict[str, float] = {}
        if "features" in self.weights:
            found["features"] = self._divisor(batch)
        if "connectivity" in self.weights:
            found["connectivity"] = self._pairs(batch).count
        if SPACE_GROUP in self.weights:
            found[SPACE_GROUP] = int(batch.masks[SPACE_GROUP].sum())
        if "contrast" in self.weights:
            found["contrast"] = int(batch.masks[CRYSTAL_SYSTEM].sum())
        return found

    def terms(self, model: Model, views: tuple[CrystalBatch, ...]) -> Terms:
        """Returns the terms whose weights are positive."""
        (batch,) = views
        encoding = model.encoder(batch)
        terms: dict[str, Term | Coupling] = {}
        if "features" in self.weights:
            terms["features"] = self._features(model, encoding, batch)
        if "connectivity" in self.weights:
            terms["connectivity"] = self._connectivity(model, encoding, batch)
        if SPACE_GROUP in self.weights or "contrast" in self.weights:
            crystal = _crystal(encoding, batch)
            if SPACE_GROUP in self.weights:
                terms[SPACE_GROUP] = self._space_group(model, crystal, batch)
            if "contrast" in self.weights:
                terms["contrast"] = self._contrast(crystal, batch)
        return terms

    def _features(self, model: Model, encoding: Encoding, batch: CrystalBatch) -> Term:
        decoder = cast(ElementDecoder, model.head["features"])
        losses = functional.binary_cross_entropy_with_logits(
            decoder(_atoms(encoding)), decoder.targets(batch.numbers), reduction="none"
        ).mean(1, keepdim=True)
        if self.reduction == "per_crystal":
            losses = pool("mean", losses, batch)
        return Term(losses.sum(), self._divisor(batch), self.weights["features"])

    def _connectivity(self, model: Model, encoding: Encoding, batch: CrystalBatch) -> Term:
        decoder = cast(EdgeDecoder, model.head["connectivity"])
        pairs = self._pairs(batch)
        total = connectivity_loss(decoder, _atoms(encoding), pairs, self.block_pairs)
        return Term(total, pairs.count, self.weights["connectivity"])

    def _space_group(self, model: Model, crystal: GraphFeatures, batch: CrystalBatch) -> Term:
        known = batch.masks[SPACE_GROUP]
        classes = torch.where(known, batch.labels[SPACE_GROUP].long() - _RANGES[SPACE_GROUP][0], 0)
        losses = functional.cross_entropy(
            model.head[SPACE_GROUP](crystal), classes, reduction="none"
        )
        total = torch.where(known, losses, 0.0).sum()
        return Term(total, int(known.sum()), self.weights[SPACE_GROUP])

    def _contrast(self, crystal: GraphFeatures, batch: CrystalBatch) -> Coupling:
        known = batch.masks[CRYSTAL_SYSTEM]
        systems = batch.labels[CRYSTAL_SYSTEM][known].long()
        rows = {"crystal": crystal[known], "system": systems}
        return Coupling(rows, self.compare, self.weights["contrast"])

    def _pairs(self, batch: CrystalBatch) -> Pairs:
        return pairs_in(
            batch,
            batch.graph(self.graph),
            reduction=self.reduction,
            drawn=_drawn(batch) if self.made else None,
        )

    def _divisor(self, batch: CrystalBatch) -> int:
        return batch.num_graphs if self.reduction == "per_crystal" else len(batch.numbers)


def _atoms(encoding: Encoding) -> NodeFeatures:
    if encoding.node is None:
        raise NeedsError("features and connectivity of atoms are told of their states (``node``)")
    return encoding.node


def _crystal(encoding: Encoding, batch: CrystalBatch) -> GraphFeatures:
    """Returns the mean of the atoms' states, or the encoder's own vector if there are none."""
    if encoding.node is None and encoding.graph is not None:
        return encoding.graph
    return pool("mean", _atoms(encoding), batch)


def _drawn(batch: CrystalBatch) -> Bool[Tensor, " atoms"]:
    return batch.labels[_CENTERS.name] > 0


def _contrast(rows: Rows, *, temperature: float, denominator: Denominator) -> Tensor:
    return nt_xent(
        rows["crystal"], rows["system"], temperature=temperature, denominator=denominator
    )


def _check_elements(record: CrystalRecord) -> None:
    unknown = sorted(set(record.numbers.tolist()) - known_elements("cgcnn92"))
    if unknown:
        named = ", ".join(SYMBOLS[number] for number in unknown)
        raise RecordError(
            f"record {record.id!r} holds {named}, of which the table cgcnn92 has no features to "
            "tell; leave it out, or set objective.feature_weight=0"
        )


def _positive(weights: Mapping[str, float]) -> dict[str, float]:
    """Returns the weights of the terms that are computed."""
    if min(weights.values()) < 0 or max(weights.values()) == 0:
        raise ConfigError(
            f"weights must be ≥ 0 and one of them positive, got {weights}; set feature_weight, "
            "connectivity_weight, space_group_weight or contrast_weight"
        )
    return {name: weight for name, weight in weights.items() if weight > 0}


def _check_choice(argument: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ConfigError(f"{argument} is {value!r}; {closest(value, get_args(choices))}")
