"""Noise that is drawn on a coarse grid and spread to the hidden nodes, by a sparse matrix.

In AIFS ENS v2 it comes from 5248 points, as many as O32 has, with about 50 weights a node. Which weights is not public.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, save_npz
from scipy.spatial import cKDTree

from aifs_ensemble.fields.grids import Grid
from aifs_ensemble.model.checkpoint.graph import unit_vectors

_NEIGHBOURS = 50


def noise_matrix(noise: Grid, hidden: Grid) -> csr_matrix:
    """Return weights ``(noise points, hidden nodes)``: Gaussian in the distance, of noise with variance 1 again."""
    points, nodes = unit_vectors(noise), unit_vectors(hidden)
    tree = cKDTree(points)
    spacing = float(np.median(tree.query(points, k=2)[0][:, 1]))
    distance, nearest = tree.query(nodes, k=min(_NEIGHBOURS, len(points)))
    weights = np.exp(-0.5 * (distance / spacing) ** 2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    node = np.repeat(np.arange(len(nodes)), distance.shape[1])
    shape = (len(points), len(nodes))
    return csr_matrix((weights.ravel().astype(np.float32), (nearest.ravel(), node)), shape=shape)


def write_noise_matrix(path: Path, matrix: csr_matrix) -> None:
    """Write the matrix as anemoi-models 0.11 reads it: places and values from two lists, both in order."""
    matrix.eliminate_zeros()
    matrix.sort_indices()
    save_npz(path, matrix)
