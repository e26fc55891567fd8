"""Any PyTorch Geometric network of atoms and bonds as an encoder."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementEmbedding
from epitaxy.encoders.invariances import invariances_of
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Rule, Ties

Told = Literal["attributes", "weights", "none"]
KEYWORDS: dict[str, str] = {"attributes": "edge_attr", "weights": "edge_weight", "none": ""}
"""How PyG calls what a network is told of edges."""


class PyGEncoder(MessagePassing):
    """Wraps a ``torch_geometric.nn`` model that maps node and edge features to node features.

    The network is called as ``network(x, edge_index, edge_attr=…)`` with a learnt vector per
    element as ``x``, and with ``batch`` and ``batch_size`` if it takes them; its result is
    ``encoding.node``. ``edge_index`` points from neighbour to centre; an atom has edges to its own
    images, and several to one neighbour.

    The network is tried on a random graph when it is made: the state of an atom must be a function
    of its own edges, whatever the numbering, the supercell and the batch. ``smooth_cutoff`` is not
    declared, because most networks count a bond whose features are 0 as well.

    Args:
        network: The model, such as ``{_target_: torch_geometric.nn.GAT, …}``.
        in_channels: Width of ``x``; the network's ``in_channels``.
        out_channels: Width of the result; the network's ``out_channels``.
        edges: What the network is told of edges. ``attributes``: Gaussians of the distance times
            the envelope, as ``edge_attr``; ``weights``: the envelope alone, as ``edge_weight``;
            ``none``: only that they are there.
        num_basis: Number of Gaussians; the network's ``edge_dim``.
        rule: As for ``GraphSpec``.
        cutoff: Å.
        max_neighbors: As for ``GraphSpec``.
        ties: As for ``GraphSpec``.
        envelope: ``poly6``, ``cosine`` or ``none``.
        num_elements: Rows of the embedding; row = atomic number.

    Raises:
        ConfigError: If a name is unknown, the graph rule impossible, or the network does not fit,
            ignores what it is told, or drops edges.
    """

    def __init__(
        self,
        network: Any,
        *,
        in_channels: int,
        out_channels: int,
        edges: Told = "attributes",
        num_basis: int = 32,
        rule: Rule = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        ties: Ties = "keep",
        envelope: EnvelopeName = "poly6",
        num_elements: int = 119,
    ) -> None:
        super().__init__()
        check_envelope(envelope)
        _check_told(edges, envelope, rule)
        self.spec = GraphSpec(rule, cutoff, max_neighbors, ties=ties)
        self.envelope: EnvelopeName = envelope
        self.edges: Told = edges
        self.smooth = edges != "none"  # else nothing depends on distances
        self.node_width = out_channels
        self.basis = GaussianBasis(num_basis, cutoff, width=3.0)
        self.embedding = ElementEmbedding(num_elements, in_channels)
        self.network = _checked(network, edges)
        self.blocks = ("embedding", *_blocks(self.network))
        self._try(in_channels)

    @property
    def invariances(self) -> frozenset[str]:
        """What holds in eval mode."""
        return invariances_of(self.spec, "none")

    @property
    def couples_records(self) -> bool:
        """Whether the network has batch statistics."""
        return any(getattr(m, "running_mean", None) is not None for m in self.network.modules())

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the network's states.

        Raises:
            RecordError: If an element has no embedding (checked on CPU only; NaN on a GPU).
        """
        node = self.embedding(batch.numbers)
        if not len(node):  # batch statistics of nothing are an error in PyG
            return Encoding(node=node[:, :1].expand(0, self.node_width))
        distances = batch.distances(self.spec)
        edges = batch.edge_index(self.spec)
        return Encoding(
            node=self._states(node, edges, distances, batch.graph_index, batch.num_graphs)
        )

    def _states(
        self, node: Tensor, edges: Tensor, distances: Tensor, graph_index: Tensor, num_graphs: int
    ) -> Tensor:
        offered: dict[str, Any] = {"batch": graph_index, "batch_size": num_graphs}
        takes = inspect.signature(self.network.forward).parameters
        arguments = {name: value for name, value in offered.items() if name in takes}
        if self.edges != "none":
            told = cutoff_envelope(self.envelope, distances, self.spec.cutoff)
            if self.edges == "attributes":
                told = self.basis(distances) * told.unsqueeze(-1)
            arguments[KEYWORDS[self.edges]] = told
        states: Tensor = self.network(node, edges, **arguments)
        return states

    def _try(self, in_channels: int) -> None:
        """Refuses a network whose states are no function of each atom's own edges."""
        small, large, place = _crystals(in_channels, self.spec.cutoff)
        training = self.network.training
        self.network.eval()
        name = type(self.network).__name__
        try:
            with torch.enable_grad():
                alone = self._states(*small)
                doubled = self._states(*large)[place]
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
            raise ConfigError(
                f"{name} cannot be called with x (atoms, {in_channels}), edge_index and "
                f"{KEYWORDS[self.edges] or 'no features'} of edges: {error}. in_channels must be "
                f"the network's in_channels and num_basis={self.basis.size} its edge_dim"
            ) from error
        finally:
            self.network.train(training)
        if alone.shape != (len(small[0]), self.node_width):
            raise ConfigError(
                f"{name} returns {tuple(alone.shape)} for {len(small[0])} atoms; out_channels="
                f"{self.node_width} must be the width of its result"
            )
        slopes = torch.autograd.grad(alone.square().sum(), small[2], allow_unused=True)[0]
        if self.edges != "none" and (slopes is None or not bool(slopes.any())):
            raise ConfigError(
                f"{name} ignores {KEYWORDS[self.edges]}: give it edge_dim (GAT, PNA, "
                "TransformerConv), or set edges=weights (GCN) or edges=none (GIN, GraphSAGE)"
            )
        expected = alone.detach().repeat(2, 1)
        difference = float((doubled.detach() - expected).abs().max())
        if not difference <= 1e-3 * float(expected.abs().max()):
            raise ConfigError(
                f"{name} gives an atom another state in a larger cell, another numbering or "
                "another batch. Usual reasons: it removes the edges between images of an atom "
                "(add_self_loops must be false), normalises over all crystals, or has an LSTM"
            )


