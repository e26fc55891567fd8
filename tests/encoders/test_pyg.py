"""Networks of PyTorch Geometric as encoders, and everything that docs/pyg.md says of them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.app.cli import main
from epitaxy.app.compose import compose
from epitaxy.build import build
from epitaxy.data.convert import prepare
from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.predict.predictor import Predictor
from epitaxy.train.checkpoint import build_model, load_model, save_model

# PyG calls torch.jit.script on import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
PYG = "torch_geometric.nn."
SCHNET = {"_target_": "PeriodicSchNet", "width": 16, "layers": 2, "cutoff": 4.0}


def pyg(network: Any, **changes: Any) -> dict[str, Any]:
    base = {"in_channels": 16, "out_channels": 16, "num_basis": 8, "cutoff": 4.0}
    target = {"_target_": "epitaxy.encoders.pyg.PyGEncoder"}
    return {**target, **base, "network": network, **changes}


def model(name: str, **arguments: Any) -> dict[str, Any]:
    sizes = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "out_channels": 16}
    return {"_target_": PYG + name, **sizes, "act": "silu", **arguments}


def chain(*layers: Any, told: str = "edge_attr") -> dict[str, Any]:
    """Message-passing layers with a silu after each."""
    names = f"x, edge_index, {told}"
    steps: list[Any] = []
    for layer in layers:
        steps += [(layer, f"{names} -> x"), {"_target_": "torch.nn.SiLU"}]
    return {"_target_": PYG + "Sequential", "input_args": names, "modules": steps}


def layer(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": PYG + name, **arguments}


MLP = layer("MLP", channel_list=[16, 16, 16], norm=None, act="silu")
DEGREES = {"_target_": "epitaxy.encoders.pyg.degree_histogram", "counts": [0, 0, 3, 12, 7]}
WIDE = {"in_channels": 16, "out_channels": 16}
ENCODERS = {
    "schnet": SCHNET,
    "gat": pyg(model("GAT", heads=4, edge_dim=8, add_self_loops=False)),
    "gatv2": pyg(model("GAT", v2=True, edge_dim=8, add_self_loops=False, norm="GraphNorm")),
    "pna": pyg(
        model("PNA", edge_dim=8, deg=DEGREES, aggregators=["mean", "std", "max"])
        | {"scalers": ["identity", "amplification"]}
    ),
    "transformer": pyg(chain(*[layer("TransformerConv", **WIDE, edge_dim=8)] * 2)),
    "gine": pyg(chain(*[layer("GINEConv", nn=MLP, edge_dim=8)] * 2)),
    "crystal_graph": pyg(chain(*[layer("CGConv", channels=16, dim=8)] * 2)),
    "gcn": pyg(model("GCN", add_self_loops=False), edges="weights"),
    "graph_conv": pyg(chain(layer("GraphConv", **WIDE), told="edge_weight"), edges="weights"),
    "gin": pyg(model("GIN"), edges="none"),
    "whole_shells": pyg(
        model("GAT", edge_dim=8, add_self_loops=False), rule="nearest", max_neighbors=6
    ),
}
SMOOTH = ("schnet", "transformer", "crystal_graph", "gcn", "graph_conv")
"""Networks without kinks: those of max, std and leaky attention have no derivative everywhere."""


def page(repository: Path, language: str) -> list[str]:
    text = (repository / "docs/pyg.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def make(repository: Path) -> Any:
    """Builds encoders in fp64 and eval mode; SchNet is the one that the page shows."""

    def built(config: dict[str, Any]) -> Any:
        torch.manual_seed(0)
        if config["_target_"] != "PeriodicSchNet":
            return build(config).double().eval()
        names: dict[str, Any] = {"__name__": "periodic_schnet"}
        exec(page(repository, "python")[0], names)
        arguments = {key: value for key, value in config.items() if key != "_target_"}
        return names["PeriodicSchNet"](**arguments).double().eval()

    return built


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, make: Any) -> Any:
    return make(ENCODERS[request.param])


@pytest.fixture
def examples(crystals: Any) -> list[CrystalRecord]:
    """The first and the last have bonds between images of one atom."""
    return [crystals.triclinic(1, 4), crystals.triclinic(2, 6), crystals.triclinic(3, 1)]


def states(encoder: Any, *records: CrystalRecord) -> torch.Tensor:
    with torch.no_grad():
        return encoder(collate(records, [encoder.spec], (), torch.float64)).node


def test_it_is_an_encoder(encoder, examples):
    assert isinstance(encoder, Encoder)
    assert {"rotation", "translation", "permutation", "supercell", "unit_cell"} <= (
        encoder.invariances
    )
    node = states(encoder, *examples)
    assert node.shape == (11, encoder.node_width)
    assert node.std(0).max() > 1e-3


def test_a_batch_equals_its_crystals(encoder, examples):
    singly = torch.cat([states(encoder, record) for record in examples])
    torch.testing.assert_close(states(encoder, *examples), singly, **CLOSE)


def test_orientation_origin_and_numbering_do_not_matter(encoder, examples):
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    for record in examples:
        order = rng.permutation(record.num_atoms)
        other = CrystalRecord(
            "other",
            record.numbers[order],
            (record.positions[order] + [1.3, -7.7, 22.1]) @ turn,
            record.cell @ turn,
        )
        expected = states(encoder, record)[torch.from_numpy(order)]
        torch.testing.assert_close(states(encoder, other), expected, **CLOSE)


def test_the_choice_of_cell_does_not_matter(encoder, examples, crystals):
    """A supercell, another cell of the lattice, and copper: in its primitive cell every bond is
    one between images of one atom, in the cubic cell of four none is."""
    for record in examples:
        larger = CrystalRecord(
            "larger",
            np.tile(record.numbers, 2),
            np.concatenate([record.positions, record.positions + record.cell[1]]),
            record.cell * np.array([[1.0], [2.0], [1.0]]),
        )
        expected = states(encoder, record)
        torch.testing.assert_close(states(encoder, larger), expected.repeat(2, 1), **CLOSE)
        sheared = record.replace(cell=np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ record.cell)
        torch.testing.assert_close(states(encoder, sheared), expected, **CLOSE)
    primitive, cubic = crystals.fcc(), crystals.fcc(primitive=False)
    graph = collate([primitive], [encoder.spec]).graph(encoder.spec)
    assert torch.equal(graph.source, graph.target)
    assert graph.num_edges == (12 if encoder.spec.rule == "nearest" else 18)
    expected = states(encoder, primitive).repeat(4, 1)
    torch.testing.assert_close(states(encoder, cubic), expected, **CLOSE)


def test_every_parameter_gets_a_gradient(encoder, examples):
    node = encoder(collate(examples, [encoder.spec], (), torch.float64)).node
    weights = torch.randn(node.shape, generator=torch.Generator().manual_seed(0)).to(node)
    (node * weights).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_its_blocks_hold_all_of_its_parameters_in_order(encoder):
    by_block = [
        f"{block}.{name}"
        for block in encoder.blocks
        for name, _ in encoder.get_submodule(block).named_parameters()
    ]
    assert by_block == [name for name, _ in encoder.named_parameters()]
    assert len(encoder.blocks) > 1


def test_an_empty_batch_is_legal(encoder):
    for training in (False, True):
        node = encoder.train(training)(collate([], [encoder.spec], (), torch.float64)).node
        assert node.shape == (0, encoder.node_width)
        node.sum().backward()


@pytest.mark.parametrize("name", SMOOTH)
def test_forces_are_derivatives_of_the_energy(make, examples, name):
    """Five-point differences at fixed edges, relative to the largest force."""
    encoder = make(ENCODERS[name])
    assert "position_grad" in encoder.provides
    batch = collate(examples[:2], [encoder.spec], (), torch.float64)
    weights = torch.randn(16, generator=torch.Generator().manual_seed(1)).double()

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return (encoder(batch.replace(positions=positions, cell=cell)).node @ weights).sum()

    places = (batch.positions.clone().requires_grad_(), batch.cell.clone().requires_grad_())
    slopes = torch.autograd.grad(energy(*places), places)
    step, stencil = 3e-4, {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    rng = np.random.default_rng(0)
    for which, slope in enumerate(slopes):
        for _ in range(6):
            move = torch.from_numpy(rng.normal(size=slope.shape))
            total = 0.0
            for k, factor in stencil.items():
                moved = [p + k * step * move if i == which else p for i, p in enumerate(places)]
                total += factor * float(energy(*moved).detach())
            error = abs(float((slope * move).sum()) - total / step)
            assert error <= 1e-6 * float(slope.abs().max())


def test_schnet_is_smooth_at_the_cutoff(make):
    """Two atoms that part: their states and the slopes of these end up as those of lone atoms."""
    encoder = make(SCHNET)
    assert "smooth_cutoff" in encoder.invariances

    def dimer(distance: float) -> torch.Tensor:
        ends = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
        return states(encoder, CrystalRecord("d", [8, 26], ends, np.zeros((3, 3)), np.zeros(3)))

    step = 1e-5
    values = torch.stack([dimer(4.0 + k * step) for k in range(-3, 4)])
    slopes = values.diff(dim=0) / step
    assert slopes.abs().max() < 1e-5
    assert slopes.diff(dim=0).abs().max() < 1e-5
    assert (dimer(1.6) - values[-1]).abs().max() > 1e-3


def test_distances_matter_unless_they_are_not_told(make, crystals):
    near = crystals.triclinic(1, 4)
    far = near.replace(positions=near.positions * 1.0001, cell=near.cell * 1.0001)
    for name, config in ENCODERS.items():
        encoder = make(config)
        same = torch.equal(states(encoder, near), states(encoder, far))
        assert same == (name == "gin")
        assert ("position_grad" in encoder.provides) == (name not in ("gin", "whole_shells"))


@pytest.mark.parametrize(("name", "told"), [("gat", "edge_attr"), ("gcn", "edge_weight")])
def test_what_a_network_is_told_of_an_edge_fades_with_it(make, crystals, name, told):
    encoder = make(ENCODERS[name])
    batch = collate([crystals.triclinic(1, 4)], [encoder.spec], dtype=torch.float64)
    u = batch.distances(encoder.spec) / 4.0
    faded = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
    heard: list[torch.Tensor] = []
    encoder.network.register_forward_pre_hook(
        lambda module, given, named: heard.append(named[told]), with_kwargs=True
    )
    encoder(batch)
    if told == "edge_attr":
        faded = encoder.basis(4.0 * u) * faded[:, None]
    torch.testing.assert_close(heard[0], faded, **CLOSE)


def test_batch_statistics_couple_crystals(make):
    norm = {"norm": "BatchNorm"}
    assert make(pyg(model("GAT", edge_dim=8, add_self_loops=False, **norm))).couples_records
    assert not make(ENCODERS["gat"]).couples_records


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (pyg(model("GAT", edge_dim=8)), "GAT adds self loops .* set add_self_loops=false"),
        (pyg(model("GCN"), edges="weights"), "GCN adds self loops"),
        (pyg(model("GAT", add_self_loops=False)), "GAT ignores edge_attr: give it edge_dim"),
        (pyg(model("GIN")), "GIN ignores edge_attr: .* or edges=none"),
        (
            pyg(model("GAT", edge_dim=7, add_self_loops=False)),
            r"GAT cannot be called .* edge_attr .* num_basis=8 its edge_dim",
        ),
        (pyg(model("GIN"), edges="none", in_channels=8), r"x \(atoms, 8\).* in_channels must be"),
        (pyg(model("GIN"), edges="none", out_channels=8), r"returns \(6, 16\) .* out_channels=8"),
        (
            pyg(model("GCN", add_self_loops=False, cached=True), edges="weights"),
            "gives an atom another state in a larger cell",
        ),
        (pyg(model("GraphSAGE", aggr="lstm"), edges="none"), "another state .* or has an LSTM"),
        (
            pyg(chain(layer("ChebConv", **WIDE, K=2), told="edge_weight"), edges="weights"),
            "Sequential gives an atom another state",
        ),
        (pyg(layer("SchNet")), "SchNet takes no edge_attr, only z, pos, batch"),
        (pyg("GAT"), "network is 'GAT', expected a module"),
        (pyg(model("GIN"), edges="weight"), "edges is 'weight'; did you mean 'weights'"),
        (pyg(model("GCN"), edges="weights", envelope="none"), "take edges=none"),
        (pyg(model("GIN"), edges="none", rule="composition"), "needs structures"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_trying_a_network_leaves_it_as_it_was():
    """Its batch statistics, its mode, and the random numbers that come next."""
    config = pyg(model("GAT", edge_dim=8, add_self_loops=False, norm="BatchNorm"))
    network = build(config["network"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(1)
    embedding, following = torch.randn(119, 16), torch.rand(3)
    torch.manual_seed(1)
    encoder = build({**config, "network": network})
    assert torch.equal(encoder.embedding.weight, embedding)
    assert torch.equal(torch.rand(3), following)
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_saved_model_is_loaded_only_with_the_users_word(examples, tmp_path):
    config = ENCODERS["transformer"]
    goal = {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "energy",
        "hidden": [8],
    }
    objective = build(goal)
    statistics = {"mean": {"energy": 0.0}, "std": {"energy": 1.0}, "units": {"energy": "eV"}}
    torch.manual_seed(0)
    saved = build_model(build(config), objective).double().eval()
    save_model(tmp_path / "m", saved, config, goal, objective, {"statistics": statistics})
    with pytest.raises(ConfigError, match=r"'torch_geometric\.nn\.Sequential' is refused: only"):
        Predictor(tmp_path / "m")
    loaded, _, _ = load_model(tmp_path / "m", trusted_only=False)
    assert torch.equal(states(loaded.encoder, *examples), states(saved.encoder, *examples))


def test_what_the_page_prints_is_true(repository):
    names: dict[str, Any] = {"__name__": "page"}
    printed, promised = io.StringIO(), []
    for block in page(repository, "python"):
        promised += re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        with contextlib.redirect_stdout(printed):
            exec(block, names)
    assert printed.getvalue().splitlines() == promised
    assert len(promised) == 9


def test_the_pages_commands_work(repository, crystals, tmp_path, epitaxy_home, monkeypatch, capsys):
    """Its YAML and its options, on a data set of forty crystals."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/encoder").mkdir(parents=True)
    (tmp_path / "mine/encoder/gat.yaml").write_text(page(repository, "yaml")[0], "utf-8")
    prepare(crystals.many(40, max_atoms=3), tmp_path / "data/frames", progress=False)
    lines = [line.split() for line in page(repository, "bash")[0].splitlines()]
    train, evaluate = ([word.strip('"') for word in line[1:]] for line in lines[1:])
    small = ["encoder.in_channels=8", "encoder.out_channels=8", "encoder.network.hidden_channels=8"]
    assert main([*train, *small, "compute=local", "tracking=null"]) == 0
    wide = compose("pretrain", ["encoder=gat", "data=d", "run.name=r"], ["mine"]).config["encoder"]
    assert build(wide).network.convs[0].edge_dim == wide["num_basis"] == 32
    where = f"model={epitaxy_home}/runs/gat/final"
    evaluate = [where if word.startswith("model=") else word for word in evaluate]
    trusting = [word for word in evaluate if not word.startswith("split=")]
    assert main([*trusting, "split=all"]) == 0
    capsys.readouterr()
    assert main([word for word in evaluate if not word.startswith("trust=")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    shown = " ".join(page(repository, "text")[0].split())
    assert message.replace(f"{epitaxy_home}/runs/gat/final", "…") == shown
