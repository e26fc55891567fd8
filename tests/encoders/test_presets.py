"""Sizes and parts of the presets: names that checkpoints, freezing and transfer rely on."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from epitaxy.heads.scalar import ScalarHead, head_input

BLOCKS = {
    "alignn": "embedding bond_embedding angle_embedding interaction:4",
    "alignn_paper": "embedding bond_embedding angle_embedding interaction:8",
    "cgcnn": "embedding interaction:3",
    "cgcnn_attention": "embedding interaction:3",
    "cgcnn_attention_paper": "embedding interaction:4",
    "cgcnn_mdl": "embedding interaction:4",
    "cgcnn_mdl_paper": "embedding interaction:4",
    "cgcnn_paper": "embedding interaction:4",
    "crysgnn": "embedding interaction:5",
    "crysgnn_paper": "embedding interaction:5",
    "crystal_twins": "embedding interaction:3 crystal",
    "crystal_twins_paper": "embedding interaction:3 crystal",
    "crysxpp": "selector embedding interaction:3",
    "crysxpp_paper": "selector embedding interaction:3",
    "gatgnn": "embedding edge_embedding interaction:3 attention",
    "gatgnn_paper": "embedding edge_embedding interaction:3 attention",
    "roost": "embedding interaction:3 pool:3 trunk",
    "roost_paper": "embedding interaction:3 pool:3 trunk",
    "tensornet": "basis embedding interaction:2 readout",
    "tensornet_paper": "basis embedding interaction:3 readout",
    "torchmd_et": "basis embedding neighbors interaction:4 out_norm",
    "torchmd_et_paper": "basis embedding neighbors interaction:8 out_norm",
}

CGCNN_HEAD = {"activation": "softplus", "activate_input": True, "order": "early"}
SIZES = [
    # (preset, arguments of its head or None, parameters of the original, of which do nothing)
    ("cgcnn_paper", {"hidden": (32,), **CGCNN_HEAD}, 96_641, 0),
    ("cgcnn_paper", {"hidden": (32,), "outputs": 2, **CGCNN_HEAD}, 96_674, 0),
    ("cgcnn_mdl_paper", {"hidden": (150, 150, 150), "order": "early"}, 271_501, 0),
    ("cgcnn_attention_paper", {"hidden": (32,), **CGCNN_HEAD}, 52_609, 0),
    ("crysgnn_paper", None, 116_608, 0),
    ("crysxpp_paper", {"hidden": (128,), **CGCNN_HEAD}, 80_925, 0),
    # Three activations that are never called, the composition's embedding, the other attention.
    ("gatgnn_paper", {"hidden": (64, 64), "order": "early"}, 134_154, 3 + 6_656 + 4_621),
    ("alignn_paper", {"hidden": (), "order": "early"}, 4_026_753, 0),
    ("torchmd_et_paper", None, 1_726_308, 0),
    ("torchmd_et_paper", {"hidden": (128, 128), "order": "early"}, 1_759_461, 0),
    (
        "roost_paper",
        {"hidden": (128, 64), "order": "early", "residual": True, "activation": "relu"},
        2_302_096,
        0,
    ),
    (
        "roost_paper",
        {
            "hidden": (128, 64),
            "order": "early",
            "residual": True,
            "activation": "relu",
            "outputs": 2,
        },
        2_302_161,
        0,
    ),
]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_frozen(name: str, preset: Any) -> None:
    expected: list[str] = []
    for part in BLOCKS[name].split():
        stem, _, count = part.partition(":")
        expected += [f"{stem}.{n}" for n in range(int(count))] if count else [stem]
    assert preset(name).blocks == tuple(expected)


@pytest.mark.parametrize(("name", "head", "original", "idle"), SIZES)
def test_the_paper_presets_have_the_size_of_the_originals(
    name: str, head: dict[str, Any] | None, original: int, idle: int, preset: Any, parameters: Any
) -> None:
    encoder = preset(name)
    modules: list[nn.Module] = [encoder]
    if head is not None:
        modules.append(ScalarHead(head_input(encoder, head["order"])[1], **head))
    assert parameters(*modules) == original - idle


def test_batch_norm_adds_two_hundred_parameters_per_layer(preset: Any, parameters: Any) -> None:
    head = ScalarHead(100, (150, 150, 150))
    assert parameters(preset("cgcnn_mdl_paper", norm="batch"), head) == 272_301


RECOMMENDED = sorted(name for name in BLOCKS if not name.endswith("_paper"))


@pytest.mark.parametrize("name", RECOMMENDED)
def test_recommended_presets_keep_every_symmetry_and_train_anywhere(name: str, preset: Any) -> None:
    encoder = preset(name)
    everything = {"rotation", "translation", "permutation", "supercell", "unit_cell"}
    assert everything <= encoder.invariances
    assert not encoder.couples_records
    if name != "roost":
        assert "smooth_cutoff" in encoder.invariances
        assert "position_grad" in encoder.provides