def degree_histogram(counts: Sequence[int]) -> Tensor:
    """Returns PNA's ``deg``: how many atoms have 0, 1, 2, … neighbours, from a plain list."""
    return torch.tensor(counts, dtype=torch.int64)


def _check_told(edges: str, envelope: str, rule: str) -> None:
    if edges not in KEYWORDS:
        raise ConfigError(f"edges is {edges!r}; {closest(edges, KEYWORDS)}")
    if edges == "weights" and envelope == "none":
        raise ConfigError("edges=weights are the envelope: with envelope=none take edges=none")
    if rule == "composition":
        raise ConfigError("a PyG network needs structures: rule 'composition' has no distances")


def _checked(network: Any, edges: Told) -> nn.Module:
    """Refuses what is no network, or is known to go wrong with edges between images."""
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"network is {network!r}, expected a module: describe it by _target_ and arguments, "
            "such as {_target_: torch_geometric.nn.GAT, in_channels: 64, …}"
        )
    takes = inspect.signature(network.forward).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    keyword = KEYWORDS[edges]
    if keyword and keyword not in takes and not anything:
        raise ConfigError(
            f"{type(network).__name__} takes no {keyword}, only {', '.join(takes)}; set edges= to "
            "what it takes, or write a wrapper of your own (docs/pyg.md)"
        )
    if any(getattr(part, "add_self_loops", False) is True for part in network.modules()):
        raise ConfigError(
            f"{type(network).__name__} adds self loops in place of those it finds, which here "
            "are the bonds between images of one atom: set add_self_loops=false"
        )
    return network


def _blocks(network: nn.Module) -> tuple[str, ...]:
    """Returns the network's own parts, or the network if they do not hold all its parameters."""
    parts = [f"network.{name}" for name in blocks_of(network)]
    held = [p for name in blocks_of(network) for p in network.get_submodule(name).parameters()]
    same = [id(p) for p in held] == [id(p) for p in network.parameters()]
    return tuple(parts) if same else ("network",)


def _crystals(width: int, cutoff: float) -> tuple[tuple[Any, ...], tuple[Any, ...], Tensor]:
    """Returns arguments of ``_states``: a crystal, and its doubled cell beside another crystal.

    In the doubled cell no edge joins an atom to its own images, and atoms and edges are shuffled
    (edges stay sorted by target): copy k of atom a is at ``place[a + k atoms]``, which comes last.
    """
    generator = torch.Generator().manual_seed(0)
    atoms, edges, others = 6, 60, 3
    node = torch.randn(atoms, width, generator=generator)
    ends = torch.randint(atoms, (2, edges), generator=generator)
    ends[1, :atoms] = ends[0, :atoms] = torch.arange(atoms)
    ends = ends[:, ends[1].argsort()]
    distances = cutoff * (0.2 + 0.7 * torch.rand(edges, generator=generator))
    distances.requires_grad_()
    small = (node, ends, distances, torch.zeros(atoms, dtype=torch.int64), 1)

    place = torch.randperm(2 * atoms, generator=generator)
    crossing = torch.randint(2, (edges,), generator=generator)
    crossing[ends[0] == ends[1]] = 1
    doubled = [torch.stack([ends[0] + atoms * (crossing ^ k), ends[1] + atoms * k]) for k in (0, 1)]
    ring = 2 * atoms + torch.stack([torch.arange(others), torch.arange(others).roll(1)])
    everything = torch.cat([place[torch.cat(doubled, dim=1)], ring], dim=1)
    lengths = torch.cat([distances, distances, torch.full((others,), 0.5 * cutoff)])
    order = torch.randperm(everything.shape[1], generator=generator)
    order = order[everything[1, order].argsort(stable=True)]
    large = (
        torch.cat([node.repeat(2, 1)[place.argsort()], torch.ones(others, width)]),
        everything[:, order],
        lengths[order],
        torch.arange(2 * atoms + others) // (2 * atoms),
        2,
    )
    return small, large, place
