"""Pictures of weights: the right names and numbers on the axes, every kind of record drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.gatgnn import GATGNN
from epitaxy.encoders.roost import Roost
from epitaxy.encoders.torchmd_et import EquivariantTransformer
from epitaxy.graph.elements import feature_names
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.predict.explain import explain
from epitaxy.report import explain_plots
from epitaxy.report.explain_plots import (
    atom_weights,
    element_pairs,
    mask_extremes,
    mask_picture,
    picture,
)

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that become pictures."""
    figures: list[Figure] = []
    png = explain_plots.png

    def keep(figure: Figure) -> bytes:
        figures.append(figure)
        return png(figure)

    monkeypatch.setattr(explain_plots, "png", keep)
    return figures


def mask() -> dict[str, float]:
    """Weights 0.5, 0.51 … in a shuffled order, so that the largest is 1.41."""
    names = feature_names("cgcnn92")
    order = np.random.default_rng(0).permutation(len(names))
    return {names[place]: 0.5 + 0.01 * rank for rank, place in enumerate(order)}


def bars(panel: Axes) -> dict[str, tuple[float, str]]:
    """Name on the axis to where the bar ends and the number beside it."""
    names = [text.get_text() for text in panel.get_yticklabels()]
    ends = [bar.get_x() + bar.get_width() for bar in panel.patches]
    return dict(
        zip(names, zip(ends, (t.get_text() for t in panel.texts), strict=True), strict=True)
    )


def test_bars_of_a_mask_have_the_right_names(drawn: list[Figure]) -> None:
    weights = mask()
    assert mask_picture(weights, shown=5).startswith(PNG)
    shown = bars(drawn[0].axes[0])
    ordered = sorted(weights, key=lambda name: weights[name])
    assert list(shown) == [*reversed(ordered[-5:]), *reversed(ordered[:5])]
    for name, (end, number) in shown.items():
        assert end == pytest.approx(weights[name])
        assert float(number) == pytest.approx(weights[name], abs=0.006)
    assert "5 largest and smallest of 92" in drawn[0].axes[0].get_title(loc="left")


@pytest.mark.parametrize("step", [1e-5, 0.0])
def test_small_changes_of_a_mask_can_be_read(step: float, drawn: list[Figure]) -> None:
    weights = {f"feature {place}": 1 + step * place for place in range(6)}
    mask_picture(weights)
    shown = bars(drawn[0].axes[0])
    assert len(shown) == 6
    assert len({number for _, number in shown.values()}) == (6 if step else 1)


def test_extremes_do_not_overlap() -> None:
    weights = mask()
    top, bottom = mask_extremes(weights, 12)
    assert len(set(top) & set(bottom)) == 0
    assert min(weights[name] for name in top) > max(weights[name] for name in bottom)
    assert mask_extremes({"a": 1.0, "b": 2.0}, 12) == [["b", "a"]]


def test_a_crystal_has_every_edge_at_its_distance(crystals: Any, drawn: list[Figure]) -> None:
    explained = explain(CGCNN(4, 2, num_basis=4).eval(), [crystals.perovskite()])
    (crystal,) = explained.crystals
    assert picture(crystal, "BaTiO3", "model x", explained.names).startswith(PNG)
    panel = next(a for a in drawn[0].axes if a.get_xlabel() == "distance (Å)")
    points = np.concatenate([np.asarray(c.get_offsets()) for c in panel.collections])
    expected = np.stack([crystal.edges.distances, crystal.edges.mean], axis=1)
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(expected[:, 0]))
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(expected[:, 1]))
    assert panel.get_ylabel() == "gate × envelope, mean of 2 layers"
    legend = {text.get_text() for text in panel.get_legend().get_texts()}
    assert legend == {"O-Ti", "Ba-O", "O-O", "Ba-Ti", "Ba-Ba", "Ti-Ti"}
    labels = [text.get_text() for text in drawn[0].axes[0].texts]
    assert {"Ba", "Ti", "O"} <= set(labels)
    assert any(text.endswith("Å") for text in labels)


def test_pairs_know_no_direction(crystals: Any) -> None:
    crystal = explain(CGCNN(4, 1, num_basis=4).eval(), [crystals.rocksalt()]).crystals[0]
    pairs = element_pairs(crystal)
    near = crystal.edges.distances < 3
    assert set(pairs[near]) == {"Cl-Na"}
    assert (pairs == "Cl-Na").sum() > 0
    assert set(pairs) == {"Cl-Na", "Cl-Cl", "Na-Na"}


