from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from epitaxy.encoders.contract import Encoding
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.heads.scalar import ScalarHead, head_input

NODE = torch.tensor([[1.0, 0.0], [3.0, 2.0], [-1.0, 4.0]])
STATES = Encoding(node=NODE)


def batch(*sizes: int) -> Any:
    """As much of a batch as a head reads."""
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    return SimpleNamespace(
        num_graphs=len(sizes),
        num_atoms=torch.tensor(sizes, dtype=torch.long),
        graph_index=index,
    )


def linear_head(**options: Any) -> ScalarHead:
    head = ScalarHead(2, (), **options)
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[2.0, 1.0]]))
        head.out.bias.fill_(0.5)
    return head


def test_pools_by_hand() -> None:
    # Per atom 2.5, 8.5, 2.5; crystals of one and two atoms.
    assert linear_head(pool="sum")(STATES, batch(1, 2)).tolist() == [2.5, 11.0]
    assert linear_head(pool="mean")(STATES, batch(1, 2)).tolist() == [2.5, 5.5]
    # Pooled first, the bias counts once: [2, 6] → 10.5.
    assert linear_head(pool="sum", order="early")(STATES, batch(1, 2)).tolist() == [2.5, 10.5]
    assert linear_head(pool="mean", order="early")(STATES, batch(1, 2)).tolist() == [2.5, 5.5]
    # Largest entries [3, 4].
    assert linear_head(pool="max", order="early")(STATES, batch(1, 2)).tolist() == [2.5, 10.5]


def test_a_crystal_vector_of_the_encoder_is_not_pooled_again() -> None:
    both = Encoding(node=NODE, graph=torch.tensor([[10.0, 1.0], [0.0, 0.0]]))
    assert linear_head(order="early")(both, batch(1, 2)).tolist() == [21.5, 0.5]
    assert linear_head(order="late")(both, batch(1, 2)).tolist() == [2.5, 5.5]


def test_residual_layers_add_a_linear_map_of_their_input() -> None:
    head = ScalarHead(2, (3,), activation="relu", order="early", residual=True)
    layer = head.hidden[0]
    pooled = torch.stack([NODE[0], NODE[1:].mean(0)])
    bent = (pooled @ layer.linear.weight.T + layer.linear.bias).clamp(min=0)
    features = bent + pooled @ layer.shortcut.weight.T
    expected = features @ head.out.weight[0] + head.out.bias
    torch.testing.assert_close(head(STATES, batch(1, 2)), expected)


def encoder(node: int, graph: int) -> Any:
    return SimpleNamespace(node_width=node, graph_width=graph)


def test_auto_reads_the_crystal_vector_if_there_is_one() -> None:
    assert head_input(encoder(4, 0), "auto") == ("late", 4)
    assert head_input(encoder(4, 7), "auto") == ("early", 7)
    assert head_input(encoder(0, 7), "auto") == ("early", 7)
    assert head_input(encoder(4, 7), "late") == ("late", 4)
    assert head_input(encoder(4, 0), "early") == ("early", 4)
    with pytest.raises(NeedsError, match=r"objective\.order=early"):
        head_input(encoder(0, 7), "late")
    with pytest.raises(NeedsError, match="choose order 'early'"):
        linear_head()(Encoding(graph=NODE), batch(1, 1, 1))


def test_hidden_layers_and_the_input_are_activated() -> None:
    head = ScalarHead(2, (3, 4), activation="softplus", activate_input=True, order="early")
    pooled = torch.stack([NODE[0], NODE[1:].mean(0)])
    features = torch.log1p(pooled.exp())
    for layer in head.hidden:
        features = torch.log1p((features @ layer.weight.T + layer.bias).exp())
    expected = features @ head.out.weight[0] + head.out.bias
    torch.testing.assert_close(head(STATES, batch(1, 2)), expected)


def test_parameter_names_are_those_that_checkpoints_hold() -> None:
    names = [name for name, _ in ScalarHead(2, (3, 4)).named_parameters()]
    layers = ("hidden.0", "hidden.1", "out")
    assert names == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def test_order_and_pool_share_their_parameters() -> None:
    force_head = ScalarHead(2, (3,), pool="sum", order="late")
    ScalarHead(2, (3,), pool="mean", order="early").load_state_dict(force_head.state_dict())


def test_several_outputs_keep_their_axis_and_no_crystals_give_none() -> None:
    assert ScalarHead(2, outputs=3)(STATES, batch(1, 2)).shape == (2, 3)
    for order in ("late", "early"):
        assert ScalarHead(2, order=order)(Encoding(node=NODE[:0]), batch()).shape == (0,)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'late'"):
        ScalarHead(2, order="lat")
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        ScalarHead(2, pool="meam")
