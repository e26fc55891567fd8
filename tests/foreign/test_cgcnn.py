from __future__ import annotations

import published_weights as made
import pytest
import torch

from epitaxy.build import build
from epitaxy.errors import CheckpointError
from epitaxy.foreign.cgcnn import import_cgcnn, import_crysgnn, import_crystal_twins


def test_another_graph_reaches_the_encoder() -> None:
    graph = {"radius": 6.0, "max_neighbors": 8, "dmin": 0.5, "step": 0.5}
    weights = made.drawn(made.cgcnn(gaussians=12))
    encoder = build(import_cgcnn(weights, graph=graph).encoder)
    assert (encoder.spec.cutoff, encoder.spec.max_neighbors) == (6.0, 8)
    torch.testing.assert_close(encoder.basis.centers, torch.arange(0.5, 6.1, 0.5))


@pytest.mark.parametrize(
    ("gaussians", "graph", "message"),
    [
        (31, {}, r"31 Gaussians, from 0 Å to 6 Å .* radius is 8 Å.*options=\{radius: 6\}"),
        (41, {"radius": 6.0}, "from 0 Å to 8 Å in steps of 0.2 Å, but the radius is 6 Å"),
        (29, {"radius": 5.5}, r"to 5\.6 Å .* radius is 5\.5 Å.*cannot be imported"),
    ],
)
def test_gaussians_that_do_not_fit_the_radius_are_refused(
    gaussians: int, graph: dict[str, float], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_cgcnn(made.drawn(made.cgcnn(gaussians=gaussians)), graph=graph)


def test_labels_keep_their_moments_and_heads_their_task() -> None:
    published = import_cgcnn(made.drawn(made.cgcnn()), mean=-1.5, std=0.5)
    assert (published.mean, published.std, published.task) == (-1.5, 0.5, "regression")
    assert "dropout" not in published.head
    classifier = import_cgcnn(made.drawn(made.cgcnn(outputs=2)))
    assert (classifier.task, classifier.head["dropout"]) == ("classification", 0.5)
    assert import_crystal_twins(made.drawn(made.crystal_twins())).task == "none"


def test_space_groups_tell_crysgnn_from_crysxpp() -> None:
    for space_groups in (True, False):
        weights = made.drawn(made.crysgnn(space_groups=space_groups))
        assert build(import_crysgnn(weights).encoder).unit_length is space_groups
        assert build(import_crysgnn(weights, unit_length=True).encoder).unit_length


def test_names_of_other_models_are_refused() -> None:
    weights = made.drawn(made.cgcnn())
    for name in ("convs.0.lin_f.weight", "decoder.weight", "convs.x.bn1.weight"):
        with pytest.raises(CheckpointError, match=f"'{name}' is no parameter"):
            import_cgcnn({**weights, name: torch.zeros(3)})


def test_missing_layers_and_wrong_features_are_refused() -> None:
    weights = made.drawn(made.cgcnn())
    gap = {name.replace("convs.1", "convs.2"): tensor for name, tensor in weights.items()}
    with pytest.raises(CheckpointError, match=r"gaps: layers \[0, 2\]"):
        import_cgcnn(gap)
    with pytest.raises(CheckpointError, match="expected 92 element features"):
        import_cgcnn({**weights, "embedding.weight": torch.zeros(6, 100)})
    headless = {n: t for n, t in weights.items() if not n.startswith("fc_out")}
    with pytest.raises(CheckpointError, match=r"'fc_out.weight'"):
        import_cgcnn(headless)
