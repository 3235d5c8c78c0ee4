"""Whether the products of the whole ensemble can be made of what the forecasts will hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.parameters import is_direction, parameter_of
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.wind_speed import sources, wind_speed

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config


def check_statistics(config: Config) -> None:
    """Raise ConfigError for statistics of what the model does not make, or over windows that are not its steps."""
    statistics, step = config.products.statistics, config.model.timestep_hours
    if not statistics.enabled:
        return
    for variable in statistics.variables:
        _check_made(config, f"statistics.variables: {variable}", variable)
        refuse_direction("statistics.variables", variable)
        if wind_speed(variable) is None and parameter_of(variable).template != 1:
            raise ConfigError(
                f"config: products.statistics.variables: {variable!r}: GRIB2 has no statistics of waves of some "
                "periods, expected another variable, such as swh"
            )
    for hours in statistics.windows:
        if hours < step or hours % step or (hours > 24 and hours % 24) or (hours < 24 and 24 % hours):
            raise ConfigError(
                f"config: products.statistics.windows: {hours}, expected whole days, or hours that divide a day and "
                f"are a multiple of {step}"
            )
    for key in ("at_least", "below"):
        for variable in getattr(statistics, key):
            # of the default thresholds, those that a user's variables leave out are no mistake
            if variable not in statistics.variables:
                _check_made(config, f"statistics.{key}.{variable}", variable)


def refuse_direction(key: str, name: str) -> None:
    """Raise ConfigError for a direction, whose degrees have no mean, spread or quantiles."""
    if wind_speed(name) is None and is_direction(name):
        raise ConfigError(f"config: products.{key}: {name!r}: a direction has no mean, expected another variable")


def check_areas(config: Config) -> None:
    """Raise ConfigError for an area of scores and comparisons that has no point of the products' grid."""
    grid = config.products.grid
    columns, rows = (round(180 / float(degrees)) for degrees in grid.split("x"))
    for name, (north, west, south, east) in config.products.evaluation.areas.items():
        width = east - west if east >= west else east - west + 360
        in_row = any((column * (180 / columns) - west) % 360 <= width for column in range(2 * columns))
        if not in_row or not any(south <= 90 - row * (180 / rows) <= north for row in range(rows + 1)):
            raise ConfigError(
                f"config: products.evaluation.areas.{name}: {[north, west, south, east]}, expected an area "
                f"with a point of products.grid, {grid}"
            )


def check_cube(config: Config) -> None:
    """Raise ConfigError for a cube of what the model does not make."""
    if config.products.cube.enabled:
        for variable in config.products.cube.regular:
            if wind_speed(variable):
                raise ConfigError(
                    f"config: products.cube.regular: {variable!r}, expected variables of the model itself"
                )
            _check_made(config, f"cube.regular: {variable}", variable)


def _check_made(config: Config, key: str, name: str) -> None:
    """Raise ConfigError unless the model makes a variable, or the components of a wind speed."""
    model = config.model
    if missing := [source for source in sources(name) if source not in model.delivered]:
        if wind_speed(name):
            raise ConfigError(
                f"config: products.{key}: {model.name} makes no {' and '.join(missing)}, expected both "
                "components of a wind speed"
            )
        meant = hint(name, [*model.delivered, "10si", "100si"], f"such as {model.delivered[0]}")
        raise ConfigError(f"config: products.{key}: {name!r}, expected a variable that {model.name} makes, {meant}")
