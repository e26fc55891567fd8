"""Published weights of CGCNN and of the models made from its code: CrysXPP, CrysGNN, Crystal Twins.

Sources: github.com/txie-93/cgcnn, kdmsit/crysxpp, kdmsit/crysgnn, RishikeshMagar/Crystal-Twins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from epitaxy.errors import CheckpointError
from epitaxy.foreign.published import PublishedModel, Rule, Unused, count, renamed, shape, task_of

ATOM_FEATURES = 92
INPUT = {"radius": 8.0, "max_neighbors": 12, "dmin": 0.0, "step": 0.2}
"""What the authors' code builds graphs with unless told otherwise (Å)."""
CRYSGNN = {
    "feature_weight": 0.25,
    "connectivity_weight": 0.25,
    "space_group_weight": 0.25,
    "contrast_weight": 0.25,
}
"""What CrysGNN's code trains its decoders with."""
CRYSXPP = {
    "feature_weight": 0.1,
    "connectivity_weight": 0.9,
    "space_group_weight": 0.0,
    "contrast_weight": 0.0,
    "reduction": "per_crystal",
}
"""What CrysXPP's code trains its auto-encoder with."""
_DROPOUT = 0.5
"""Of CGCNN's classifiers."""

_CONVOLUTIONS = (
    Rule(r"embedding\.(weight|bias)", r"encoder.embedding.\1"),
    Rule(r"convs\.(\d+)\.fc_full\.(weight|bias)", r"encoder.interaction.\1.linear.\2"),
    Rule(r"convs\.(\d+)\.bn1\.(\w+)", r"encoder.interaction.\1.edge_norm.\2"),
    Rule(r"convs\.(\d+)\.bn2\.(\w+)", r"encoder.interaction.\1.node_norm.\2"),
)
_DECODERS = (
    Rule(r"fc_adj\.(weight|bias)", r"head.connectivity.bilinear.\1"),
    Rule(r"fc1\.(weight|bias)", r"head.connectivity.out.\1"),
    Rule(r"fc_atom_feature\.(weight|bias)", r"head.features.out.\1"),
    Rule(r"fc_sg\.(weight|bias)", r"head.space_group.\1"),
)


def import_cgcnn(
    weights: Mapping[str, Tensor],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    graph: Mapping[str, Any] | None = None,
) -> PublishedModel:
    """Returns the CGCNN or CrysXPP whose parameters are ``weights``; shapes tell its size.

    Args:
        weights: Parameters and batch-norm statistics under the authors' names.
        mean: Of the authors' label normaliser.
        std: Of the authors' label normaliser.
        graph: ``radius`` (Å), ``max_neighbors``, ``dmin`` (Å, first Gaussian) and ``step`` (Å,
            to the next one) if they differ from 8, 12, 0 and 0.2.

    Raises:
        CheckpointError: If a name is foreign to CGCNN or a shape does not fit the others.
    """
    selects = "mask" in weights
    family = "CrysXPP" if selects else "CGCNN"
    rules = (
        *_CONVOLUTIONS,
        Rule("mask", "encoder.selector.weight"),
        Rule(r"conv_to_fc\.(weight|bias)", r"head.scalar.hidden.0.\1"),
        Rule(r"fc_out\.(weight|bias)", r"head.scalar.out.\1"),
        *(Rule(rf"fcs\.{n}\.(weight|bias)", rf"head.scalar.hidden.{n + 1}.\1") for n in range(99)),
    )
    state, unused = renamed(weights, family, rules, ())
    hidden = shape(weights, "conv_to_fc.weight", family)[0]
    outputs = shape(weights, "fc_out.weight", family)[0]
    depth = 1 + count(weights, r"fcs\.(\d+)\.weight", family)
    head = {**_head((hidden,) * depth, outputs), "activate_input": True}
    if outputs > 1:
        head["dropout"] = _DROPOUT
    encoder = _encoder(weights, family, graph)
    if selects:
        encoder["feature_selector"] = True
    return PublishedModel(family, encoder, head, state, mean, std, task_of(outputs), unused)


def import_crystal_twins(
    weights: Mapping[str, Tensor],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    graph: Mapping[str, Any] | None = None,
) -> PublishedModel:
    """Returns the Crystal Twins encoder, with the head that the file has.

    That is the projector of pre-training by Barlow Twins, or the head of a fine-tuned model.

    Args:
        weights: Parameters and batch-norm statistics under the authors' names.
        mean: Of the authors' label normaliser.
        std: Of the authors' label normaliser.
        graph: As for ``import_cgcnn``.

    Raises:
        CheckpointError: If a name is foreign to Crystal Twins or a shape does not fit.
    """
    family = "Crystal Twins"
    tuned = "fc_out.2.weight" in weights
    rules = (
        *_CONVOLUTIONS,
        Rule(r"conv_to_fc\.(weight|bias)", r"encoder.crystal.\1"),
        Rule(r"fc_out\.0\.(weight|bias)", r"head.scalar.hidden.0.\1"),
        Rule(r"fc_out\.2\.(weight|bias)", r"head.scalar.out.\1"),
        Rule(r"fc_head\.0\.(weight|bias)", r"head.projector.hidden.0.\1"),
        Rule(r"fc_head\.2\.(weight|bias)", r"head.projector.out.\1"),
    )
    projector = Unused(r"fc_head\.\d\.\w+", "projection head, read in pre-training only")
    state, unused = renamed(weights, family, rules, (projector,) if tuned else ())
    encoder = _encoder(weights, family, graph)
    encoder["crystal_width"] = shape(weights, "conv_to_fc.weight", family)[0]
    if not tuned:
        objective = _barlow_twins(weights, family)
        return PublishedModel(family, encoder, {}, state, unused=unused, objective=objective)
    outputs = shape(weights, "fc_out.2.weight", family)[0]
    head = _head((shape(weights, "fc_out.0.weight", family)[0],), outputs)
    return PublishedModel(family, encoder, head, state, mean, std, task_of(outputs), unused)


