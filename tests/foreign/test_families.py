"""Every published model, of sizes other than the published ones: nothing lost, nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published_weights as made
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from epitaxy.build import build
from epitaxy.errors import CheckpointError, ConfigError
from epitaxy.foreign.checkpoint import read_checkpoint
from epitaxy.foreign.family import FAMILIES, family_of, import_weights
from epitaxy.foreign.published import PublishedModel
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import ScalarHead, head_input

Case = tuple[str, made.Shapes, dict[str, Any]]
CASES: dict[str, Case] = {
    "cgcnn": ("cgcnn", made.cgcnn(), {}),
    "cgcnn-deep": ("cgcnn", made.cgcnn(3, 4, 7, counted=True), {}),
    "cgcnn-n_h-3": ("cgcnn", made.cgcnn(more=2), {}),
    "cgcnn-classes": ("cgcnn", made.cgcnn(outputs=2), {}),
    "cgcnn-radius": ("cgcnn", made.cgcnn(gaussians=31), {"graph": {"radius": 6.0}}),
    "crysxpp": ("crysxpp", made.cgcnn(5, 3, 4, mask=True, counted=True), {}),
    "crystal_twins": ("crystal_twins", made.crystal_twins(5, 3), {}),
    "crystal_twins-tuned": ("crystal_twins", made.crystal_twins(outputs=1), {}),
    "crystal_twins-classes": ("crystal_twins", made.crystal_twins(outputs=2), {}),
    "crysgnn": ("crysgnn", made.crysgnn(5, 3), {}),
    "crysgnn-bias": ("crysgnn", made.crysgnn(bias=True), {}),
    "crysae": ("crysgnn", made.crysgnn(space_groups=False), {}),
    "cgcnn_mdl": ("cgcnn_mdl", made.cgcnn_mdl(), {}),
    "cgcnn_mdl-norm": ("cgcnn_mdl", made.cgcnn_mdl(5, 3, (7,), norm="bn_list.{}"), {}),
    "cgcnn_mdl-pyg": ("cgcnn_mdl", made.cgcnn_mdl(norm="bn_list.{}.module"), {}),
    "torchmd_et": ("torchmd_et", made.torchmd_et(), {"heads": 4}),
    "torchmd_et-deep": ("torchmd_et", made.torchmd_et(6, 3, (5, 4), rows=80), {"heads": 2}),
    "alignn": ("alignn", made.alignn(), {}),
    "alignn-deep": ("alignn", made.alignn(5, 4, angular=3, plain=2, bonds=9, angles=7), {}),
    "alignn-angular": ("alignn", made.alignn(plain=0), {}),
    "gatgnn": ("gatgnn", made.gatgnn(), {}),
    "gatgnn-cluster": ("gatgnn", made.gatgnn(5, 3, 2), {"attention": "cluster_fixed"}),
    "roost": ("roost", made.roost(), {}),
    "roost-deep": ("roost", made.roost(5, 3, 3, gate=(4, 3), message=(6, 5), trunk=(8,)), {}),
    "roost-cgcnn-features": ("roost", made.roost(features=92), {}),
    "roost-robust": ("roost", made.roost(outputs=2), {"robust": True}),
}
REFERENCES: dict[str, made.Shapes] = {
    "cgcnn/weights/formation-energy-per-atom": made.cgcnn(64, 4, 32),
    "crysxpp/weights": made.cgcnn(64, 3, 128, mask=True, counted=True),
    "crysae_5conv/weights": made.crysgnn(64, 5, space_groups=False),
    "cgcnn_mdl/weights": made.cgcnn_mdl(100, 4, (150, 150, 150), gaussians=50),
    "torchmd_et/weights": made.torchmd_et(64, 3, (64, 64), functions=50),
    "alignn/weights": made.alignn(64, 32, angular=2, plain=2),
    "gatgnn/weights": made.gatgnn(64, 3, 4),
    "roost/weights": made.roost(
        64, 3, 3, gate=(64,), message=(48,), trunk=(128, 96), hidden=(48, 32)
    ),
}
TABLE = "encoder.features.table"


def assembled(published: PublishedModel) -> Model:
    """The model that the importer describes, with its weights."""
    encoder = build(published.encoder)
    heads = build(published.objective).heads(encoder) if published.objective else {}
    if published.head:
        _, width = head_input(encoder, published.head["order"])
        heads["scalar"] = ScalarHead(width, **published.head)
    model = Model(encoder, heads)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name == TABLE}
    model.load_state_dict(fresh | published.state, strict=True)
    return model


def shapes_of(weights: dict[str, Tensor]) -> made.Shapes:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_number_lands_exactly_once(name: str) -> None:
    family, shapes, settings = CASES[name]
    given = made.numbered(shapes)
    published = import_weights(given, family, **settings)
    model = assembled(published)
    counters = {new for new in published.state if new.endswith("num_batches_tracked")}
    added = set() if any("tracked" in old for old in given) else counters
    landed = [
        tensor.flatten().double()
        for new, tensor in model.state_dict().items()
        if new not in added and not (new == TABLE and TABLE not in published.state)
    ]
    used = [
        tensor.flatten().double() for old, tensor in given.items() if old not in published.unused
    ]
    expected, found = torch.cat(used), torch.cat(landed)
    assert torch.equal(found.sort().values, expected.sort().values)


def test_a_robust_classifier_keeps_its_logits() -> None:
    given = made.drawn(made.roost(outputs=4))
    published = import_weights(given, "roost", robust=True)
    assert (published.task, published.robust, published.head["outputs"]) == (
        "classification",
        False,
        2,
    )
    logits = given["output_nns.0.fc_out.weight"][:2]
    assert torch.equal(published.state["head.scalar.out.weight"], logits)
    assert list(published.unused.values()) == ["logarithm of the model's own error estimate"]


@pytest.mark.parametrize("name", CASES)
def test_the_family_is_told_by_the_names(name: str) -> None:
    family, shapes, _ = CASES[name]
    weights = made.drawn(shapes)
    assert family_of(weights) == family
    shuffled = dict(reversed(weights.items()))
    assert family_of(shuffled) == family


def test_every_family_is_tried() -> None:
    assert {family for family, _, _ in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", REFERENCES)
def test_names_and_shapes_are_those_of_the_original(name: str, reference_dir: Path) -> None:
    assert REFERENCES[name] == shapes_of(load_file(reference_dir / f"{name}.safetensors"))


def test_crystal_twins_has_these_names(data_dir: Path) -> None:
    found = read_checkpoint(str(data_dir / "checkpoints/crystal_twins_barlow.pth"))
    assert shapes_of(dict(found.weights)) == made.crystal_twins(64, 3, 128, embedding=256)


@pytest.mark.parametrize("name", CASES)
def test_a_foreign_name_is_refused(name: str) -> None:
    family, shapes, settings = CASES[name]
    weights = {**made.drawn(shapes), "transformer.wte.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"'transformer.wte.weight' is no parameter of the"):
        import_weights(weights, family, **settings)


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("-deep")])
def test_no_parameter_may_be_missing(name: str) -> None:
    family, shapes, settings = CASES[name]
    given = made.drawn(shapes)
    whole = import_weights(given, family, **settings)
    # Without them these are models of the same code too: a CrysGNN, and a CGCNN.
    optional = {"crysgnn": {"embedding.bias"}, "crysxpp": {"mask"}}.get(family, set())
    for missing in set(shapes) - set(whole.unused) - optional:
        if missing.endswith("num_batches_tracked"):
            continue
        rest = {old: tensor for old, tensor in given.items() if old != missing}
        with pytest.raises((CheckpointError, ConfigError, RuntimeError)):
            assembled(import_weights(rest, family, **settings))


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_out_has_a_reason(name: str) -> None:
    family, shapes, settings = CASES[name]
    published = import_weights(made.drawn(shapes), family, **settings)
    expected = {
        "cgcnn_mdl": {"distance_expansion.offset"},
        "alignn": {"edge_embedding.0.centers", "angle_embedding.0.centers"},
        "gatgnn": {"node_att.0.prelu.weight", "embed_comp.weight"},
    }.get(family, set())
    assert expected <= set(published.unused)
    assert all(published.unused.values())


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="no family 'cgcn'; did you mean 'cgcnn'"):
        import_weights(made.drawn(made.cgcnn()), "cgcn")
    with pytest.raises(CheckpointError, match=r"\(layer1.weight, …\) are of no model"):
        family_of({"layer1.weight": torch.zeros(2)})


def test_the_wrong_family_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'mask' is no parameter of the published Crystal"):
        import_weights(made.drawn(made.cgcnn(mask=True)), "crystal_twins")
