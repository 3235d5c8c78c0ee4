"""Periods of a forecast: which leads make a mean or an amount over one."""

from __future__ import annotations

from aifs_ensemble.common.daily import DAY


def weights_of_leads(
    statistic: str, start: int, hours: int, *, step: int = 6, from_start: bool = True
) -> dict[int, float]:
    """Return the leads in hours that make a statistic of a period, each with its weight.

    A mean is that of the values from `start` until before the end. An amount is the difference of two amounts since
    the start of the forecast, or the sum of the amounts of each step.
    """
    if statistic == "mean":
        leads = range(start, start + hours, step)
        return dict.fromkeys(leads, 1 / len(leads))
    if from_start:
        return {start: -1.0, start + hours: 1.0}
    return dict.fromkeys(range(start + step, start + hours + step, step), 1.0)


def window_ends(hours: int, lead: int) -> bool:
    """Tell whether a window of amounts ends at a lead: at each multiple of its length, of days at each day."""
    return hours <= lead and not lead % min(hours, DAY)
