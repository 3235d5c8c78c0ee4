"""The model's own climate: quantiles of its weekly means and amounts over many cycles, by lead and week of the year.

A sample is one member of one cycle. Its values are those of the member's file of ``products.weekly``, or are made as
that is, of coarse leads or leads. What was gathered of a cycle is kept, and so is every file that was written of the
same samples: a run that was killed goes on. In memory is one band of latitudes of all samples of a file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.names import format_members, member_name, parse_cycle
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.climatology_names import WEEKS, model_climatology_path, week_of_year
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.weekly import attributes, write_weekly_file

LOG = logging.getLogger(__name__)
QUANTILES = (0.2, 0.4, 0.6, 0.8)
MEMORY = 512 << 20  # bytes of values held at once
Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A member of a cycle: the digest of its leads, that of its checkpoint, and the file of its periods."""

    cycle: str
    member: int
    digest: str
    checkpoint: str
    path: Path

    @property
    def line(self) -> str:
        """The sample as it is named in files."""
        return f"{self.cycle} {member_name(self.member)} {self.digest[:16]}"


def gather(config: Config, storage: Storage, cycle: str, folder: Path) -> list[Sample]:
    """Return the samples of a cycle at the destination; what has no file of periods there is made in `folder`.

    Members that are not delivered as asked for, or of which nothing is left to read, are left out with a line in the
    log. Raises StorageError when the destination does not answer.
    """
    own = config.of_cycle(cycle)
    destination = Destination(own, storage)
    found = []
    for member, standing in destination.standings().items():
        if not standing.whole or standing.manifest is None:
            LOG.warning("%s %s: left out: %s", cycle, member_name(member), standing.text)
            continue
        digest = standing.manifest.content_digest
        try:
            path = _weekly_file(own, destination, member, digest, folder / cycle / f"{member_name(member)}.nc")
        except InputError as error:
            LOG.warning("%s %s: left out: %s", cycle, member_name(member), error)
            continue
        checkpoint = str(standing.manifest.checkpoint.get("sha256", ""))
        found.append(Sample(cycle, member, digest, checkpoint, path))
    return found


def _weekly_file(config: Config, destination: Destination, member: int, digest: str, copy: Path) -> Path:
    """Return a file of a member's periods: that at the destination, the copy here, or one that is made now."""
    key = config.objects.weekly(member)
    grid = RegularGrid(config)
    if key in destination.listed and not config.cloud_destination:
        there = Path(config.destination or "") / key
        if _fits(config, there, digest, grid):
            return there
    if _fits(config, copy, digest, grid):
        return copy
    if key in destination.listed and config.cloud_destination:
        destination.storage.get_file(key, copy)
        if _fits(config, copy, digest, grid):
            return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_weekly_file(config, member, copy)
    return copy


