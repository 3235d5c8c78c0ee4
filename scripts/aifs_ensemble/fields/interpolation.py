"""Interpolation between global grids: weights made by MIR, cached, applied as one sparse product.

MIR (ECMWF's interpolation package) makes the weights in a process of its own: it keeps caches in
memory and on a shared path, writes to the terminal, and would hand out no matrix the second time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import atomic_writer
from aifs_ensemble.common.parameters import is_wind
from aifs_ensemble.fields.grids import Grid, grid_coordinates

if TYPE_CHECKING:
    # imported where it is used: a coordinator, which interpolates nothing, has none
    from scipy.sparse import csr_array

LOG = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 900
_POLE = 90 - 1e-6  # degrees: a row beyond is at a pole
_POLE_METHODS = ("linear", "nearest-neighbour")


@dataclass(frozen=True, eq=False)
class Weights:
    """Interpolation from one grid to another.

    Attributes
    ----------
    matrix : float32 sparse ``(target points, source points)``; None when both grids are the same
    digest : SHA-256 of the matrix (hexadecimal), recorded with everything made from it
    """

    source: str
    target: str
    method: str
    matrix: csr_array | None
    digest: str

    def apply(self, fields: npt.ArrayLike, *, reach: bool = False) -> npt.NDArray[np.float32]:
        """Return `fields`, ``(field, source points)``, on the target grid, float32 ``(field, target points)``.

        Missing values (NaN) are treated as MIR does: a point is missing where its heaviest neighbour is, else the
        weights of those present are scaled to their sum. With `reach` a point has a value if any neighbour has one.
        Raises InputError when the fields are not on the source grid.
        """
        values = np.asarray(fields, np.float32)
        points = grid_coordinates(self.source).points
        if values.ndim != 2 or values.shape[1] != points:
            raise InputError(f"interpolation: shape {values.shape}, expected (fields, {points}) on {self.source}")
        if self.matrix is None:
            return values
        result = np.empty((len(values), self.matrix.shape[0]), np.float32)
        for number, field in enumerate(values):  # one product a field: the matrix stays in the cache, nothing is turned
            result[number] = product(self.matrix, field, reach=reach)
        return result


def product(matrix: csr_array, field: npt.NDArray[np.float32], *, reach: bool = False) -> npt.NDArray[np.float32]:
    """Return ``matrix @ field``, missing values treated as `Weights.apply` says: without any the plain product."""
    made: npt.NDArray[np.float32] = matrix @ field
    missing = np.isnan(field)
    rows = np.flatnonzero(np.isnan(made)) if missing.any() else np.empty(0, np.intp)
    if not rows.size:
        return made
    beside = matrix[rows]
    present = np.where(missing[beside.indices], np.float32(0), beside.data)
    values = np.where(missing[beside.indices], np.float32(0), field[beside.indices])
    starts = beside.indptr[:-1]
    share = np.add.reduceat(present, starts)
    with np.errstate(invalid="ignore"):  # where none is present: NaN, which is meant
        made[rows] = np.add.reduceat(present * values, starts) / share
    if not reach:
        # of equal weights the first counts, as in MIR
        heaviest = np.repeat(np.maximum.reduceat(beside.data, starts), np.diff(beside.indptr))
        first = np.minimum.reduceat(np.where(beside.data == heaviest, np.arange(beside.nnz), beside.nnz), starts)
        made[rows[missing[beside.indices[first]]]] = np.nan
    return made


def interpolation_weights(
    source: str, target: str, cache: Path, method: str = "linear", *, wind: bool = False
) -> Weights:
    """Return the weights from grid `source` to grid `target`, from `cache` or made by MIR.

    `method` is a MIR interpolation (``linear``, ``grid-box-average``, ``nearest-neighbour`` ...). Components of the
    wind (`common.parameters.is_wind`) have weights of their own at the poles.
    Raises ConfigError for an unknown grid and InputError when MIR makes no weights.
    """
    points = grid_coordinates(target).points, grid_coordinates(source).points
    if source == target:
        return Weights(source, target, "none", None, "")
    path = cache / "weights" / f"{source}_{target}_{method}_mir-{version('mir-python')}.npz"
    matrix = _load(path, points)
    if matrix is None:
        LOG.info("making interpolation weights %s to %s (%s)", source, target, method)
        matrix = _make(source, target, method, points)
        _store(path, matrix)
    if wind:
        matrix = _with_pole_rows(matrix, grid_coordinates(source), grid_coordinates(target), method)
    return Weights(source, target, method, matrix, _digest(matrix))


def weights_name(method: str, variable: str) -> str:
    """Return by what the weights of a variable are told from others of one pair of grids."""
    return f"{method}, wind" if is_wind(variable) else method


def _with_pole_rows(matrix: csr_array, source: Grid, target: Grid, method: str) -> csr_array:
    """Return `matrix` with the rows of a target at the poles as MIR interpolates wind there, grid to grid.

    A component of the wind turns with longitude. MIR's matrix gives all points of a pole's row the same weights, as is
    right for a scalar. Of a wind MIR itself goes round the source's outermost ring, along the chord between two of
    its points; tests/fields compares them. A source with points at the poles needs nothing.
    """
    from scipy.sparse import csr_array, vstack

    if method not in _POLE_METHODS or target.kind != "regular_ll" or abs(source.latitudes[0]) > _POLE:
        return matrix
    columns = int(target.rows[0])
    ends = [(0, source.rows[0], 0), (len(target.rows) - 1, source.rows[-1], source.points - source.rows[-1])]
    pieces = [_ring_weights(target.longitudes[:columns], int(count), int(first), source.points, method)
              for row, count, first in ends if abs(target.latitudes[row * columns]) > _POLE]  # fmt: skip
    if len(pieces) < 2:  # a target whose rows miss the poles
        return matrix
    made = csr_array(vstack([pieces[0], matrix[columns:-columns], pieces[1]], format="csr", dtype=np.float32))
    made.indices, made.indptr = made.indices.astype(np.int32), made.indptr.astype(np.int32)
    return made


def _ring_weights(longitudes: npt.NDArray[np.float64], count: int, first: int, points: int, method: str) -> csr_array:
    """Return weights ``(longitude, points)`` on a ring of `count` points from longitude 0 that begins at `first`."""
    from scipy.sparse import csr_array

    step = 360 / count
    before = np.floor(longitudes / step + 1e-9).astype(np.int64)
    away = np.maximum(longitudes - before * step, 0.0)
    if method == "nearest-neighbour":
        after = (away > step / 2).astype(np.float64)
    else:
        after = np.sin(np.deg2rad(away))
        after /= after + np.sin(np.deg2rad(step - away))
    column = np.stack([first + before % count, first + (before + 1) % count], 1)
    data = np.stack([1 - after, after], 1).astype(np.float32)
    row = np.repeat(np.arange(len(longitudes)), 2)
    made = csr_array((data.ravel(), (row, column.ravel())), shape=(len(longitudes), points))
    made.eliminate_zeros()
    made.sort_indices()
    return made


def _digest(matrix: csr_array) -> str:
    digest = hashlib.sha256(np.asarray(matrix.shape, "<i8").tobytes())
    for array, kind in ((matrix.indptr, "<i4"), (matrix.indices, "<i4"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()


def _store(path: Path, matrix: csr_array) -> None:
    arrays: dict[str, Any] = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    with atomic_writer(path) as file:
        np.savez(file, digest=np.array(_digest(matrix)), **arrays)


def _load(path: Path, points: tuple[int, int]) -> csr_array | None:
    """Return the cached matrix, or None when there is none or it is damaged."""
    from scipy.sparse import csr_array

    try:
        with np.load(path, allow_pickle=False) as content:
            matrix = csr_array((content["data"], content["indices"], content["indptr"]), shape=points)
            sound = _digest(matrix) == str(content["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        LOG.warning("%s: unreadable, making the weights again (%s)", path, error)
        return None
    if not sound:
        LOG.warning("%s: content differs from its digest, making the weights again", path)
    return matrix if sound else None


def _make(source: str, target: str, method: str, points: tuple[int, int]) -> csr_array:
    from scipy.sparse import csr_array

    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        result = Path(folder) / "weights.npz"
        environment = os.environ | {
            "MIR_CACHE_PATH": folder,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", __name__, source, target, method, str(result)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
        if done.returncode or not result.exists():
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = lines[-1] if lines else f"exit code {done.returncode}"
            raise InputError(f"interpolation: MIR made no weights from {source} to {target}, {method} ({reason})")
        with np.load(result, allow_pickle=False) as content:
            data, indices, indptr = content["data"], content["indices"], content["indptr"]
            shape = tuple(content["shape"])
    if shape != points:
        raise InputError(f"interpolation: MIR made weights of shape {shape} {source} to {target}, expected {points}")
    matrix = csr_array((data.astype(np.float32), indices.astype(np.int32), indptr.astype(np.int32)), shape=points)
    matrix.sort_indices()
    return matrix


def _grid_spec(name: str) -> str:
    """Return a grid's name as MIR spells it: ``0.25/0.25`` for ``0.25x0.25``."""
    return name.replace("x", "/")


def _main(source: str, target: str, method: str, path: str) -> None:
    """Make one set of weights; runs in a process of its own."""
    from mir.weight_matrix import WeightMatrix

    matrix = WeightMatrix.from_regrid(_grid_spec(source), _grid_spec(target), interpolation=method).to_csr()
    np.savez(path, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr, shape=np.array(matrix.shape))


if __name__ == "__main__":
    _main(*sys.argv[1:])
