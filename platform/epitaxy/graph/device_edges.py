"""Radius and nearest-neighbour graphs built by torch where the batch is, such as on a GPU.

The same edges in the same order as ``neighbors.build_edges``, from the same fp64 coordinates; only
neighbours within rounding of the cutoff may differ. All pairs of atoms of a crystal are tried with
all images that can matter, a bounded number of candidates at a time.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.batch import Graph
from epitaxy.graph.nearest import TIE_STEP
from epitaxy.graph.periodic import DISTANCE_TOLERANCE, MAX_IMAGES, REACH_MARGIN, SHORTEST
from epitaxy.graph.spec import GraphSpec

CANDIDATES = 1 << 22
"""Pairs of an atom and an image tried at once; 4 million take about a gigabyte."""


def builds_on_device(spec: GraphSpec) -> bool:
    """Whether ``build_edges_on_device`` knows the rule."""
    plain = not (spec.line_graph or spec.reverse or spec.padded)
    return spec.rule in ("radius", "nearest") and plain


def build_edges_on_device(
    spec: GraphSpec,
    positions: Float64[Tensor, "atoms 3"],
    cells: Float64[Tensor, "graphs 3 3"],
    pbc: Bool[Tensor, "graphs 3"],
    num_atoms: Int64[Tensor, " graphs"],
) -> Graph:
    """Returns the edges that ``spec`` asks for, on the device of ``positions``.

    Args:
        spec: Rule ``radius`` or ``nearest``, without line graph, reverse edges or padding.
        positions: Cartesian, Å.
        cells: Lattice vectors as rows, Å; rows along non-periodic axes are not looked at.
        pbc: Which lattice vectors are periodic.
        num_atoms: Atoms of each crystal.

    Raises:
        ConfigError: If the rule is another one.
        RecordError: If a cell is so small that the search would not end in reasonable time.
    """
    if not builds_on_device(spec):
        raise ConfigError(
            f"edges for {spec} are built on the host; set compute.edges=host, or choose an encoder "
            "with a plain radius or nearest-neighbour graph"
        )
    search = _Search(spec, positions, cells, pbc, num_atoms)
    parts = [search.edges(*bounds) for bounds in search.chunks()]
    source, target, shifts = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if spec.max_images is not None:
        near = (shifts.abs() <= spec.max_images).all(1)
        source, target, shifts = source[near], target[near], shifts[near]
    if spec.max_neighbors is not None:
        kept = _nearest(spec, positions, search.lattice, search.graph_index, source, target, shifts)
        source, target, shifts = source[kept], target[kept], shifts[kept]
    return Graph(source, target, shifts.to(torch.int32))


class _Search:
    """Crystals made ready: atoms wrapped into their cells, images that can matter counted."""

    def __init__(
        self, spec: GraphSpec, positions: Tensor, cells: Tensor, pbc: Tensor, num_atoms: Tensor
    ) -> None:
        self._cutoff = spec.cutoff
        self.graph_index = torch.repeat_interleave(num_atoms)
        self.lattice = torch.where(pbc.unsqueeze(-1), cells, torch.zeros_like(cells))
        # The pseudo-inverse of the periodic rows: its columns are the dual vectors.
        dual = torch.linalg.pinv(self.lattice) * pbc.unsqueeze(1)
        self._reach = (spec.cutoff * dual.norm(dim=1) + REACH_MARGIN) * pbc
        fractions = torch.einsum("ae,aek->ak", positions, dual[self.graph_index])
        self._wraps = torch.floor(fractions)
        moved = torch.einsum("ak,ake->ae", self._wraps, self.lattice[self.graph_index])
        self._wrapped, self._fractions = positions - moved, fractions - self._wraps
        self._counts = torch.where(pbc, torch.floor(2 * self._reach) + 1, 1.0).to(torch.int64)
        self._images = self._counts.prod(1)
        self._num_atoms = num_atoms
        self._first = torch.cumsum(num_atoms, 0) - num_atoms
        if len(num_atoms) and int((self._images * num_atoms).max()) > MAX_IMAGES:
            graph = int((self._images * num_atoms).argmax())
            raise RecordError(
                f"crystal {graph} of the batch: the cutoff of {spec.cutoff} Å would need more than "
                f"{MAX_IMAGES:.0e} periodic images per atom; check the units of the cell (Å) or "
                "lower the cutoff"
            )

    def chunks(self) -> list[tuple[int, int]]:
        """Returns ranges of centres whose candidates are tried at once."""
        per_atom = (self._num_atoms * self._images)[self.graph_index].cpu().tolist()
        bounds, start, total = [], 0, 0
        for atom, candidates in enumerate(per_atom):
            if atom > start and total + candidates > CANDIDATES:
                bounds.append((start, atom))
                start, total = atom, 0
            total += candidates
        return [*bounds, (start, len(per_atom))]

    def edges(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns source, target and shift of the edges into the centres ``start`` to ``stop``."""
        device = self._wrapped.device
        centres = torch.arange(start, stop, device=device)
        crystal = self.graph_index[centres]
        per_centre = self._num_atoms[crystal]
        target = torch.repeat_interleave(centres, per_centre)
        graph = self.graph_index[target]
        source = self._first[graph] + _counting(per_centre)
        # The images of a pair follow the first that can matter; see periodic.py.
        lowest = self._fractions[target] - self._fractions[source] - self._reach[graph]
        first_image = torch.ceil(lowest)
        images = self._images[graph]
        pair = torch.repeat_interleave(torch.arange(len(target), device=device), images)
        number = _counting(images)
        counts = self._counts[graph[pair]]
        steps = torch.stack(
            [
                number // (counts[:, 1] * counts[:, 2]),
                number // counts[:, 2] % counts[:, 1],
                number % counts[:, 2],
            ],
            1,
        )
        image = first_image[pair] + steps
        offset = torch.einsum("ck,cke->ce", image, self.lattice[graph[pair]])
        vectors = self._wrapped[source[pair]] - self._wrapped[target[pair]] + offset
        squared = vectors.square().sum(1)
        near = (squared <= self._cutoff**2 + DISTANCE_TOLERANCE) & (squared > SHORTEST**2)
        inside = torch.nonzero(near).squeeze(1)
        source, target = source[pair[inside]], target[pair[inside]]
        shifts = image[inside] + self._wraps[target] - self._wraps[source]
        return source, target, shifts.to(torch.int64)


