from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.heads.scalar import ScalarHead

NODE = torch.tensor([[1.0, 0.0], [3.0, 2.0], [-1.0, 4.0]])


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
    assert linear_head(pool="sum")(NODE, batch(1, 2)).tolist() == [2.5, 11.0]
    assert linear_head(pool="mean")(NODE, batch(1, 2)).tolist() == [2.5, 5.5]
    # Pooled first, the bias counts once: [2, 6] → 10.5.
    assert linear_head(pool="sum", order="early")(NODE, batch(1, 2)).tolist() == [2.5, 10.5]
    assert linear_head(pool="mean", order="early")(NODE, batch(1, 2)).tolist() == [2.5, 5.5]


def test_hidden_layers_and_the_input_are_activated() -> None:
    head = ScalarHead(2, (3, 4), activation="softplus", activate_input=True, order="early")
    pooled = torch.stack([NODE[0], NODE[1:].mean(0)])
    features = torch.log1p(pooled.exp())
    for layer in head.hidden:
        features = torch.log1p((features @ layer.weight.T + layer.bias).exp())
    expected = features @ head.out.weight[0] + head.out.bias
    torch.testing.assert_close(head(NODE, batch(1, 2)), expected)


def test_parameter_names_are_those_that_checkpoints_hold() -> None:
    names = [name for name, _ in ScalarHead(2, (3, 4)).named_parameters()]
    layers = ("hidden.0", "hidden.1", "out")
    assert names == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def test_order_and_pool_share_their_parameters() -> None:
    force_head = ScalarHead(2, (3,), pool="sum", order="late")
    ScalarHead(2, (3,), pool="mean", order="early").load_state_dict(force_head.state_dict())


def test_several_outputs_keep_their_axis_and_no_crystals_give_none() -> None:
    assert ScalarHead(2, outputs=3)(NODE, batch(1, 2)).shape == (2, 3)
    for order in ("late", "early"):
        assert ScalarHead(2, order=order)(NODE[:0], batch()).shape == (0,)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'late'"):
        ScalarHead(2, order="lat")
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        ScalarHead(2, pool="meam")
