"""Fields of the model's grid on the regular grid of the products."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import is_wind
from aifs_ensemble.fields.directions import through_parts
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import Weights, interpolation_weights

Field = npt.NDArray[np.float32]


class RegularGrid:
    """The grid of ``products.grid`` and the interpolation of each variable to it.

    Attributes
    ----------
    latitudes, longitudes : float64 ``(row,)`` from north to south, ``(column,)`` from 0 eastward, degrees
    """

    def __init__(self, config: Config):
        self.name = config.products.grid
        grid = grid_coordinates(self.name)
        assert grid.shape is not None
        self.shape = grid.shape
        self.latitudes = grid.latitudes[:: self.shape[1]]
        self.longitudes = grid.longitudes[: self.shape[1]]
        self._methods = config.products.interpolation
        self._source, self._cache = config.model.grid, config.cache

    def method(self, variable: str) -> str:
        """Return the interpolation of a variable, as MIR calls it."""
        return self._methods.get(variable, "linear")

    def weights(self, variable: str) -> Weights:
        """Return the weights of a variable's interpolation."""
        return _weights(self._source, self.name, self._cache, self.method(variable), is_wind(variable))

    def regrid(self, variable: str, values: Field) -> Field:
        """Return a field of the model's grid, ``(value,)``, as float32 ``(row, column)``."""
        weights = self.weights(variable)
        return through_parts(variable, values, lambda part: weights.apply(part[None])[0]).reshape(self.shape)


# one for all members of an ensemble, whose grids are objects of their own
@lru_cache(8)
def _weights(source: str, target: str, cache: Path, method: str, wind: bool) -> Weights:
    return interpolation_weights(source, target, cache, method, wind=wind)
