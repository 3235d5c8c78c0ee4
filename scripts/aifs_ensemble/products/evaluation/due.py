"""Which leads are scored, when there may be analyses, and what files come of it: all that the plan of a run asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError

TABLE, DATA = "scores.csv", "scores.nc"
THEMES, KINDS = ("light", "dark"), ("svg", "png")  # of `common.themes`, which would import matplotlib


def evaluated_leads(config: Config) -> list[int]:
    """Return the leads in hours that are compared with analyses."""
    every = config.products.evaluation.every_hours
    return [lead for lead in config.leads if lead % every == 0]


def evaluation_due(config: Config, now: datetime | None = None) -> bool:
    """Tell whether the valid time of a scored lead is over, so that somebody may have analysed it."""
    leads = evaluated_leads(config)
    return bool(leads) and config.cycle_time + timedelta(hours=leads[0]) <= (now or datetime.now(UTC))


def path_at(config: Config, pattern: str, time: datetime, key: str) -> Path:
    """Return the file that a pattern names for a valid time; ConfigError for a placeholder that is not known."""
    try:
        return Path(pattern.format(cycle=config.cycle, valid=time))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"config: products.evaluation.{key}: {pattern!r}: {error}, expected placeholders {{cycle}} or "
            "{valid:%Y%m%d_%H}"
        ) from None


def observed_path(config: Config, name: str, period: str) -> Path:
    """Return the file of an observed week, as AI Weather Quest names it."""
    kind = config.products.weekly.variables[name].statistic.upper()
    day = config.cycle_time + timedelta(hours=config.periods[period])
    return Path(config.products.evaluation.observations or "") / f"{name}_obs_WEEKLY{kind}_{day:%Y%m%d}.nc"


def figure_name(variable: str) -> str:
    """Return the name of the figure of a variable."""
    return f"scores_{variable}"


def evaluation_files(config: Config) -> list[str]:
    """Return the names of the files of an evaluation: table, data set, then figures in both themes."""
    figures = [figure_name(name) for name in config.products.evaluation.variables]
    return [TABLE, DATA, *(f"{name}-{theme}.{kind}" for name in figures for theme in THEMES for kind in KINDS)]
