"""The comparison as one NetCDF file, written lead by lead: the whole of it is never in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from aifs_ensemble.common.config import Config
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.compare.fields import Compared
from aifs_ensemble.products.regular_grid import RegularGrid


class ComparisonFile:
    """A file that is being written; see `comparison_file`."""

    def __init__(self, file: netcdf.LeadByLead) -> None:
        self._file = file

    def put(self, variable: str, lead: int, compared: Compared) -> None:
        """Store a variable at one lead."""
        self._file.put(f"{variable}_difference", lead, compared.difference)
        self._file.put(f"{variable}_spread", lead, np.stack(compared.spreads))


@contextmanager
def comparison_file(
    units: tuple[Config, Config],
    path: Path,
    variables: Sequence[str],
    leads: Sequence[int],
    attributes: Mapping[str, str],
) -> Iterator[ComparisonFile]:
    """Write a file atomically whose values are put lead by lead.

    Of each variable NAME it has NAME_difference ``(time, latitude, longitude)``, the second model's mean less the
    first's, and NAME_spread ``(time, model, latitude, longitude)``. Raises StorageError where it cannot be written.
    """
    first, second = units
    with netcdf.lead_by_lead(path, leads, attributes) as file:
        file.data.createDimension("model", len(units))
        file.grid(RegularGrid(first))
        model = file.data.createVariable("model", str, ("model",))
        model.long_name = "model of the ensemble"
        for place, one in enumerate(units):
            model[place] = one.model.name
        file.times(first)
        for name in variables:
            # a difference of temperatures is none that has the zero of their scale: no standard name
            about = {"units": netcdf.cf_attributes(name)["units"], "cell_methods": netcdf.cell_methods(first, name)}
            difference = f"{name}, ensemble mean of {second.model.name} less that of {first.model.name}"
            spread = f"{name}, ensemble standard deviation (1/m) of each model"
            file.field(f"{name}_difference", (), about | {"long_name": difference})
            file.field(f"{name}_spread", ("model",), about | {"long_name": spread})
        yield ComparisonFile(file)
