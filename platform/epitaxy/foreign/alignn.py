"""Weights of ALIGNN (github.com/usnistgov/alignn) under this project's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from epitaxy.foreign.published import PublishedModel, Rule, Unused, count, renamed, shape, task_of

_FAMILY = "ALIGNN"
_GAUSSIANS = Unused(r"(edge|angle)_embedding\.0\.centers", "centres of fixed Gaussians")
_PARTS = {
    "src_gate": "source_gate",
    "dst_gate": "target_gate",
    "edge_gate": "edge_gate",
    "src_update": "keep",
    "dst_update": "send",  # it multiplies the sources' features, despite its name
    "bn_nodes": "node_norm",
    "bn_edges": "edge_norm",
}


def import_alignn(
    weights: Mapping[str, Tensor],
    *,
    repeats: str = "self",
    mean: float = 0.0,
    std: float = 1.0,
) -> PublishedModel:
    """Returns the ALIGNN whose parameters are ``weights``; shapes tell its size.

    Args:
        weights: Parameters and batch-norm statistics under the authors' names.
        repeats: ``self`` for graphs with ``use_canonize``, ``mutual`` for those without.
        mean: Of the training labels.
        std: Of the training labels.

    Raises:
        CheckpointError: If a name is foreign to ALIGNN or a shape does not fit.
    """
    angular = count(weights, r"alignn_layers\.(\d+)\.node_update\.src_gate\.weight", _FAMILY)
    plain = count(weights, r"gcn_layers\.(\d+)\.src_gate\.weight", _FAMILY)
    rules = _rules(angular, plain)
    state, unused = renamed(weights, _FAMILY, rules, (_GAUSSIANS,))
    width, _ = shape(weights, "atom_embedding.layer.0.weight", _FAMILY)
    outputs = shape(weights, "fc.weight", _FAMILY)[0]
    encoder = {
        "_target_": "epitaxy.encoders.alignn.ALIGNN",
        "width": width,
        "embedding_width": shape(weights, "edge_embedding.1.layer.0.weight", _FAMILY)[0],
        "angular": angular,
        "plain": plain,
        "rule": "shell",
        "cutoff": 8.0,
        "max_neighbors": 12,
        "repeats": repeats,
        "self_angles": False,
        "angle_cutoff": None,
        "num_basis": shape(weights, "edge_embedding.1.layer.0.weight", _FAMILY)[1],
        "num_angles": shape(weights, "angle_embedding.1.layer.0.weight", _FAMILY)[1],
        "envelope": "none",
        "floor": 1e-6,
        "norm": "batch",
        "last_updates": True,
    }
    head = {"hidden": (), "order": "early", "pool": "mean", "outputs": outputs}
    return PublishedModel(_FAMILY, encoder, head, state, mean, std, task_of(outputs), unused)


def _rules(angular: int, plain: int) -> list[Rule]:
    rules = [
        Rule(r"atom_embedding\.layer\.(\d)\.(\w+)", r"encoder.embedding.\1.\2"),
        Rule(r"fc\.(weight|bias)", r"head.scalar.out.\1"),
    ]
    for old, new in (("edge_embedding", "bond_embedding"), ("angle_embedding", "angle_embedding")):
        rules += [
            Rule(rf"{old}\.{n}\.layer\.(\d)\.(\w+)", rf"encoder.{new}.{n - 1}.\1.\2")
            for n in (1, 2)
        ]
    for old, new in _PARTS.items():
        rules.append(
            Rule(
                rf"alignn_layers\.(\d+)\.(node_update|edge_update)\.{old}\.(\w+)",
                rf"encoder.interaction.\1.\2.{new}.\3",
            )
        )
        rules += [
            Rule(rf"gcn_layers\.{n}\.{old}\.(\w+)", rf"encoder.interaction.{angular + n}.{new}.\1")
            for n in range(plain)
        ]
    return rules
