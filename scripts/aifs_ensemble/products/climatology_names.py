"""Names of the user's files that classes of periods are made with: known from the cycle, before anything runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from aifs_ensemble.common.config import Config

WEEKS = 52


def climatology_path(config: Config, name: str, period: str) -> Path:
    """Return the file of a variable and period, by the names of AI Weather Quest's own."""
    weekly = config.products.weekly
    kind = weekly.variables[name].statistic.upper()
    day = config.cycle_time + timedelta(hours=config.periods[period])
    return Path(weekly.climatology or "") / f"{name}_20yrCLIM_WEEKLY{kind}_quintiles_{day:%Y%m%d}.nc"


def week_of_year(day: datetime) -> int:
    """Return the week of the year, 1 to 52, that a day is in: the first has days 1 to 7, the last one eight or nine."""
    return min((day.timetuple().tm_yday - 1) // 7 + 1, WEEKS)


def model_climatology_path(config: Config, folder: Path, name: str, start: int, week: int) -> Path:
    """Return the file of the model's own climate: of a variable, the first hour of a period and a week of the year."""
    kind = config.products.weekly.variables[name].statistic.upper()
    return folder / f"{name}_modelCLIM_WEEKLY{kind}_quintiles_h{start:03d}_w{week:02d}.nc"


def own_climatology_path(config: Config, name: str, period: str) -> Path:
    """Return the file of the model's own climate in which a period of the configuration is."""
    start = config.periods[period]
    week = week_of_year(config.cycle_time + timedelta(hours=start))
    return model_climatology_path(config, Path(config.products.weekly.model_climatology or ""), name, start, week)
