"""Names of the files that AI Weather Quest takes; its package makes and sends them, the same names and content."""

from __future__ import annotations

from aifs_ensemble.common.config import Config

# the periods of a submission by their first hour (AI-WQ-package 3.33, ``forecast_submission``)
_PERIODS = {432: "1", 600: "2"}


def submission_names(config: Config) -> list[tuple[str, str, str]]:
    """Return variable, period and file name of each file of a submission to AI Weather Quest; none without a team."""
    weekly = config.products.weekly
    if not weekly.team:
        return []
    day = config.objects.day
    return [
        (name, period, f"{name}_{day}_p{_PERIODS[start]}_{weekly.team}_{weekly.submission_model}.nc")
        for period, start in config.periods.items()
        if start in _PERIODS
        for name in weekly.variables
    ]


def unmade_periods(config: Config) -> list[str]:
    """Return one line if periods of ``products.weekly`` are not made, because the forecast ends before them."""
    weekly = config.products.weekly
    left_out = [start for name, start in weekly.named_periods.items() if weekly.enabled and name not in config.periods]
    if not left_out:
        return []
    ends = ", ".join(f"{start}-{start + weekly.hours} h" for start in left_out)
    return [f"products.weekly: {ends} not made, the forecast ends at {config.lead_hours} h"]
