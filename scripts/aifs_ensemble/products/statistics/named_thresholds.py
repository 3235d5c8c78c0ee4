"""The thresholds that GRIB can name: ECMWF's own, each a parameter of its own in ecCodes.

A probability over any other threshold reads back as the parameter itself, a temperature in K say (ecCodes 2.50). Such
ones go to NetCDF alone. tests/products/test_statistics_grib.py holds the table to ecCodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from aifs_ensemble.common.config import Config

AT_LEAST, BELOW = "at_least", "below"
_RAIN = {1: 131060, 5: 131061, 10: 131062, 20: 131063, 25: 131098, 40: 131082, 50: 131099, 60: 131083, 80: 131084,
         100: 131085, 150: 131086, 200: 131087, 300: 131088}  # fmt: skip
_NUMBERS: dict[tuple[str, str], dict[float, int]] = {
    ("tp", AT_LEAST): {float(mm): number for mm, number in _RAIN.items()},
    ("10si", AT_LEAST): {10.0: 131068, 15.0: 131069},
    ("swh", AT_LEAST): {2.0: 131074, 4.0: 131075, 6.0: 131076, 8.0: 131077},
    ("2t", BELOW): {273.15: 131073},
}
_SHORT_NAMES = {("tp", AT_LEAST): "tpg{:g}", ("10si", AT_LEAST): "10spg{:g}", ("swh", AT_LEAST): "swhg{:g}",
                ("2t", BELOW): "2tl{:.0f}"}  # fmt: skip


@dataclass(frozen=True)
class NamedThreshold:
    """A threshold with ECMWF's number and short name of its probability."""

    comparison: str
    value: float
    param_id: int
    short_name: str


def named_thresholds(config: Config, variable: str) -> list[NamedThreshold]:
    """Return those thresholds of a variable that GRIB can name, in the order of the configuration."""
    statistics = config.products.statistics
    return [
        NamedThreshold(comparison, value, number, _SHORT_NAMES[variable, comparison].format(int(value)))
        for comparison, given in ((AT_LEAST, statistics.at_least), (BELOW, statistics.below))
        for value in map(float, given.get(variable, ()))
        if (number := _NUMBERS.get((variable, comparison), {}).get(value))
    ]


def all_named() -> list[tuple[str, NamedThreshold]]:
    """Return every threshold of the table with its variable."""
    return [
        (variable, NamedThreshold(comparison, value, number, _SHORT_NAMES[variable, comparison].format(int(value))))
        for (variable, comparison), numbers in _NUMBERS.items()
        for value, number in numbers.items()
    ]
