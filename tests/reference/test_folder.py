"""No family may drop out of these tests because a file moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_models import ROOT, pairs

FAMILIES = (
    "alignn",
    "cgcnn",
    "cgcnn_mdl",
    "crysgnn",
    "crysxpp",
    "gatgnn",
    "roost",
    "torchmd_et",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_weights_with_vectors(family: str, reference_dir: Path) -> None:
    assert reference_dir == ROOT
    assert pairs().get(family), f"no *.safetensors of {family} with vectors under {ROOT}"
