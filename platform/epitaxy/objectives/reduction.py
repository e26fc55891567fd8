"""From losses of records and labels, of which many are missing, to terms of one loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.heads.losses import where_present
from epitaxy.objectives.contract import Term
from epitaxy.shapes import GraphScalars

ReductionName = Literal["per_label", "fixed", "available"]
_NAMES = ("per_label", "fixed", "available")


@dataclass(frozen=True)
class Reduction:
    """How losses ``ℓ_ip`` of records ``i`` and labels ``p`` become one loss.

    With ``δ_ip`` 1 where record ``i`` has label ``p`` and 0 elsewhere, ``w_p`` the weights, ``P``
    the number of labels and ``B`` the number of records of a step:

    * ``per_label``: ``L = Σ_p w_p Σ_i δ_ip ℓ_ip / Σ_i δ_ip``. Every label counts alike, however
      few records have it (layer_transfer's combined model);
    * ``fixed``: ``L = (1/B) Σ_i (1/P) Σ_p w_p δ_ip ℓ_ip``. Every value counts alike, so a
      label that few records have weighs little (the multi-property models of pt_ft_pairs);
    * ``available``: ``L = (1/B) Σ_i Σ_p w_p δ_ip ℓ_ip / Σ_p δ_ip``. Every record counts alike.

    All are sums over records divided by a count that the labels tell, so neither workers nor
    micro-batches change them. Records without any label are among the ``B`` of the last two, as
    in the code of pt_ft_pairs; ``filter.labelled`` keeps them out of training altogether.

    Attributes:
        name: Which.
        labels: The ``P`` labels.
        weights: ``w_p``.

    Raises:
        ConfigError: If the name is unknown.
    """

    name: ReductionName
    labels: Sequence[str]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.name not in _NAMES:
            raise ConfigError(f"unknown reduction {self.name!r}; {closest(self.name, _NAMES)}")

    def counts(self, batch: CrystalBatch) -> dict[str, float]:
        """Returns the count of each label's term."""
        if self.name == "per_label":
            return {name: float(batch.masks[name].sum()) for name in self.labels}
        return dict.fromkeys(self.labels, float(batch.num_graphs))

    def terms(self, losses: Mapping[str, GraphScalars], batch: CrystalBatch) -> dict[str, Term]:
        """Returns the term of each label; losses of records without it may be anything."""
        counts = self.counts(batch)
        terms = {}
        for name, values in losses.items():
            known = where_present(values, batch.masks[name])
            if self.name == "available":
                known = known / self._present(batch).sum(dim=1).clamp(min=1)
            weight = self.weights[name]
            if self.name == "fixed":
                weight = weight / len(self.labels)
            terms[name] = Term(known.sum(), counts[name], weight)
        return terms

    def _present(self, batch: CrystalBatch) -> Bool[Tensor, "graphs labels"]:
        """Returns which record has which label."""
        return torch.stack([batch.masks[name] for name in self.labels], dim=1)
