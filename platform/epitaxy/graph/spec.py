"""What somebody wants built from a structure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from epitaxy.errors import ConfigError


@dataclass(frozen=True)
class GraphSpec:
    """A rule for edges. Hashable: batches keep their graphs by spec.

    Attributes:
        rule: ``radius``: every neighbour (all periodic images) with 0.01 Å < d ≤ ``cutoff``;
            ``nearest``: the ``max_neighbors`` nearest of those (Xie & Grossman 2018).
        cutoff: Radius in Å. A neighbour at exactly the cutoff counts.
        max_neighbors: Per centre atom, nearest first, ties broken by
            (distance rounded to 1e-8 Å, neighbour, image); ``None`` keeps all (``radius`` only).
        padded: With ``nearest``: atoms with fewer neighbours get extra edges to the first atom of
            their crystal at ``cutoff`` + 1 Å, as the published CGCNN does.
    """

    rule: Literal["radius", "nearest"] = "radius"
    cutoff: float = 8.0
    max_neighbors: int | None = None
    padded: bool = False

    def __post_init__(self) -> None:
        if self.rule not in ("radius", "nearest"):
            raise ConfigError(f"graph rule must be 'radius' or 'nearest', got {self.rule!r}")
        if not self.cutoff > 0:
            raise ConfigError(f"cutoff must be positive (Å), got {self.cutoff}")
        # 8 and 8.0 are one rule: one digest, one compiled kernel.
        object.__setattr__(self, "cutoff", float(self.cutoff))
        if self.max_neighbors is not None and self.max_neighbors < 1:
            raise ConfigError(f"max_neighbors must be at least 1, got {self.max_neighbors}")
        if self.rule == "nearest" and self.max_neighbors is None:
            raise ConfigError("graph rule 'nearest' needs max_neighbors")
        if self.padded and self.rule != "nearest":
            raise ConfigError("padded=true is only meaningful with rule 'nearest'")

    def digest(self) -> str:
        """Returns a stable hash of the rule (16 hex digits)."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
