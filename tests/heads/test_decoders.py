from __future__ import annotations

import pytest
import torch

from epitaxy.graph.elements import feature_names
from epitaxy.heads.decoders import EdgeDecoder, ElementDecoder


def test_edges_are_told_by_a_bilinear_form_and_a_linear_map() -> None:
    """One pair at a time, by loops over the formula's indices."""
    torch.manual_seed(0)
    decoder = EdgeDecoder(3, 4).double()
    groups = [torch.randn(2, 3).double(), torch.randn(3, 3).double()]
    centers = [groups[0], groups[1][1:]]
    logits = decoder(centers, groups)
    expected = []
    for some, group in zip(centers, groups, strict=True):
        for u in some:
            for v in group:
                scores = [
                    sum(u[i] * form[i, j] * v[j] for i in range(3) for j in range(3)) + shift
                    for form, shift in zip(
                        decoder.bilinear.weight, decoder.bilinear.bias, strict=True
                    )
                ]
                expected.append(decoder.out.weight @ torch.stack(scores) + decoder.out.bias)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_the_order_of_two_atoms_matters() -> None:
    torch.manual_seed(0)
    decoder = EdgeDecoder(3, 4)
    one, other = torch.randn(1, 3), torch.randn(1, 3)
    assert (decoder([one], [other]) - decoder([other], [one])).abs().min() > 1e-4


@pytest.mark.parametrize(("number", "symbol"), [(3, "Li"), (17, "Cl")])
def test_targets_are_the_bins_an_element_falls_into(number: int, symbol: str) -> None:
    """Lithium: group 1, period 2, s block; chlorine: group 17, period 3, p block."""
    targets = ElementDecoder(4).targets(torch.tensor([number]))[0]
    found = {name for name, value in zip(feature_names("cgcnn92"), targets, strict=True) if value}
    place = {"Li": {"group 1", "period 2", "block s"}, "Cl": {"group 17", "period 3", "block p"}}
    assert place[symbol] <= found
    assert len(found) == 9
    assert set(targets.tolist()) == {0.0, 1.0}
