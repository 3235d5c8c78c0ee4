"""Which leads are scored, when there may be analyses, and what files come of it: all that the plan of a run asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aifs_ensemble.common.config import Config

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


def figure_name(variable: str) -> str:
    """Return the name of the figure of a variable."""
    return f"scores_{variable}"


def evaluation_files(config: Config) -> list[str]:
    """Return the names of the files of an evaluation: table, data set, then figures in both themes."""
    figures = [figure_name(name) for name in config.products.evaluation.variables]
    return [TABLE, DATA, *(f"{name}-{theme}.{kind}" for name in figures for theme in THEMES for kind in KINDS)]
