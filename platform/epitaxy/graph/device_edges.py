"""Radius and nearest-neighbour graphs built by torch where the batch is, such as on a GPU.

The same edges in the same order as ``neighbors.build_edges``, from the same fp64 coordinates; only
neighbours within rounding of the cutoff may differ. All pairs of atoms of a crystal are tried with
all images that can matter, a bounded number of candidates at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.batch import Geometry, Graph
from epitaxy.graph.nearest import TIE_STEP
from epitaxy.graph.periodic import DISTANCE_TOLERANCE, MAX_IMAGES, REACH_MARGIN, SHORTEST
from epitaxy.graph.spec import GraphSpec

CANDIDATES = 1 << 22
"""Pairs of an atom and an image tried at once; 4 million take about a gigabyte."""


def builds_on_device(spec: GraphSpec) -> bool:
    """Whether ``build_edges_on_device`` knows the rule."""
    plain = not (spec.line_graph or spec.reverse or spec.padded)
    return spec.rule in ("radius", "nearest") and plain


def build_edges_on_device(geometry: Geometry, spec: GraphSpec) -> Graph:
    """Returns the edges that ``spec`` asks for, on the device of ``geometry``.

    Args:
        geometry: Coordinates of a batch; see ``collate.geometry``.
        spec: Rule ``radius`` or ``nearest``, without line graph, reverse edges or padding.

    Raises:
        ConfigError: If the rule is another one.
        RecordError: If a cell is so small that the search would not end in reasonable time.
    """
    if not builds_on_device(spec):
        raise ConfigError(
            f"edges for {spec} are built on the host; set compute.edges=host, or choose an encoder "
            "with a plain radius or nearest-neighbour graph"
        )
    search = _Search(geometry, spec.cutoff)
    parts = [search.edges(*bounds) for bounds in search.chunks()]
    source, target, shifts = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if spec.max_images is not None:
        near = (shifts.abs() <= spec.max_images).all(1)
        source, target, shifts = source[near], target[near], shifts[near]
    if spec.max_neighbors is not None:
        distances = search.distances(source, target, shifts)
        kept = _nearest(spec, distances, target, len(geometry.positions))
        source, target, shifts = source[kept], target[kept], shifts[kept]
    return Graph(source, target, shifts.to(torch.int32))


class _Search:
    """Crystals made ready: atoms wrapped into their cells, images that can matter counted."""

    def __init__(self, geometry: Geometry, cutoff: float) -> None:
        self._cutoff, self._positions = cutoff, geometry.positions
        pbc, num_atoms = geometry.pbc, geometry.num_atoms
        self.graph_index = torch.repeat_interleave(num_atoms)
        self.lattice = geometry.cell * pbc.unsqueeze(-1)
        # The columns of the pseudo-inverse are the dual vectors, those of zero rows only nearly 0.
        dual = torch.linalg.pinv(self.lattice) * pbc.unsqueeze(1)
        self._reach = (cutoff * dual.norm(dim=1) + REACH_MARGIN) * pbc
        fractions = torch.einsum("ae,aek->ak", self._positions, dual[self.graph_index])
        self._wraps = torch.floor(fractions)
        moved = torch.einsum("ak,ake->ae", self._wraps, self.lattice[self.graph_index])
        self._wrapped, self._fractions = self._positions - moved, fractions - self._wraps
        self._counts = torch.where(pbc, torch.floor(2 * self._reach) + 1, 1.0).to(torch.int64)
        self._images = self._counts.prod(1)
        self._num_atoms = num_atoms
        self._first = torch.cumsum(num_atoms, 0) - num_atoms
        if len(num_atoms) and int((self._images * num_atoms).max()) > MAX_IMAGES:
            graph = int((self._images * num_atoms).argmax())
            raise RecordError(
                f"crystal {graph} of the batch: the cutoff of {cutoff} Å would need more than "
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

    def distances(self, source: Tensor, target: Tensor, shifts: Tensor) -> Tensor:
        """Returns the lengths of edges, Å."""
        lattice = self.lattice[self.graph_index[target]]
        offset = torch.einsum("ek,ekc->ec", shifts.to(lattice.dtype), lattice)
        return (self._positions[source] + offset - self._positions[target]).norm(dim=1)


def _counting(counts: Tensor) -> Tensor:
    """Returns 0, 1, … for each count, one after the other."""
    ends = torch.cumsum(counts, 0)
    first = torch.repeat_interleave(ends - counts, counts)
    return torch.arange(len(first), device=counts.device) - first


def _nearest(spec: GraphSpec, distances: Tensor, target: Tensor, num_atoms: int) -> Tensor:
    """Returns the indices of the edges that stay, in the order of the rule."""
    limit = spec.max_neighbors or 0
    exact = spec.completes_shells
    keys = distances if exact else torch.round(distances / TIE_STEP)
    by_key = torch.argsort(keys, stable=True)
    order = by_key[torch.argsort(target[by_key], stable=True)]
    sizes = torch.bincount(target, minlength=num_atoms)
    rank = _counting(sizes)
    if not exact:
        chosen = order[rank < limit]
        return chosen if spec.rule == "nearest" else chosen.sort().values
    last = torch.full((num_atoms,), torch.inf, dtype=distances.dtype, device=target.device)
    at_limit = order[rank == limit - 1]
    last[target[at_limit]] = distances[at_limit] + spec.tie_width
    return torch.nonzero(distances <= last[target]).squeeze(1)