def test_the_strongest_pairs_keep_their_names(crystals: Any, drawn: list[Figure]) -> None:
    """Five elements make fifteen pairs: six of them get a colour, whatever their number."""
    record = crystals.triclinic(5, 40)
    explained = explain(CGCNN(4, 1, num_basis=4).eval(), [record])
    (crystal,) = explained.crystals
    picture(crystal, "x", "y", explained.names)
    panel = next(a for a in drawn[0].axes if a.get_xlabel() == "distance (Å)")
    *named, others = [text.get_text() for text in panel.get_legend().get_texts()]
    pairs, weights = element_pairs(crystal), crystal.edges.mean
    largest = {pair: weights[pairs == pair].max() for pair in set(pairs)}
    ordered = sorted(largest, key=lambda pair: -largest[pair])
    assert set(named) == set(ordered[:6])
    assert others == f"{len(ordered) - 6} other pairs"


def test_atoms_are_coloured_by_the_pool_or_by_what_they_send(crystals: Any) -> None:
    pooled = explain(GATGNN(4, 1, num_basis=4).eval(), [crystals.perovskite()])
    name, weights = atom_weights(pooled.crystals[0], pooled.names)
    assert name == "attention over atoms"
    assert weights.sum() == pytest.approx(1.0, abs=1e-6)
    gated = explain(CGCNN(4, 1, num_basis=4).eval(), [crystals.perovskite()])
    name, weights = atom_weights(gated.crystals[0], gated.names)
    assert name == "gate × envelope sent, sum"
    assert weights.sum() == pytest.approx(gated.crystals[0].edges.mean.sum())


def test_a_composition_has_bars_of_fractions_and_shares(crystals: Any, drawn: list[Figure]) -> None:
    encoder = Roost(8, 2, features="cgcnn92", gate=(4,), message=(4,), trunk=(8,)).eval()
    explained = explain(encoder, [crystals.perovskite()])
    assert picture(explained.crystals[0], "BaTiO3", "x", explained.names).startswith(PNG)
    panel = drawn[0].axes[0]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["O", "Ti", "Ba"]
    widths = np.array([bar.get_width() for bar in panel.patches]).reshape(2, 3)
    np.testing.assert_allclose(widths[0], [0.6, 0.2, 0.2])
    np.testing.assert_allclose(widths[1], explained.crystals[0].pooled)


def strange() -> dict[str, CrystalRecord]:
    """Records at the edges of what can be drawn."""
    lonely = CrystalRecord("lonely", np.array([79]), np.zeros((1, 3)), np.eye(3) * 40)
    water = np.array([[0.0, 0, 0], [0, 0, 0.97], [0, 0.94, -0.24]])
    molecule = CrystalRecord("$x^2$", np.array([8, 1, 1]), water, np.zeros((3, 3)), np.zeros(3))
    cell = np.diag([3.0, 3.0, 25.0])
    slab = CrystalRecord("slab", np.array([6, 6]), water[:2], cell, np.array([1, 1, 0], bool))
    amount = {AMOUNT: Label(np.ones(12), "", per_atom=True)}
    alloy = CrystalRecord(
        "alloy", np.arange(22, 34), np.zeros((12, 3)), np.zeros((3, 3)), np.zeros(3), amount
    )
    return {"lonely": lonely, "molecule": molecule, "slab": slab, "alloy": alloy}


@pytest.mark.parametrize("name", sorted(strange()))
def test_strange_records_are_drawn(name: str) -> None:
    record = strange()[name]
    encoder: Any = EquivariantTransformer(8, 2, heads=2, num_basis=4)
    if record.is_composition:
        encoder = Roost(8, 1, features="cgcnn92", gate=(4,), message=(4,), trunk=(8,))
    explained = explain(encoder.eval(), [record])
    assert picture(explained.crystals[0], record.id, "a $ b", explained.names).startswith(PNG)


def test_the_same_weights_give_the_same_picture(crystals: Any) -> None:
    explained = explain(GATGNN(4, 1, num_basis=4).eval(), [crystals.triclinic(3, 6)])
    pictures = {picture(explained.crystals[0], "x", "y", explained.names) for _ in range(2)}
    assert len(pictures) == 1
