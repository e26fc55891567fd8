"""What somebody wants built from a structure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from epitaxy.errors import ConfigError, closest

Rule = Literal["radius", "nearest", "shell", "minimum_image", "composition"]
Ties = Literal["cut", "keep"]
Repeats = Literal["never", "self", "mutual"]

PADDING_NEEDS = "padded=true is only meaningful with rule 'nearest' and ties 'cut'"

_AT_FIRST = {
    "ties": "cut",
    "tie_width": 1e-4,
    "max_images": None,
    "line_graph": False,
    "self_angles": False,
    "reverse": False,
    "repeats": "never",
}
"""Members that came later: at these values they are no part of a digest."""


@dataclass(frozen=True)
class GraphSpec:
    """A rule for edges. Hashable: batches keep their graphs by spec.

    Attributes:
        rule: ``radius``: every neighbour (all periodic images) with 0.01 Å < d ≤ ``cutoff``;
            ``nearest``: the ``max_neighbors`` nearest of those (Xie & Grossman 2018);
            ``shell``: the ``max_neighbors`` nearest and all others as near as the last of them,
            within a cutoff that grows until every atom has as many, each bond in both directions
            (Choudhary & DeCost 2021); ``minimum_image``: of each other atom the nearest image if it
            lies within ``cutoff``, as MatDeepLearn's ``mdl`` (neighbours are lost in cells shorter
            than 2 ``cutoff``: for parity only); ``composition``: all ordered pairs of the elements
            of a composition, each with itself too (Goodall & Lee 2020).
        cutoff: Radius in Å. A neighbour at exactly the cutoff counts.
        max_neighbors: Per centre atom, nearest first; ``None`` keeps all (``radius``,
            ``minimum_image``).
        padded: With ``nearest``: atoms with fewer neighbours get extra edges to the first atom of
            their crystal at ``cutoff`` + 1 Å, as the published CGCNN does.
        ties: Where ``max_neighbors`` falls between neighbours that are equally far: ``keep`` takes
            all of them, so that neither the order of atoms nor the choice of cell matters;
            ``cut`` takes the first by (distance rounded to 1e-8 Å, neighbour, image), as the
            published models do.
        tie_width: Å. How much farther than the last neighbour still counts as equally far:
            coordinates of a file with five decimals scatter by as much. ALIGNN compares floats
            exactly; 1e-8 has the same effect.
        max_images: Neighbours more than so many cells away along a lattice vector are lost, as in
            the shipped configurations of MatDeepLearn (2); ``None`` loses none.
        line_graph: Whether to list pairs of edges that meet, for angles.
        reverse: Whether to list, for each edge, the one that runs back; only without a cap.
        repeats: With ``shell``: which bonds occur twice in each direction. ``never``: none;
            ``self``: those of an atom to its own images, as in ALIGNN with ``use_canonize``, where
            they are single bonds in a larger cell; ``mutual``: all that both atoms chose, as in
            ALIGNN without it.
        self_angles: With ``line_graph``: whether an edge of an atom to its own image meets itself,
            at 180°, as the two edges do that it is in a larger cell. ALIGNN leaves this angle out.
    """

    rule: Rule = "radius"
    cutoff: float = 8.0
    max_neighbors: int | None = None
    padded: bool = False
    ties: Ties = "cut"
    tie_width: float = 1e-4
    max_images: int | None = None
    line_graph: bool = False
    reverse: bool = False
    repeats: Repeats = "never"
    self_angles: bool = False

    def __post_init__(self) -> None:
        kinds = {"rule": Rule, "ties": Ties, "repeats": Repeats}
        for name, known in kinds.items():
            value = getattr(self, name)
            if value not in get_args(known):
                raise ConfigError(f"graph {name} is {value!r}; {closest(value, get_args(known))}")
        if not self.cutoff > 0:
            raise ConfigError(f"cutoff must be positive (Å), got {self.cutoff}")
        # 8 and 8.0 are one rule, and so are both ways to cut nothing: one digest, one graph.
        object.__setattr__(self, "cutoff", float(self.cutoff))
        if self.max_neighbors is None:
            object.__setattr__(self, "ties", "cut")
        if not 0 <= self.tie_width < self.cutoff:
            raise ConfigError(f"tie_width must be from 0 to the cutoff (Å), got {self.tie_width}")
        for name in ("max_neighbors", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self._check_combination()

    def _check_combination(self) -> None:
        if self.rule in ("nearest", "shell") and self.max_neighbors is None:
            raise ConfigError(f"graph rule {self.rule!r} needs max_neighbors")
        if self.padded and (self.rule != "nearest" or self.ties != "cut"):
            raise ConfigError(PADDING_NEEDS)
        if self.padded and self.line_graph:
            raise ConfigError("a padded graph has edges that are no bonds: it has no line graph")
        if self.self_angles and not self.line_graph:
            raise ConfigError("self_angles is only meaningful with line_graph=true")
        if self.rule == "composition" and (self.max_neighbors or self.line_graph):
            raise ConfigError("graph rule 'composition' has no distances: no cap, no angles")
        if self.repeats != "never" and self.rule != "shell":
            raise ConfigError("repeats is only meaningful with rule 'shell'")
        if self.max_images is not None and self.rule not in ("radius", "nearest"):
            raise ConfigError("max_images is only meaningful with rules 'radius' and 'nearest'")
        if self.reverse and not self.symmetric:
            raise ConfigError(
                "reverse=true needs a graph in which every edge runs back: rule 'radius' without "
                "max_neighbors, or 'composition'"
            )

    @property
    def symmetric(self) -> bool:
        """Whether each edge has exactly one that runs back."""
        return self.rule == "composition" or (self.rule == "radius" and self.max_neighbors is None)

    @property
    def completes_shells(self) -> bool:
        """Whether ``max_neighbors`` never parts neighbours that are equally far."""
        return self.rule == "shell" or self.ties == "keep" or self.max_neighbors is None

    def digest(self) -> str:
        """Returns a stable hash of the rule (16 hex digits)."""
        members = {k: v for k, v in asdict(self).items() if k not in _AT_FIRST or v != _AT_FIRST[k]}
        text = json.dumps(members, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
