from __future__ import annotations

import pytest
import torch
from torch import Tensor

from epitaxy.build import build
from epitaxy.errors import CheckpointError
from epitaxy.foreign.cgcnn import import_cgcnn
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import ScalarHead


def weights(
    width: int = 6, layers: int = 2, hidden: int = 5, more: int = 0, outputs: int = 1
) -> dict[str, Tensor]:
    """Random parameters with the names and shapes of the authors' files."""
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (width, 92),
        "embedding.bias": (width,),
    }
    for layer in range(layers):
        block = f"convs.{layer}"
        shapes[f"{block}.fc_full.weight"] = (2 * width, 2 * width + 41)
        shapes[f"{block}.fc_full.bias"] = (2 * width,)
        for norm, size in (("bn1", 2 * width), ("bn2", width)):
            for kind in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{block}.{norm}.{kind}"] = (size,)
    linears = {"conv_to_fc": (hidden, width), "fc_out": (outputs, hidden)}
    linears |= {f"fcs.{index}": (hidden, hidden) for index in range(more)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "sizes",
    [{}, {"layers": 4, "hidden": 8}, {"more": 2}, {"outputs": 2}, {"width": 3, "hidden": 7}],
)
def test_sizes_are_read_from_the_shapes(sizes: dict[str, int]) -> None:
    given = weights(**sizes)
    published = import_cgcnn(given, mean=-1.5, std=0.5)
    encoder = build(published.encoder)
    model = Model(encoder, {"scalar": ScalarHead(encoder.node_width, **published.head)})
    model.load_state_dict(published.state, strict=True)
    loaded = model.state_dict()
    for name, tensor in given.items():  # all are random, so none is another's double
        kind = name.rpartition(".")[2]
        alike = [new for new, value in loaded.items() if new.endswith(kind)]
        assert sum(torch.equal(loaded[new], tensor) for new in alike) == 1, name
    assert (published.mean, published.std) == (-1.5, 0.5)


def test_another_graph_reaches_the_encoder() -> None:
    graph = {"radius": 6.0, "max_neighbors": 8, "dmin": 0.5}
    encoder = build(import_cgcnn(weights(), graph=graph).encoder)
    assert (encoder.spec.cutoff, encoder.spec.max_neighbors) == (6.0, 8)
    assert encoder.basis.centers[0].item() == 0.5


def test_names_of_other_models_are_refused() -> None:
    for name in ("convs.0.lin_f.weight", "decoder.weight", "convs.x.bn1.weight"):
        with pytest.raises(CheckpointError, match=f"'{name}' is no parameter"):
            import_cgcnn({**weights(), name: torch.zeros(3)})


def test_missing_layers_and_wrong_features_are_refused() -> None:
    gap = {name.replace("convs.1", "convs.2"): tensor for name, tensor in weights().items()}
    with pytest.raises(CheckpointError, match=r"gaps: layers \[0, 2\]"):
        import_cgcnn(gap)
    with pytest.raises(CheckpointError, match="expected 92 element features"):
        import_cgcnn({**weights(), "embedding.weight": torch.zeros(6, 100)})
    headless = {n: t for n, t in weights().items() if not n.startswith("fc_out")}
    with pytest.raises(CheckpointError, match=r"'fc_out.weight'"):
        import_cgcnn(headless)