def _counting(counts: Tensor) -> Tensor:
    """Returns 0, 1, … for each count, one after the other."""
    ends = torch.cumsum(counts, 0)
    first = torch.repeat_interleave(ends - counts, counts)
    return torch.arange(len(first), device=counts.device) - first


def _nearest(
    spec: GraphSpec,
    positions: Tensor,
    lattice: Tensor,
    graph_index: Tensor,
    source: Tensor,
    target: Tensor,
    shifts: Tensor,
) -> Tensor:
    """Returns the indices of the edges that stay, in the order of the rule."""
    limit = spec.max_neighbors or 0
    offset = torch.einsum("ek,ekc->ec", shifts.to(lattice.dtype), lattice[graph_index[target]])
    distances = (positions[source] + offset - positions[target]).norm(dim=1)
    exact = spec.completes_shells
    keys = distances if exact else torch.round(distances / TIE_STEP)
    by_key = torch.argsort(keys, stable=True)
    order = by_key[torch.argsort(target[by_key], stable=True)]
    sizes = torch.bincount(target, minlength=len(positions))
    rank = _counting(sizes)
    if not exact:
        chosen = order[rank < limit]
        return chosen if spec.rule == "nearest" else chosen.sort().values
    last = torch.full((len(positions),), torch.inf, dtype=distances.dtype, device=source.device)
    at_limit = order[rank == limit - 1]
    last[target[at_limit]] = distances[at_limit] + spec.tie_width
    return torch.nonzero(distances <= last[target]).squeeze(1)
