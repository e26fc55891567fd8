from __future__ import annotations

import pytest
import torch

from epitaxy.encoders.segments import segment_mean, segment_softmax, segment_sum

INDEX = torch.tensor([0, 0, 2])


def test_sums_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert segment_sum(values, INDEX, 4).tolist() == [[4, 6], [0, 0], [5, 6], [0, 0]]


def test_weighed_means_by_hand() -> None:
    values, weight = torch.tensor([2.0, 8.0, 5.0]), torch.tensor([1.0, 3.0, 0.5])
    assert segment_mean(values, INDEX, 3, weight, 0.0).tolist() == [6.5, 0.0, 5.0]
    assert segment_mean(values, INDEX, 3, weight, 1.0).tolist() == pytest.approx([5.2, 0, 5 / 3])


def test_the_softmax_is_that_of_torch_in_each_segment() -> None:
    logits = torch.tensor([[300.0, -1.0], [299.0, 4.0], [-900.0, 2.0]])
    share = segment_softmax(logits, INDEX, 4)
    torch.testing.assert_close(share[:2], torch.softmax(logits[:2], dim=0))
    assert share[2].tolist() == [1.0, 1.0]


def test_a_sink_takes_the_share_of_a_neighbour_that_sends_nothing() -> None:
    logits, weight = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 0.25])
    assert segment_softmax(logits, INDEX, 3, weight, sink=1.0).tolist() == pytest.approx(
        [0.25, 0.5, 0.2]
    )
    large = segment_softmax(logits + 200.0, INDEX, 3, weight, sink=1.0)
    assert large.tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])
    small = segment_softmax(logits - 200.0, INDEX, 3, weight, sink=1.0)
    assert small.tolist() == pytest.approx([0.0, 0.0, 0.0])


def test_the_last_neighbour_fades_only_with_a_sink() -> None:
    fading, one = torch.tensor([1e-6]), torch.zeros(1, dtype=torch.long)
    assert segment_softmax(torch.ones(1), one, 1, fading).item() == 1.0
    assert segment_softmax(torch.ones(1), one, 1, fading, sink=1.0).item() < 1e-5


def test_second_derivatives_are_those_of_torch() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    index = torch.zeros(3, dtype=torch.long)

    def ours(values: torch.Tensor) -> torch.Tensor:
        return segment_softmax(values, index, 1)

    def sunk(values: torch.Tensor) -> torch.Tensor:
        return segment_softmax(values, index, 1, torch.tensor([1.0, 0.5, 0.1]).double(), 0.7)

    for function in (ours, sunk):
        assert torch.autograd.gradcheck(function, (logits,))
        assert torch.autograd.gradgradcheck(function, (logits,))
