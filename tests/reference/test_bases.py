"""Radial and angular bases and the cosine cutoff, as the originals compute them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published_models import close

from epitaxy.encoders.alignn import ALIGNN
from epitaxy.encoders.basis import ExpNormalBasis, cutoff_envelope
from epitaxy.encoders.cgcnn_mdl import MatDeepLearnCGCNN

SINGLE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def given(reference_dir: Path) -> dict[str, torch.Tensor]:
    stored = np.load(reference_dir / "losses_and_bases/vectors.npz")
    return {key[4:]: stored[key] for key in stored if key.startswith("rbf/")}


def test_alignn_distances_and_cosines(given: dict[str, np.ndarray]) -> None:
    encoder = ALIGNN(8, 8)
    distances, cosines = (torch.from_numpy(given[k]).float() for k in ("d", "cos"))
    close(encoder.distance_basis(distances), given["alignn_bond_0_8_80"], **SINGLE)
    close(encoder.angle_basis(cosines), given["alignn_angle_-1_1_40"], **SINGLE)


def test_matdeeplearn_gaussians(given: dict[str, np.ndarray]) -> None:
    basis = MatDeepLearnCGCNN(4, 1, cutoff=8.0, basis_width=0.2).basis
    close(basis(torch.from_numpy(given["d"]).float()), given["gauss_mdl_0_8_50"], **SINGLE)


def test_exponential_normals_and_the_cosine_cutoff(given: dict[str, np.ndarray]) -> None:
    distances = torch.from_numpy(given["d"]).float()
    close(cutoff_envelope("cosine", distances, 8.0), given["cosine_cutoff_8"], **SINGLE)
    close(ExpNormalBasis(50, 8.0)(distances), given["expnorm_0_8_50"], **SINGLE)
