"""When the inputs of a cycle are published, and waiting for them: index files are asked for, never fields.

How soon after a run its step 0 can be had as open data. Only the first row is used, as the time before which nobody is
asked; the others say how long a wait may be.

=========================  ==========  ===============================================================================
what                       after       where it is from
=========================  ==========  ===============================================================================
control and deterministic  6 h 45 min  ECMWF's dissemination schedule, set I: step 0 of 00, 06, 12 and 18 UTC leaves at
                                       05:45, 11:45, 17:45 and 23:45 (confluence.ecmwf.int, DAC, "Dissemination
                                       schedule", read 2026-11-29); open data follows an hour later (DAC, "ECMWF open
                                       data: real-time forecasts", "Availability")
open data, any stream      7 to 9 h    ecmwf-opendata 0.3.35, its description: "between 7 and 9 hours after the
                                       forecast starting date and time"
deterministic, all steps   7 h 40 min  open-meteo/open-meteo pull request 1516 (2025-10-02): 00 and 12 UTC; 7 h 00 min
                                       of 06 and 18 UTC
=========================  ==========  ===============================================================================

When the copies at Google, AWS and Azure have it is in none of these.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.text import duration

EARLIEST = timedelta(hours=6, minutes=45)
USUAL = timedelta(hours=9)
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 600.0


def due(config: Config, cycle_time: datetime) -> datetime:
    """Return the time before which nobody is asked for the inputs of a cycle."""
    return cycle_time + EARLIEST if config.initial_conditions.source == "ecmwf-open-data" else cycle_time


def wait_for_inputs(
    config: Config, lacking: Callable[[], str], say: Callable[[str], None], since: datetime | None = None
) -> None:
    """Return once the inputs of the cycle are there; InputError when ``wait_hours`` are over before.

    `lacking` asks the source, and returns what it lacks, in words, or an empty text. It is asked when the cycle is due,
    then after a minute, and after twice as long each time, up to ten minutes. `since` is when the wait began, of which
    this cycle may be one; by default now.
    """
    hours = config.initial_conditions.wait_hours
    begin = clock.now()
    end = (since or begin) + timedelta(hours=hours)
    first = min(due(config, config.cycle_time), end)
    if first > begin:
        say(f"{config.cycle}: not published before {first:%Y-%m-%d %H:%M} UTC, waiting")
        clock.sleep((first - begin).total_seconds())
    told, wait = "", _FIRST_WAIT
    while missing := lacking():
        now = clock.now()
        if now >= end:
            raise InputError(
                f"config: cycle: {config.cycle!r} did not appear within initial_conditions.wait_hours, {hours:g}: "
                f"{missing}"
            )
        if missing != told:
            say(f"{config.cycle}: {missing}; waiting, for {duration((end - now).total_seconds())} at most")
            told = missing
        clock.sleep(min(wait, (end - now).total_seconds()))
        wait = min(2 * wait, _LONGEST_WAIT)
    if told:
        say(f"{config.cycle}: its inputs are there, after {duration((clock.now() - begin).total_seconds())}")
