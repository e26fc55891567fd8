"""Parameters with the names and shapes of published models, of any size.

Made after the authors' files; ``tests/foreign/test_families.py`` compares them with real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random values that a model can compute with."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) * 0.3
        if name.endswith("running_var"):
            values = values.abs() + 0.5
        if name.endswith("num_batches_tracked"):
            values = torch.tensor(7)
        weights[name] = values
    return weights


def numbered(shapes: Shapes) -> dict[str, Tensor]:
    """Values of which no two are equal, so that one can see where each of them went."""
    weights, first = {}, 1
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        values = torch.arange(first, first + count).reshape(shape)
        weights[name] = values if name.endswith("num_batches_tracked") else values.float()
        first += count
    assert first < 2**24, "fp32 holds no more whole numbers"
    return weights


def linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (outputs, inputs)}
    return {**shapes, f"{name}.bias": (outputs,)} if bias else shapes


def layer_norm(name: str, size: int) -> Shapes:
    return {f"{name}.{kind}": (size,) for kind in ("weight", "bias")}


def batch_norm(name: str, size: int, *, counted: bool = True) -> Shapes:
    moments = {f"{name}.running_{kind}": (size,) for kind in ("mean", "var")}
    counter: Shapes = {f"{name}.num_batches_tracked": ()} if counted else {}
    return {**layer_norm(name, size), **moments, **counter}


def convolutions(width: int, layers: int, gaussians: int, *, counted: bool) -> Shapes:
    shapes: Shapes = {}
    for layer in range(layers):
        block = f"convs.{layer}"
        shapes |= linear(f"{block}.fc_full", 2 * width + gaussians, 2 * width)
        shapes |= batch_norm(f"{block}.bn1", 2 * width, counted=counted)
        shapes |= batch_norm(f"{block}.bn2", width, counted=counted)
    return shapes


def cgcnn(
    width: int = 6,
    layers: int = 2,
    hidden: int = 5,
    *,
    more: int = 0,
    outputs: int = 1,
    gaussians: int = 41,
    mask: bool = False,
    counted: bool = False,
) -> Shapes:
    """CGCNN, and CrysXPP with ``mask``; ``counted`` for files of PyTorch from 0.4.1 on."""
    shapes: Shapes = {"mask": (92,)} if mask else {}
    shapes |= linear("embedding", 92, width)
    shapes |= convolutions(width, layers, gaussians, counted=counted)
    shapes |= linear("conv_to_fc", width, hidden)
    for index in range(more):
        shapes |= linear(f"fcs.{index}", hidden, hidden)
    return shapes | linear("fc_out", hidden, outputs)


def crystal_twins(
    width: int = 6, layers: int = 2, crystal: int = 8, *, embedding: int = 7, outputs: int = 0
) -> Shapes:
    """Pre-trained, or fine-tuned if there are ``outputs``."""
    shapes = linear("embedding", 92, width) | convolutions(width, layers, 41, counted=True)
    shapes |= linear("conv_to_fc", width, crystal)
    if outputs:
        half = linear("fc_out.0", crystal, crystal // 2)
        return shapes | half | linear("fc_out.2", crystal // 2, outputs)
    return shapes | linear("fc_head.0", crystal, crystal) | linear("fc_head.2", crystal, embedding)


def crysgnn(
    width: int = 6, layers: int = 2, *, space_groups: bool = True, bias: bool = False
) -> Shapes:
    """With decoder of space groups CrysGNN, without it CrysXPP's auto-encoder."""
    shapes = linear("embedding", 92, width, bias=bias)
    shapes |= convolutions(width, layers, 41, counted=True)
    shapes |= {"fc_adj.weight": (6, width, width), "fc_adj.bias": (6,)}
    shapes |= linear("fc1", 6, 6) | linear("fc_atom_feature", width, 92)
    return shapes | (linear("fc_sg", width, 230) if space_groups else {})


def cgcnn_mdl(
    width: int = 6,
    layers: int = 2,
    hidden: Sequence[int] = (5, 4),
    *,
    gaussians: int = 9,
    norm: str = "",
) -> Shapes:
    """``norm`` is ``bn_list.{}`` or ``bn_list.{}.module``, as PyTorch or PyG name theirs."""
    shapes: Shapes = linear("pre_lin_list.0", 100, width)
    shapes["distance_expansion.offset"] = (gaussians,)
    for layer in range(layers):
        for half in ("lin_f", "lin_s"):
            shapes |= linear(f"conv_list.{layer}.{half}", 2 * width + gaussians, width)
        if norm:
            shapes |= batch_norm(norm.format(layer), width)
    for index, (inputs, outputs) in enumerate(pairwise((width, *hidden))):
        shapes |= linear(f"post_lin_list.{index}", inputs, outputs)
    return shapes | linear("lin_out", hidden[-1], 1)


