"""The user's climatological quantiles, checked before anything is compared with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.sections import PeriodVariable
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.products.regular_grid import RegularGrid

_QUANTILES = ("quantile", "quintile", "tercile")
LATITUDES = ("latitude", "lat")
LONGITUDES = ("longitude", "lon")
# the same amount of water: a kilogram on a square metre is a millimetre
_SAME_UNITS = {"mm": "kg m-2", "kg m**-2": "kg m-2", "kg/m2": "kg m-2", "kelvin": "K", "pascal": "Pa"}


@dataclass(frozen=True)
class Climatology:
    """Bounds between classes.

    Attributes
    ----------
    probabilities : float64 ``(bound,)``, the share of years below each bound, e.g. 0.2, 0.4, 0.6, 0.8
    bounds : float32 ``(bound, row, column)`` on the products' grid, in units as delivered
    """

    path: Path
    probabilities: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.float32]


def read_model_climatology(config: Config, path: Path, item: PeriodVariable, grid: RegularGrid) -> Climatology:
    """Return the bounds in a file of the model's own climate; InputError also for another model's, or other periods."""
    what = f"the quantiles of {item.variable} in the model's own climate (products.weekly.model_climatology)"
    attributes = opened(path, what).attrs
    for key, expected in (("model", config.model.name), ("period_hours", config.products.weekly.hours)):
        found = attributes.get(key)
        if found is None or str(found) != str(expected):
            raise InputError(f"{path}: {key} {found}, expected {expected}")
    return read_climatology(path, item, grid)


def read_climatology(path: Path, item: PeriodVariable, grid: RegularGrid) -> Climatology:
    """Return the bounds in a file, turned to rows from north to south and columns from 0 eastward.

    Raises InputError, naming the file, for another grid, other units, values that are missing everywhere, and bounds
    that do not grow.
    """
    data = opened(path, f"the quantiles of {item.variable} (products.weekly.climatology)")
    names = [str(name) for name in data.data_vars if data[name].ndim >= 3]
    if len(names) != 1:
        raise InputError(f"{path}: fields {', '.join(names) or 'none'}, expected one of quantiles on a grid")
    field = data[names[0]]
    single = [name for name, count in field.sizes.items() if count == 1 and name not in _QUANTILES]
    field = field.squeeze(single, drop=True)
    quantile, latitude, longitude = (dimension(path, field, known) for known in (_QUANTILES, LATITUDES, LONGITUDES))
    field = field.transpose(quantile, latitude, longitude)
    check_units(path, field, item.variable)
    probabilities = _probabilities(path, field, quantile)
    field = turned(path, field.sortby(quantile), latitude, longitude, grid)
    bounds = field.to_numpy().astype(np.float32)
    _check_bounds(path, bounds, item)
    return Climatology(path, np.sort(probabilities), bounds)


def turned(path: Path, field: xr.DataArray, latitude: str, longitude: str, grid: RegularGrid) -> xr.DataArray:
    """Return a field with rows from north to south and columns from 0 eastward; InputError for another grid."""
    field = field.assign_coords({longitude: np.mod(field[longitude], 360)})
    field = field.sortby(longitude).sortby(latitude, ascending=False)
    for name, expected in ((latitude, grid.latitudes), (longitude, grid.longitudes)):
        found = field[name].to_numpy()
        if found.shape != expected.shape or np.abs(found - expected).max() > 1e-3:
            ends = f"{found.size} from {found[0]:g} to {found[-1]:g}"
            raise InputError(
                f"{path}: {name} {ends}, expected {expected.size} from {expected[0]:g} to {expected[-1]:g}"
            )
    return field


def opened(path: Path, what: str) -> xr.Dataset:
    """Return the content of a NetCDF file; InputError, saying `what` was expected, where it is none."""
    try:
        with xr.open_dataset(path, engine="netcdf4", decode_times=False) as data:
            return data.load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected {what}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a NetCDF file ({error})") from None


def dimension(path: Path, field: xr.DataArray, known: tuple[str, ...]) -> str:
    for name in known:
        if name in field.dims and name in field.coords:
            return name
    dims = ", ".join(map(str, field.dims))
    raise InputError(f"{path}: dimensions {dims}, expected {' or '.join(known)} among them, with values")


def check_units(path: Path, field: xr.DataArray, variable: str) -> None:
    """Raise InputError for units that are not those in which a variable is delivered."""
    expected = parameter_of(variable).cf_units
    units = str(field.attrs.get("units", "")).strip()
    if units and _SAME_UNITS.get(units.lower(), units) != expected:
        raise InputError(f"{path}: units {units!r}, expected {expected!r} as {variable} is delivered")


def _probabilities(path: Path, field: xr.DataArray, quantile: str) -> npt.NDArray[np.float64]:
    values = field[quantile].to_numpy().astype(np.float64)
    if not (np.unique(values).size == values.size and (values > 0).all() and (values < 1).all()):
        raise InputError(f"{path}: {quantile} {values.tolist()}, expected shares such as 0.2, 0.4, 0.6, 0.8")
    return values


def _check_bounds(path: Path, bounds: npt.NDArray[np.float32], item: PeriodVariable) -> None:
    """Refuse what cannot be a climatology of the variable: order, and a scale that is off by a factor of a thousand."""
    if np.isnan(bounds).all():
        raise InputError(f"{path}: every value is missing, expected quantiles of {item.variable}")
    if (np.diff(bounds, axis=0) < 0).any():
        raise InputError(f"{path}: a higher quantile is smaller than a lower one, expected them to grow")
    low, high = float(np.nanmin(bounds)), float(np.nanmax(bounds))
    if item.statistic == "sum":
        # the wettest climatological week on Earth has some 500 mm in its upper quintile; metres would have 0.5
        if low < 0 or not 1 < high < 5000:
            raise InputError(f"{path}: {low:g} to {high:g}, expected amounts in {parameter_of(item.variable).cf_units}")
        return
    parameter = parameter_of(item.variable)
    smallest, largest = (value * parameter.factor for value in parameter.plausible(0))
    if low < smallest or high > largest:
        raise InputError(f"{path}: {low:g} to {high:g}, expected {smallest:g} to {largest:g} {parameter.cf_units}")
