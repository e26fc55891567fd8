"""Groups of atoms by their coordinates, as GATGNN's coordinate attention wants them."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from jaxtyping import Int
from scipy.cluster.vq import kmeans2
from torch import Tensor

from epitaxy.graph.batch import CrystalBatch

NUM_CLUSTERS = 3

Labels = Int[Tensor, " atoms"]


def cluster_labels(batch: CrystalBatch) -> Labels:
    """Returns the cluster, 0 to 2, of each atom by spectral clustering of Cartesian coordinates.

    Per crystal: affinities ``exp(−d²)`` (Å), the three leading eigenvectors of their normalised
    Laplacian, k-means with a fixed seed; all 0 for one or two atoms. Labels are a constant input:
    they have no gradient. Coordinates are taken as they are, without periodic images, so another
    choice of cell gives other clusters.
    """
    positions = batch.positions.detach().double().cpu().numpy()
    bounds = np.cumsum(batch.num_atoms.cpu().numpy())[:-1]
    if not len(positions):
        return torch.zeros_like(batch.graph_index)
    labels = np.concatenate([_spectral(part) for part in np.split(positions, bounds)])
    return torch.from_numpy(labels).to(batch.graph_index.device)


def other_clusters(labels: Labels, batch: CrystalBatch) -> Labels:
    """Returns a cluster other than its own for each atom, among those its crystal has.

    Drawn from the id of the record, so any worker draws the same. With one cluster it stays.
    """
    if not len(labels):
        return labels
    drawn = labels.cpu().numpy().copy()
    bounds = np.cumsum(batch.num_atoms.cpu().numpy())[:-1]
    for name, part in zip(batch.ids, np.split(drawn, bounds), strict=True):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        present = np.unique(part)
        if len(present) > 1:
            # A step of 1 … k − 1 along the clusters that exist never ends at the start.
            place = np.searchsorted(present, part) + rng.integers(1, len(present), len(part))
            part[:] = present[place % len(present)]
    return torch.from_numpy(drawn).to(labels.device)


def _spectral(positions: np.ndarray) -> np.ndarray:
    if len(positions) < NUM_CLUSTERS:
        return np.zeros(len(positions), np.int64)
    squared = np.square(positions[:, None] - positions[None]).sum(-1)
    affinity = np.exp(-squared)
    degree = affinity.sum(1) ** -0.5
    _, vectors = np.linalg.eigh(affinity * degree[:, None] * degree[None])
    leading = vectors[:, -NUM_CLUSTERS:] * degree[:, None]
    # The sign of an eigenvector is arbitrary.
    leading *= np.where(leading.sum(0) < 0, -1.0, 1.0)
    _, labels = kmeans2(leading, NUM_CLUSTERS, minit="++", seed=np.random.default_rng(0))
    return np.asarray(labels, np.int64)