def torchmd_et(
    width: int = 8,
    layers: int = 2,
    hidden: Sequence[int] = (6,),
    *,
    functions: int = 9,
    rows: int = 100,
) -> Shapes:
    shapes: Shapes = {f"distance_expansion.{kind}": (functions,) for kind in ("means", "betas")}
    shapes["embedding.weight"] = (rows, width)
    shapes["neighbor_embedding.embedding.weight"] = (rows, width)
    shapes |= linear("neighbor_embedding.distance_proj", functions, width)
    shapes |= linear("neighbor_embedding.combine", 2 * width, width)
    for layer in range(layers):
        block = f"attention_layers.{layer}"
        shapes |= layer_norm(f"{block}.layernorm", width)
        for name, wide in (("q", 1), ("k", 1), ("v", 3), ("o", 3)):
            shapes |= linear(f"{block}.{name}_proj", width, wide * width)
        for name, wide in (("dk", 1), ("dv", 3)):
            shapes |= linear(f"{block}.{name}_proj", functions, wide * width)
        shapes |= linear(f"{block}.vec_proj", width, 3 * width, bias=False)
    shapes |= layer_norm("out_norm", width)
    for index, (inputs, outputs) in enumerate(pairwise((width, *hidden, 1))):
        shapes |= linear(f"post_lin_list.{index}", inputs, outputs)
    return shapes


def alignn(
    width: int = 6,
    embedding: int = 5,
    *,
    angular: int = 1,
    plain: int = 1,
    bonds: int = 80,
    angles: int = 40,
    outputs: int = 1,
) -> Shapes:
    def layer(name: str, inputs: int, width: int) -> Shapes:
        return linear(f"{name}.layer.0", inputs, width) | batch_norm(f"{name}.layer.1", width)

    def gated(name: str) -> Shapes:
        shapes: Shapes = {}
        for part in ("src_gate", "dst_gate", "edge_gate", "src_update", "dst_update"):
            shapes |= linear(f"{name}.{part}", width, width)
        return (
            shapes | batch_norm(f"{name}.bn_nodes", width) | batch_norm(f"{name}.bn_edges", width)
        )

    shapes = layer("atom_embedding", 92, width)
    for name, centers in (("edge_embedding", bonds), ("angle_embedding", angles)):
        shapes[f"{name}.0.centers"] = (centers,)
        shapes |= layer(f"{name}.1", centers, embedding) | layer(f"{name}.2", embedding, width)
    for index in range(angular):
        shapes |= gated(f"alignn_layers.{index}.node_update")
        shapes |= gated(f"alignn_layers.{index}.edge_update")
    for index in range(plain):
        shapes |= gated(f"gcn_layers.{index}")
    return shapes | linear("fc", width, outputs)


def gatgnn(width: int = 6, layers: int = 2, heads: int = 3, *, outputs: int = 1) -> Shapes:
    shapes: Shapes = linear("embed_n", 92, width) | linear("embed_e", 41, width)
    for layer in range(layers):
        block = f"node_att.{layer}"
        shapes[f"{block}.W"] = (2 * width, heads * width)
        shapes[f"{block}.att"] = (1, heads, 2 * width)
        shapes[f"{block}.bias"] = (width,)
        shapes[f"{block}.prelu.weight"] = (1,)
        shapes |= batch_norm(f"{block}.bn1", heads) | batch_norm(f"batch_norm.{layer}", width)
    shapes |= linear("comp_atten.node_layer1", width + 103, 32)
    shapes |= linear("comp_atten.atten_layer", 32, 1)
    shapes |= linear("cluster_att.layer_1", width, width)
    shapes |= linear("cluster_att.atten_layer", width, 1)
    shapes |= linear("cluster_att.learn_unpool", 2 * width + 3, 3)
    shapes |= linear("embed_comp", 103, width)
    shapes |= linear("linear1", width, width) | linear("linear2", width, width)
    return shapes | linear("out", width, outputs)


def roost(
    width: int = 6,
    layers: int = 2,
    heads: int = 2,
    *,
    gate: Sequence[int] = (5,),
    message: Sequence[int] = (4,),
    trunk: Sequence[int] = (9, 7),
    hidden: Sequence[int] = (6, 5),
    features: int = 200,
    outputs: int = 1,
) -> Shapes:
    """``trunk`` without the last width, which is ``width``."""

    def network(name: str, widths: Sequence[int], last: int) -> Shapes:
        shapes: Shapes = {}
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            shapes |= linear(f"{name}.fcs.{index}", inputs, outputs)
        return shapes | linear(f"{name}.fc_out", widths[-1], last)

    def attention(name: str, inputs: int) -> Shapes:
        shapes = network(f"{name}.gate_nn", (inputs, *gate), 1)
        shapes |= network(f"{name}.message_nn", (inputs, *message), width)
        return {**shapes, f"{name}.pow": (1,)}

    def residual(name: str, widths: Sequence[int], last: int) -> Shapes:
        shapes = network(name, widths, last)
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            shapes |= linear(f"{name}.res_fcs.{index}", inputs, outputs, bias=False)
        return shapes

    shapes = linear("material_nn.embedding", features, width - 1)
    for head in range(heads):
        for layer in range(layers):
            shapes |= attention(f"material_nn.graphs.{layer}.pooling.{head}", 2 * width)
        shapes |= attention(f"material_nn.cry_pool.{head}", width)
    shapes |= residual("trunk_nn", (width, *trunk), width)
    return shapes | residual("output_nns.0", (width, *hidden), outputs)