def import_crysgnn(
    weights: Mapping[str, Tensor],
    *,
    unit_length: bool | None = None,
    graph: Mapping[str, Any] | None = None,
) -> PublishedModel:
    """Returns CrysGNN or CrysXPP's auto-encoder, to be trained further as its authors did.

    A file without decoders gives the encoder alone.

    Args:
        weights: Parameters and batch-norm statistics under the authors' names.
        unit_length: Whether states of atoms end up with length 1 (CrysGNN) or not (CrysXPP's
            auto-encoder); if not given, the decoder of space groups tells, which only CrysGNN has.
        graph: As for ``import_cgcnn``.

    Raises:
        CheckpointError: If a name is foreign to these models or a shape does not fit.
    """
    family = "CrysGNN"
    state, unused = renamed(weights, family, (*_CONVOLUTIONS, *_DECODERS), ())
    encoder = _encoder(weights, family, graph)
    tells_space_groups = "fc_sg.weight" in weights
    encoder["embedding_bias"] = "embedding.bias" in weights
    encoder["unit_length"] = tells_space_groups if unit_length is None else unit_length
    objective = {}
    if any(name.startswith("head.") for name in state):
        objective = {
            "_target_": "epitaxy.objectives.crysgnn.CrysGNN",
            **(CRYSGNN if tells_space_groups else CRYSXPP),
            "cutoff": encoder["cutoff"],
            "max_neighbors": encoder["max_neighbors"],
            "padding": encoder["padding"],
        }
    return PublishedModel(family, encoder, {}, state, unused=unused, objective=objective)


def _barlow_twins(weights: Mapping[str, Tensor], family: str) -> dict[str, Any]:
    """Returns the objective that the projector belongs to, if there is one."""
    if not any(name.startswith("fc_head.") for name in weights):
        return {}
    return {
        "_target_": "epitaxy.objectives.barlow_twins.BarlowTwins",
        "hidden": (shape(weights, "fc_head.0.weight", family)[0],),
        "width": shape(weights, "fc_head.2.weight", family)[0],
        "activation": "softplus",
        "unit_length": True,
        "perturb": 0.0,  # as in the authors' code, unlike their paper
    }


def _encoder(
    weights: Mapping[str, Tensor], family: str, graph: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the configuration that sizes and graph describe."""
    width, features = shape(weights, "embedding.weight", family)
    if features != ATOM_FEATURES:
        raise CheckpointError(
            f"embedding.weight has shape {(width, features)}: expected {ATOM_FEATURES} element "
            "features, those of the authors' atom_init.json"
        )
    settings = {**INPUT, **(graph or {})}
    num_basis = shape(weights, "convs.0.fc_full.weight", family)[1] - 2 * width
    _check_basis(num_basis, settings)
    return {
        "_target_": "epitaxy.encoders.cgcnn.CGCNN",
        "width": width,
        "layers": count(weights, r"convs\.(\d+)\.fc_full\.weight", family),
        "rule": "nearest",
        "cutoff": float(settings["radius"]),
        "max_neighbors": int(settings["max_neighbors"]),
        "padding": "index0",
        "num_basis": num_basis,
        "basis_start": float(settings["dmin"]),
        "basis_width": 1.0,
        "envelope": "none",
        "message_scale": 1.0,
        "norm": "batch",
        "core_activation": "softplus",
        "outer_activation": "softplus",
    }


def _check_basis(count: int, settings: Mapping[str, Any]) -> None:
    """Refuses Gaussians that do not go from ``dmin`` to the radius in the given steps."""
    start, step, radius = (float(settings[name]) for name in ("dmin", "step", "radius"))
    last = start + step * (count - 1)
    if abs(last - radius) > 1e-6:
        raise CheckpointError(
            f"the weights read {count} Gaussians, from {start:g} Å to {last:g} Å in steps of "
            f"{step:g} Å, but the radius is {radius:g} Å. If it is {last:g} Å, give "
            f"options={{radius: {last:g}}}; dmin and step are further options. Models whose last "
            "Gaussian is not at the radius cannot be imported"
        )


def _head(hidden: tuple[int, ...], outputs: int) -> dict[str, Any]:
    return {
        "hidden": hidden,
        "activation": "softplus",
        "order": "early",
        "outputs": outputs,
    }