def _fits(config: Config, path: Path, digest: str, grid: RegularGrid) -> bool:
    """Tell whether a file has the variables and periods that are asked for, of the member as it is delivered."""
    try:
        with netCDF4.Dataset(path) as data:
            starts, ends = (data[name][:].tolist() for name in ("period_start", "period_end"))
            hours = config.products.weekly.hours
            return (
                data.getncattr("member_digest") == digest
                and {(start, start + hours) for start in config.periods.values()} <= set(zip(starts, ends, strict=True))
                and all(name in data.variables for name in config.products.weekly.variables)
                and np.array_equal(data["latitude"][:], grid.latitudes)
                and np.array_equal(data["longitude"][:], grid.longitudes)
            )
    except (OSError, IndexError, KeyError, AttributeError, RuntimeError):  # none, or of another kind
        return False


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise InputError where there is no sample, and for samples of several checkpoints."""
    if not samples:
        raise InputError("climatology: no cycle has a member of it, expected delivered members")
    of = {sample.checkpoint: sample for sample in samples}
    if len(of) > 1:
        first, second, *_ = of.values()
        raise InputError(
            f"climatology: {first.cycle} was made with checkpoint {first.checkpoint[:16] or 'unknown'}, {second.cycle} "
            f"with {second.checkpoint[:16] or 'unknown'}, expected one model; name cycles of one"
        )


def write_climate(
    config: Config,
    samples: Sequence[Sample],
    folder: Path,
    *,
    quantiles: Sequence[float] = QUANTILES,
    window: int = 1,
    memory: int = MEMORY,
) -> Iterator[tuple[Path, int]]:
    """Write the quantiles of each variable, period and week of the year; yield each file and its number of samples.

    Parameters
    ----------
    window : weeks before and after a week whose samples count as its own, round the turn of the year
    memory : bytes of values that are read at once

    A week of which there are fewer samples than classes has no file. One that was written of the same samples is left.
    """
    for name in config.products.weekly.variables:
        for start in config.periods.values():
            weeks = [week_of_year(parse_cycle(one.cycle) + timedelta(hours=start)) for one in samples]
            for week in range(1, WEEKS + 1):
                near = zip(samples, weeks, strict=True)
                chosen = [one for one, own in near if weeks_apart(own, week) <= window]
                if len(chosen) <= len(quantiles):
                    continue
                path = model_climatology_path(config, folder, name, start, week)
                about = _about(config, chosen, name, start, week, window)
                if not _written(path, about, quantiles):
                    bounds = _quantiles(config, chosen, name, start, quantiles, memory)
                    _write(config, path, name, bounds, quantiles, chosen, about)
                yield path, len(chosen)


def weeks_apart(one: int, other: int) -> int:
    """Return how many weeks lie between two weeks of the year, the shorter way round."""
    apart = abs(one - other)
    return min(apart, WEEKS - apart)


def check_choice(quantiles: Sequence[float], window: int) -> None:
    """Raise ConfigError for quantiles that do not grow between 0 and 1, and for a window of half a year."""
    growing = all(low < high for low, high in pairwise(quantiles))
    if not (quantiles and growing and quantiles[0] > 0 and quantiles[-1] < 1):
        raise ConfigError(f"--quantiles: {' '.join(map(str, quantiles))}, expected shares that grow between 0 and 1")
    if not 0 <= window <= WEEKS // 2:
        raise ConfigError(f"--window: {window}, expected weeks, 0 to {WEEKS // 2}")


def _quantiles(
    config: Config, samples: Sequence[Sample], name: str, start: int, quantiles: Sequence[float], memory: int
) -> Field:
    """Return quantiles over samples, float32 ``(quantile, row, column)``: linear between the sorted values, as numpy's.

    Values are read a band of rows at a time. Amounts below zero, which packing leaves where it is dry, count as none.
    """
    amount = config.products.weekly.variables[name].statistic == "sum"
    rows, columns = RegularGrid(config).shape
    band = max(1, min(rows, memory // (4 * columns * len(samples))))
    found = np.empty((len(quantiles), rows, columns), np.float32)
    values = np.empty((len(samples), band, columns), np.float32)
    for first in range(0, rows, band):
        last = min(first + band, rows)
        for number, sample in enumerate(samples):
            with netCDF4.Dataset(sample.path) as data:
                place = data["period_start"][:].tolist().index(start)
                values[number, : last - first] = np.ma.filled(data[name][place, 0, first:last], np.nan)
        if amount:
            np.maximum(values, 0, out=values)
        found[:, first:last] = np.quantile(values[:, : last - first], quantiles, axis=0)
    return found


def _about(config: Config, samples: Sequence[Sample], name: str, start: int, week: int, window: int) -> dict[str, Any]:
    """Return the attributes of a file: model, cycles, members, and a digest of all samples."""
    model, item = config.model, config.products.weekly.variables[name]
    untrained = ", an untrained model: its values mean nothing" if model.untrained else ""
    hours = config.products.weekly.hours
    return {
        "Conventions": "CF-1.11",
        "title": f"Quantiles of {item.variable} in the climate of {model.name}: {item.statistic} over {hours} h from "
        f"{start} h on, week {week} of the year",
        "source": f"{model.name}{untrained}",
        "model": model.name,
        "checkpoint": samples[0].checkpoint,
        "period_start": start,
        "period_hours": hours,
        "week_of_year": week,
        "window_weeks": window,
        "cycles": " ".join(sorted({sample.cycle for sample in samples})),
        "members": format_members({sample.member for sample in samples}),
        "samples": len(samples),
        "samples_digest": sha256("\n".join(sample.line for sample in samples).encode()).hexdigest(),
    }


def _written(path: Path, about: dict[str, Any], quantiles: Iterable[float]) -> bool:
    """Tell whether a file is there, of the same samples and quantiles."""
    try:
        with netCDF4.Dataset(path) as data:
            same = all(data.getncattr(key) == value for key, value in about.items())
            return bool(same and np.array_equal(data["quantile"][:], list(quantiles)))
    except (OSError, IndexError, AttributeError, RuntimeError):
        return False


def _write(
    config: Config,
    path: Path,
    name: str,
    bounds: Field,
    quantiles: Sequence[float],
    samples: Sequence[Sample],
    about: dict[str, Any],
) -> None:
    item, grid = config.products.weekly.variables[name], RegularGrid(config)
    data = xr.Dataset(
        {
            name: (("quantile", "latitude", "longitude"), bounds, attributes(config, item)),
            "sample": (
                "sample_number",
                np.array([sample.line for sample in samples], object),
                {"long_name": "cycle, member and digest of its leads"},
            ),
        },
        {
            "quantile": ("quantile", np.array(quantiles, "f8"), {"long_name": "share of samples below", "units": "1"}),
            **netcdf.latitude_longitude(grid),
        },
        about,
    )
    netcdf.write_netcdf(data, path)
