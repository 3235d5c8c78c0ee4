"""Fields that are read when somebody asks for their values, as arrays that xarray indexes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

Field = npt.NDArray[np.float32]


class LazyFields(BackendArray):
    """Fields over two outer dimensions, each read whole and by itself; what is not asked for is not read.

    Parameters
    ----------
    shape : of both outer dimensions, then of one field
    read : returns the field at two outer positions, float32 of a field's shape; called from several threads
    threads : how many fields are read side by side
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[int, int], Field], threads: int):
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self._read, self._threads = read, threads

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Field:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple[Any, ...]) -> Field:
        """Return what a key of integers, slices and arrays of positions names, each along its own dimension."""
        outer, inner = key[:2], key[2:]
        first, second = (np.atleast_1d(np.arange(size)[part]) for size, part in zip(self.shape, outer, strict=False))
        places = [(i, j) for i in first for j in second]
        with ThreadPoolExecutor(max(1, min(self._threads, len(places)))) as pool:
            fields = list(pool.map(lambda place: _part(self._read(*map(int, place)), inner), places))
        if not fields:
            empty = _part(np.empty(self.shape[2:], np.float32), inner)
            return np.empty((len(first), len(second), *empty.shape), np.float32)
        whole = np.stack(fields).reshape(len(first), len(second), *fields[0].shape)
        return whole[tuple(0 if isinstance(part, Integral) else slice(None) for part in outer)]


def _part(field: Field, key: tuple[Any, ...]) -> Field:
    for axis in reversed(range(len(key))):  # an integer takes its axis away, which moves those behind it
        field = field[(slice(None),) * axis + (key[axis],)]
    return field


def lazy_variable(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    read: Callable[[int, int], Field],
    attributes: dict[str, Any],
    threads: int,
) -> xr.Variable:
    """Return a variable of `dims` whose values `LazyFields` reads."""
    return xr.Variable(dims, indexing.LazilyIndexedArray(LazyFields(shape, read, threads)), attributes)
