"""The graph of an untrained checkpoint: data grid to hidden grid and back; its truncation to a coarse grid.

As in AIFS, the encoder joins each hidden node with the data points within 0.6 times the largest distance between
neighbouring hidden nodes, the decoder joins each data point with its three nearest hidden nodes. Trees of points
stand in for anemoi-graphs, whose pins do not go with the rest of the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aifs_ensemble.fields.grids import Grid
from aifs_ensemble.fields.interpolation import interpolation_weights

if TYPE_CHECKING:
    # imported where it is used: a coordinator, which fetches checkpoints and builds none, has none
    from scipy.sparse import csr_matrix
    from scipy.spatial import cKDTree
    from torch_geometric.data import HeteroData

_CUTOFF = 0.6
_NEIGHBOURS = 3

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _tree(points: npt.NDArray[np.float64]) -> cKDTree:
    """Return what finds the nearest of `points` on the unit sphere, ``(point, 3)``."""
    from scipy.spatial import cKDTree

    return cKDTree(points)


def unit_vectors(grid: Grid) -> npt.NDArray[np.float64]:
    """Return the grid's points ``(point, 3)`` on the unit sphere."""
    latitude, longitude = np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes)
    points = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    return np.stack(points, axis=1)


def _encoder_pairs(data: npt.NDArray[np.float64], hidden: npt.NDArray[np.float64]) -> Pairs:
    """Return (data point, hidden node): all within the cut-off, and each point with its nearest node."""
    tree = _tree(hidden)
    spacing = tree.query(hidden, k=2)[0][:, 1]
    near = _tree(data).sparse_distance_matrix(tree, _CUTOFF * float(spacing.max()), output_type="ndarray")
    nearest = tree.query(data)[1]
    keys = np.union1d(near["j"] * len(data) + near["i"], nearest * len(data) + np.arange(len(data)))
    return keys % len(data), keys // len(data)


def _decoder_pairs(data: npt.NDArray[np.float64], hidden: npt.NDArray[np.float64]) -> Pairs:
    """Return (hidden node, data point): the nearest nodes of each point."""
    nearest = np.sort(_tree(hidden).query(data, k=_NEIGHBOURS)[1], axis=1)
    return nearest.ravel().astype(np.int64), np.repeat(np.arange(len(data)), _NEIGHBOURS)


def _add_edges(
    graph: HeteroData, source: str, target: str, pairs: Pairs, points: dict[str, npt.NDArray[np.float64]]
) -> None:
    """Add edges, in the order of their targets, with their length and their direction (east, north) at the target."""
    import torch

    tail, head = pairs
    at = points[target][head]
    vector = at - points[source][tail]
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    parallel = np.maximum(np.hypot(at[:, 0], at[:, 1]), 1e-12)
    east = np.stack([-at[:, 1], at[:, 0], np.zeros(len(at))], axis=1) / parallel[:, None]
    north = np.cross(at, east)
    direction = np.stack([(vector * east).sum(1), (vector * north).sum(1)], axis=1) / np.maximum(length, 1e-12)
    edges = graph[(source, "to", target)]
    edges.edge_index = torch.from_numpy(np.stack([tail, head]))
    edges.edge_length = torch.from_numpy((length / length.max()).astype(np.float32))
    edges.edge_dirs = torch.from_numpy(direction.astype(np.float32))


def build_graph(data: Grid, hidden: Grid) -> HeteroData:
    """Return the graph with nodes ``data`` and ``hidden`` (``x``: latitude and longitude in radians, float32).

    Edge indices are int64 ``(2, edge)``, sorted by target; ``edge_length`` is ``(edge, 1)`` relative to the longest,
    ``edge_dirs`` ``(edge, 2)`` a unit vector.
    """
    import torch
    from torch_geometric.data import HeteroData

    graph = HeteroData()
    points = {}
    for name, grid in (("data", data), ("hidden", hidden)):
        coordinates = np.deg2rad(np.stack([grid.latitudes, grid.longitudes], axis=1))
        graph[name].x = torch.from_numpy(coordinates.astype(np.float32))
        points[name] = unit_vectors(grid)
    nodes = points["hidden"]
    itself = np.arange(len(nodes))
    _add_edges(graph, "data", "hidden", _encoder_pairs(points["data"], nodes), points)
    _add_edges(graph, "hidden", "data", _decoder_pairs(points["data"], nodes), points)
    # The transformer processor has no edges, but anemoi-models asks for the sub-graph.
    neighbour = _tree(nodes).query(nodes, k=2)[1][:, 1].astype(np.int64)
    _add_edges(graph, "hidden", "hidden", (neighbour, itself), points)
    return graph


def add_truncation(graph: HeteroData, coarse: Grid, matrices: Mapping[str, csr_matrix]) -> None:
    """Add the coarse grid of the skip connection, as nodes ``truncation``, and both matrices, as ``weight`` of edges.

    anemoi-models 0.11 makes the matrices of these; its other way, from files, fails in 0.11.2.
    """
    import torch

    coordinates = np.deg2rad(np.stack([coarse.latitudes, coarse.longitudes], axis=1))
    graph["truncation"].x = torch.from_numpy(coordinates.astype(np.float32))
    for way, (source, target) in {"down": ("data", "truncation"), "up": ("truncation", "data")}.items():
        entries = matrices[way].tocoo()
        edges = graph[(source, "to", target)]
        edges.edge_index = torch.from_numpy(np.stack([entries.col, entries.row]).astype(np.int64))
        edges.weight = torch.from_numpy(entries.data.astype(np.float32))[:, None]


def build_truncation(data: Grid, coarse: Grid, cache: Path) -> dict[str, csr_matrix]:
    """Return the matrices ``down`` ``(coarse points, data points)`` and ``up`` of the truncated skip connection.

    Linear interpolation by MIR, as published configurations name theirs (``...-O32-linear.mat.npz``), in the form in
    which anemoi reads them. MIR's weights are kept in `cache`.
    """
    make = partial(interpolation_weights, cache=cache, method="linear")
    with ThreadPoolExecutor(2) as pool:  # each is a process of its own
        down, up = pool.map(make, (data.name, coarse.name), (coarse.name, data.name))
    from scipy.sparse import csr_matrix

    return {name: csr_matrix(weights.matrix) for name, weights in (("down", down), ("up", up))}
