"""Two views of a crystal that differ in what they hide and in where its atoms are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from epitaxy.errors import ConfigError, closest
from epitaxy.graph.composition import as_composition
from epitaxy.graph.record import CrystalRecord, Hiding

MaskedViews = Literal["both", "one"]
_MASKED_VIEWS = ("both", "one")
_ROUNDING = 1e-9
_KEYS = 2**63


@dataclass(frozen=True)
class Augmentation:
    """What is done to a crystal, or to a composition, independently for each of two views.

    Sources: Crystal Twins (Magar et al., npj Comput. Mater. 8, 231, 2022, and the authors' code)
    for structures, ``roost_pretraining`` for compositions.
    # Differs from the code of Crystal Twins, where moving atoms is commented out: by default they
    are moved, as in the paper. Rotations are left out: no encoder here can tell them.
    # Differs from the code of roost_pretraining, where the second view keeps only the edges of an
    element to itself and masks are drawn once and for all: here edges stay, and every epoch
    draws anew.

    Attributes:
        atom_mask: Share of the atoms (or elements) whose element is hidden, rounded down but at
            least one; 0 hides none.
        edge_mask: Share of each atom's edges that is left out, rounded down; 0 leaves out none.
        perturb: Largest distance in Å by which an atom is moved, in a random direction; the
            distance is uniform. 0 moves none.
        masked_views: ``both``, or ``one``: then the first view is the crystal as it is.
        composition: Whether records are read as compositions.

    Raises:
        ConfigError: If a number is impossible, nothing makes the views differ, or compositions are
            to lose edges or be moved.
    """

    atom_mask: float = 0.10
    edge_mask: float = 0.10
    perturb: float = 0.05
    masked_views: MaskedViews = "both"
    composition: bool = False

    def __post_init__(self) -> None:
        for name in ("atom_mask", "edge_mask"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is a share, ≥ 0 and < 1, got {getattr(self, name)}")
        if not 0 <= self.perturb < math.inf:
            raise ConfigError(f"perturb is a distance in Å, at least 0, got {self.perturb}")
        if self.masked_views not in _MASKED_VIEWS:
            hint = closest(self.masked_views, _MASKED_VIEWS)
            raise ConfigError(f"masked_views is {self.masked_views!r}; {hint}")
        if self.composition and (self.edge_mask or self.perturb):
            raise ConfigError(
                "a composition has neither bonds to hide nor atoms to move: with composition=true "
                "set edge_mask=0 perturb=0"
            )
        if not (self.atom_mask or self.edge_mask or self.perturb):
            raise ConfigError(
                "the two views would be the same crystal; set atom_mask, edge_mask or perturb "
                "above 0"
            )

    def views(
        self, record: CrystalRecord, rng: np.random.Generator
    ) -> tuple[CrystalRecord, CrystalRecord]:
        """Returns two views of ``record``, drawn independently."""
        if self.composition:
            record = as_composition(record)
        first = record if self.masked_views == "one" else self._view(record, rng)
        return first, self._view(record, rng)

    def _view(self, record: CrystalRecord, rng: np.random.Generator) -> CrystalRecord:
        hiding = Hiding(
            hidden_atoms(record.num_atoms, self.atom_mask, rng),
            self.edge_mask,
            int(rng.integers(_KEYS)) if self.edge_mask else 0,
        )
        if not self.perturb:
            return record.replace(hiding=hiding)
        moved = record.positions + displacements(record.num_atoms, self.perturb, rng)
        # What was computed for the crystal does not hold where its atoms are now.
        return record.replace(positions=moved, labels={}, hiding=hiding)


def hidden_atoms(
    count: int, share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " atoms"] | None:
    """Returns which of ``count`` atoms are hidden: ``max(1, ⌊share · count⌋)``, or ``None``."""
    if not share:
        return None
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: max(1, math.floor(share * count + _ROUNDING))]] = True
    return hidden


def displacements(count: int, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Returns vectors of uniform length in [0, ``largest``] and uniform direction, (count, 3)."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return rng.uniform(0.0, largest, size=(count, 1)) * directions
