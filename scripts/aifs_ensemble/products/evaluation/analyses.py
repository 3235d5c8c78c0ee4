"""What really happened: analyses on the grid of the products, from ECMWF's open data or the user's own GRIB files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DownloadError, InputError
from aifs_ensemble.common.parameters import parameter_of, variable_name
from aifs_ensemble.fields.grib_reader import Location, decode, scan_file
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.initial.constants import GRAVITY
from aifs_ensemble.initial.download import AbsentFieldsError, Downloader, FieldRequest, UnreachedSourcesError
from aifs_ensemble.initial.opendata import by_request, opendata_name, stream_of, to_model
from aifs_ensemble.initial.source import Regridder, in_model_units
from aifs_ensemble.products.evaluation.due import path_at

Field = npt.NDArray[np.float32]
LAND, _HEIGHT = "lsm", "gh"


class NoAnalysisError(InputError):
    """There is no analysis of a variable at a time; `failed` says that a download failed, so that there may be one."""

    def __init__(self, reason: str, *, failed: bool = False):
        super().__init__(reason)
        self.failed = failed


class Analyses:
    """Analyses of single variables at single times, float32 ``(row, column)`` on ``products.grid``.

    `now` decides which times nobody can have analysed yet.
    """

    def __init__(self, config: Config, now: datetime | None = None):
        settings = config.products.evaluation
        self._now = now or datetime.now(UTC)
        self._regridder = Regridder(config.products.grid, config.cache)
        self._shape = grid_coordinates(config.products.grid).shape
        self._read = _from_files(config) if settings.source == "file" else _from_open_data(config)

    def read(self, time: datetime, variable: str) -> Field:
        """Return a variable in units as delivered.

        Raises NoAnalysisError, saying why, where there is none; InputError for a file that is there and is not right;
        DownloadError when no source of open data can be reached.
        """
        if time > self._now:
            raise NoAnalysisError(f"{time:%Y-%m-%d %H} UTC is not over yet")
        values = self._read(time, variable, self._regridder)
        return (values * np.float32(parameter_of(variable).factor)).reshape(self._shape)


Reader = Callable[[datetime, str, Regridder], Field]


def _from_open_data(config: Config) -> Reader:
    """Return a reader of step 0 of the deterministic forecast, which is the analysis that all members start around."""
    settings = config.initial_conditions.ecmwf_open_data
    downloader = Downloader(list(settings.sources), settings, config.cache / "opendata", once=True)

    def read(time: datetime, variable: str, regridder: Regridder) -> Field:
        ((group, names),) = by_request([variable]).items()
        request = FieldRequest(time, stream_of("oper", group), "fc", tuple(names))
        downloader.deadline.restart()  # it is for each field alone
        try:
            answer = downloader.fetch(request)
        except UnreachedSourcesError as error:
            raise DownloadError(f"no source of analyses can be reached: {error}") from None
        except (InputError, DownloadError) as error:
            failed = isinstance(error, DownloadError) and not isinstance(error, AbsentFieldsError)
            raise NoAnalysisError(str(error), failed=failed) from None
        return to_model(answer, regridder)[variable]

    return read


def _from_files(config: Config) -> Reader:
    """Return a reader of the user's files: analyses, or step 0 of forecasts, of no member or of number 0."""
    pattern = config.products.evaluation.path or ""
    scan = cache(scan_file)

    def read(time: datetime, variable: str, regridder: Regridder) -> Field:
        path = path_at(config, pattern, time, "path")
        if not path.exists():
            raise NoAnalysisError(f"{path}: no such file")
        location = _one(path, scan(path), variable, time)
        grid, values = decode(location.read(), f"{path}: {location.header}")
        if location.header.field.name == _HEIGHT:
            values = values * np.float32(GRAVITY)
        return regridder.to_model(grid, {variable: in_model_units(location.header, values)})[variable]

    return read


def _one(path: Path, found: list[Location], variable: str, time: datetime) -> Location:
    """Return the analysis of a variable at a time among messages; of the land, which stays, that of any time."""
    names = {variable, variable_name(opendata_name(variable))}  # geopotential may come as height
    named = [one for one in found if variable_name(one.header.field) in names and one.header.number in (None, 0)]
    then = [one for one in named if variable == LAND or (one.header.time == time and one.header.step == "0")]
    if not then:
        times = sorted({f"{one.header.time:%Y-%m-%d %H} step {one.header.step}" for one in named})
        has = f", found {', '.join(times[:3])}{' ...' if len(times) > 3 else ''}" if times else ""
        raise NoAnalysisError(f"{path}: no {variable} at {time:%Y-%m-%d %H} UTC{has}")
    if len(then) > 1 and variable != LAND:
        raise InputError(f"{path}: {len(then)} fields of {then[0].header}, expected one")
    return then[0]
