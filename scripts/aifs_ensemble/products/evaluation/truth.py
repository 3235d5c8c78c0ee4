"""What the user has beside analyses: a climatology of fields, and observed weeks."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.products.climatology import LATITUDES, LONGITUDES, check_units, dimension, opened, turned
from aifs_ensemble.products.evaluation.due import observed_path, path_at
from aifs_ensemble.products.regular_grid import RegularGrid

Field = npt.NDArray[np.float32]


def climatology_at(config: Config, time: datetime, variable: str, grid: RegularGrid) -> Field | None:
    """Return the fields of a climatology, float32 ``(year, row, column)``, a single one for a mean; None without any.

    The file has variables by the model's names, on latitude and longitude and at most one dimension more.
    Raises InputError for a file that is there and is not right.
    """
    pattern = config.products.evaluation.climatology
    if not pattern:
        return None
    path = path_at(config, pattern, time, "climatology")
    if not path.exists():
        return None
    data = opened(path, "a climatology")
    if variable not in data:
        return None
    field = data[variable].squeeze(drop=True)
    latitude, longitude = (dimension(path, field, known) for known in (LATITUDES, LONGITUDES))
    others = [name for name in field.dims if name not in (latitude, longitude)]
    if len(others) > 1:
        raise InputError(
            f"{path}: {variable}: dimensions {', '.join(map(str, field.dims))}, expected one beside a grid"
        )
    check_units(path, field, variable)
    field = turned(path, field.transpose(*others, latitude, longitude), latitude, longitude, grid)
    values = field.to_numpy().astype(np.float32)
    return values if others else values[None]


def observed_week(config: Config, name: str, period: str, grid: RegularGrid) -> Field | None:
    """Return an observed mean or sum of a period, float32 ``(row, column)``; None without a file of it.

    Names are those of AI Weather Quest: ``{name}_obs_WEEKLY{MEAN|SUM}_{first day}.nc`` in one folder.
    """
    folder, weekly = config.products.evaluation.observations, config.products.weekly
    if not folder:
        return None
    item, path = weekly.variables[name], observed_path(config, name, period)
    if not path.exists():
        return None
    data = opened(path, f"observed {item.variable}")
    fields = [str(field) for field in data.data_vars if data[field].squeeze().ndim == 2]
    if len(fields) != 1:
        raise InputError(f"{path}: fields {', '.join(fields) or 'none'}, expected one on a grid")
    field = data[fields[0]].squeeze(drop=True)
    latitude, longitude = (dimension(path, field, known) for known in (LATITUDES, LONGITUDES))
    check_units(path, field, item.variable)
    field = turned(path, field.transpose(latitude, longitude), latitude, longitude, grid)
    return field.to_numpy().astype(np.float32)
