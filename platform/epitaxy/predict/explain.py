"""What an encoder weighs: its attention, gates and masks, read off the taps for given crystals.

Weights say how strongly a part of the network passes something on. They are no causes: a large one
may still hardly move the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn

from epitaxy.encoders.basis import EnvelopeName, cutoff_envelope
from epitaxy.encoders.taps import Tap, tapped
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.composition import as_composition
from epitaxy.graph.elements import feature_names
from epitaxy.graph.record import CrystalRecord

Seen = Sequence[tuple[Tap, Tensor]]


@dataclass(frozen=True, eq=False)
class EdgeWeights:
    """Weights of directed edges from a neighbour to a centre; fill edges are left out.

    Attributes:
        source: Neighbour, (edges,).
        target: Centre, (edges,).
        shifts: Cell that the neighbour lies in, seen from the centre's, (edges, 3).
        distances: Å, 0 for an atom's edge to itself; ``None`` between elements of a composition.
        layers: Mean over heads or channels, times the envelope if that comes after the tap,
            (edges, layers).
        envelope: What gates were multiplied by, (edges,); ``None`` if the weights are final.
    """

    source: Int64[np.ndarray, " edges"]
    target: Int64[np.ndarray, " edges"]
    shifts: Int64[np.ndarray, "edges 3"]
    distances: Float64[np.ndarray, " edges"] | None
    layers: Float64[np.ndarray, "edges layers"]
    envelope: Float64[np.ndarray, " edges"] | None = None

    @property
    def mean(self) -> Float64[np.ndarray, " edges"]:
        """Mean over the layers."""
        return self.layers.mean(1)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, eq=False)
class AngleWeights:
    """Weights of pairs of edges a → b and b → c, which meet in b.

    Attributes:
        first: Index of the edge a → b among the ``EdgeWeights``, (angles,).
        second: Index of the edge b → c, (angles,).
        degrees: Angle at b between a and c, (angles,).
        layers: As those of edges, (angles, layers).
    """

    first: Int64[np.ndarray, " angles"]
    second: Int64[np.ndarray, " angles"]
    degrees: Float64[np.ndarray, " angles"]
    layers: Float64[np.ndarray, "angles layers"]

    @property
    def mean(self) -> Float64[np.ndarray, " angles"]:
        """Mean over the layers."""
        return self.layers.mean(1)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the encoder weighs in one crystal.

    Attributes:
        record: The crystal, or its composition if that is all the encoder reads.
        edges: Weights of edges, if the encoder has some.
        angles: Weights of angles, if the encoder has some.
        pooled: Weight of each atom in the crystal vector, (atoms,), if the encoder has some.
    """

    record: CrystalRecord
    edges: EdgeWeights | None = None
    angles: AngleWeights | None = None
    pooled: Float64[np.ndarray, " atoms"] | None = None

    @property
    def received(self) -> Float64[np.ndarray, " atoms"] | None:
        """Weight of all edges into each atom; 1 for every atom where attention is a softmax."""
        return None if self.edges is None else self._summed(self.edges.target)

    @property
    def sent(self) -> Float64[np.ndarray, " atoms"] | None:
        """Weight of all edges from each atom: what its neighbours take from it."""
        return None if self.edges is None else self._summed(self.edges.source)

    def _summed(self, atom: np.ndarray) -> np.ndarray:
        weights = self.edges.mean if self.edges is not None else None
        return np.bincount(atom, weights, minlength=self.record.num_atoms)


@dataclass(frozen=True, eq=False)
class Explained:
    """What an encoder weighs.

    Attributes:
        crystals: One explanation for each record, in order.
        features: Element feature to its weight in a learnt mask; empty if there is none.
        names: What the weights over ``edges``, ``angles``, ``atoms`` and ``features`` are.
    """

    crystals: tuple[Explanation, ...]
    features: Mapping[str, float]
    names: Mapping[str, str]


def explain(encoder: Any, records: Sequence[CrystalRecord]) -> Explained:
    """Returns what flows through the taps of ``encoder`` for each of ``records``.

    Args:
        encoder: In eval mode; it computes on its own device and in its own precision.
        records: Crystals, or compositions if the encoder reads those.

    Raises:
        NeedsError: If the encoder has no taps, or gives weights that belong to no edge or atom.
        ConfigError: If it is in training mode, or there are no records.
        RecordError: If a record has elements that it does not know, or no structure.
    """
    if not has_taps(encoder):
        raise NeedsError(
            f"{type(encoder).__name__} has no weights to show: no attention, gate or mask of it is "
            "tapped (epitaxy.encoders.taps)"
        )
    if encoder.training:
        raise ConfigError("explain needs an encoder in eval mode: call encoder.eval()")
    if not records:
        raise ConfigError("explain needs at least one record")
    crystals: list[Explanation] = []
    seen: Seen = ()
    for record in records:
        crystal, seen = _crystal(encoder, record)
        crystals.append(crystal)
    names: dict[str, str] = {}
    for tap, _ in seen:
        names.setdefault(tap.over, tap.name)
    return Explained(tuple(crystals), _mask(encoder, seen), names)


def has_taps(encoder: nn.Module) -> bool:
    """Whether there is anything to explain."""
    return any(isinstance(part, Tap) for part in encoder.modules())


def _crystal(encoder: Any, record: CrystalRecord) -> tuple[Explanation, Seen]:
    spec = encoder.spec
    if spec.rule == "composition":
        record = as_composition(record)
    first = next(encoder.parameters())
    batch = collate([record], (spec,), dtype=torch.float64).to(first.device, dtype=first.dtype)
    with torch.no_grad(), tapped(encoder) as seen:
        encoder(batch)
    edges = _edges(encoder, batch, seen)
    angles = _angles(encoder, batch, seen) if edges is not None else None
    pooled = _columns(seen, "atoms", (len(batch.numbers),))
    weights = None if pooled is None else pooled.mean(1)
    return Explanation(record, edges, angles, weights), seen


def _edges(encoder: Any, batch: CrystalBatch, seen: Seen) -> EdgeWeights | None:
    spec, graph = encoder.spec, batch.graph(encoder.spec)
    count, atoms = graph.num_edges, len(batch.numbers)
    layers = _columns(seen, "edges", (count, count + atoms))
    if layers is None:
        return None
    distances = batch.distances(spec)
    source, target, shifts = (
        _integers(part) for part in (graph.source, graph.target, graph.shifts)
    )
    lengths, factor = _array(distances), _factor(encoder, seen, "edges", distances, spec.cutoff)
    if len(layers) > count:  # edges of length 0 from every atom to itself, after all others
        itself = np.arange(atoms)
        source, target = np.append(source, itself), np.append(target, itself)
        shifts = np.append(shifts, np.zeros((atoms, 3), np.int64), axis=0)
        lengths = np.append(lengths, np.zeros(atoms))
        factor = None if factor is None else np.append(factor, np.ones(atoms))
    kept = np.ones(len(layers), bool)
    if graph.padded is not None:
        kept = ~graph.padded.cpu().numpy()
    composed = spec.rule == "composition"
    return EdgeWeights(
        source[kept],
        target[kept],
        shifts[kept],
        None if composed else lengths[kept],
        (layers if factor is None else layers * factor[:, None])[kept],
        None if factor is None else factor[kept],
    )


def _angles(encoder: Any, batch: CrystalBatch, seen: Seen) -> AngleWeights | None:
    """Returns the weights of the pairs of edges that the encoder keeps of its line graph."""
    if not any(tap.over == "angles" for tap, _ in seen):
        return None
    spec = encoder.spec
    line, distances = batch.line_graph(spec), batch.distances(spec)
    reach = getattr(encoder, "angle_cutoff", None)
    short: Bool[Tensor, " edges"] = torch.ones_like(distances, dtype=torch.bool)
    if reach is not None:
        short = distances < reach
    near = short[line.source] & short[line.target]
    first, second = line.source[near], line.target[near]
    layers = _columns(seen, "angles", (len(first),))
    factor = _factor(encoder, seen, "angles", distances, spec.cutoff if reach is None else reach)
    if layers is None:
        return None
    if factor is not None:
        layers = layers * (factor[_integers(first)] * factor[_integers(second)])[:, None]
    degrees = np.degrees(np.arccos(_array(batch.cosines(spec, near))))
    return AngleWeights(_integers(first), _integers(second), degrees, layers)


def _columns(seen: Seen, over: str, expected: tuple[int, ...]) -> np.ndarray | None:
    """Returns the weights of each tap as a column, heads and channels averaged.

    Raises:
        NeedsError: If a tap has another number of rows than expected: nobody could tell what they
            belong to.
    """
    columns = []
    for tap, weights in seen:
        if tap.over != over:
            continue
        if len(weights) not in expected:
            raise NeedsError(
                f"the tap {tap.name!r} gives {len(weights)} weights for {expected[0]} {over}: it "
                "must give one row for each, in the order of the graph"
            )
        columns.append(weights.double().flatten(1).mean(1) if weights.dim() > 1 else weights)
    return np.stack([_array(column) for column in columns], axis=1) if columns else None


def _factor(
    encoder: Any, seen: Seen, over: str, distances: Tensor, reach: float
) -> np.ndarray | None:
    """Returns the envelope of each edge if it multiplies the weights after the taps."""
    later = {tap.before_envelope for tap, _ in seen if tap.over == over}
    name: EnvelopeName = getattr(encoder, "envelope", "none")
    if later == {True, False}:
        raise NeedsError(
            f"some taps over {over} come before the envelope and some after it: their weights "
            "cannot be compared"
        )
    if later != {True} or name == "none":
        return None
    return _array(cutoff_envelope(name, distances, reach))


def _mask(encoder: Any, seen: Seen) -> dict[str, float]:
    masks = [weights for tap, weights in seen if tap.over == "features"]
    if not masks:
        return {}
    weights = _array(masks[0]).reshape(-1)
    table = getattr(getattr(encoder, "features", None), "name", None)
    names = feature_names(table) if table is not None else ()
    if len(names) != len(weights):
        names = tuple(f"feature {place + 1}" for place in range(len(weights)))
    return dict(zip(names, weights.tolist(), strict=True))


def _integers(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy().astype(np.int64)
    return array


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().double().numpy()
    return array
