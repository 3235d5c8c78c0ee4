"""Statistics over the members of one field, in float64, a piece of the grid at a time.

Where one member misses a value (NaN), so do the statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aifs_ensemble.products.statistics.named_thresholds import AT_LEAST

Field = npt.NDArray[np.float32]
_PIECE = 1 << 14  # points: 50 members of them are 6.5 MB in float64


def mean_and_spread(members: Field) -> tuple[Field, Field]:
    """Return mean and standard deviation over the members, float32 ``(...)``, of ``(member, ...)``.

    The variance is divided by the number of members, as in ECMWF's products (pproc), not by one less.
    """
    mean, spread = np.empty((2, *members.shape[1:]), np.float32)
    for values, (one, other) in _pieces(members, mean, spread):
        doubles = values.astype(np.float64)
        average = doubles.mean(axis=0)
        one[:] = average
        doubles -= average
        other[:] = np.sqrt(np.square(doubles, out=doubles).mean(axis=0))
    return mean, spread


def probability(members: Field, comparison: str, threshold: float) -> Field:
    """Return how many of the members are at or above a threshold, or below it, in per cent, float32 ``(...)``.

    Values are compared as they are, in float32, and the threshold as the float32 next to it.
    """
    limit = np.float32(threshold)
    share = np.empty(members.shape[1:], np.float32)
    for values, (out,) in _pieces(members, share):
        met = values >= limit if comparison == AT_LEAST else values < limit
        out[:] = 100.0 * met.sum(axis=0) / len(values)
        out[np.isnan(values).any(axis=0)] = np.nan
    return share


def quantiles(members: Field, shares: Sequence[float]) -> Field:
    """Return quantiles over the members, float32 ``(quantile, ...)``.

    Linear between the sorted members, the lowest being the quantile 0 and the highest 1: numpy's default, type 7 of
    Hyndman and Fan (1996, doi:10.2307/2684934).
    """
    found = np.empty((len(shares), *members.shape[1:]), np.float32)
    place = np.asarray(shares, np.float64) * (len(members) - 1)
    below = np.minimum(np.floor(place).astype(int), max(len(members) - 2, 0))
    above, part = np.minimum(below + 1, len(members) - 1), place - below
    for values, outs in _pieces(members, *found):
        ordered = np.sort(values, axis=0).astype(np.float64)
        missing = np.isnan(ordered[-1])  # NaN sorts last
        for out, low, high, share in zip(outs, below, above, part, strict=True):
            out[:] = ordered[low] + share * (ordered[high] - ordered[low])
            out[missing] = np.nan
    return found


def speed(east: Field, north: Field) -> Field:
    """Return the wind speed of its components, float32."""
    return np.hypot(east, north)


def _pieces(members: Field, *results: Field) -> Iterator[tuple[Field, list[Field]]]:
    """Yield values of some points, ``(member, point)``, with where the results of these points go."""
    flat = members.reshape(len(members), -1)
    outs = [result.reshape(-1) for result in results]
    for start in range(0, flat.shape[1], _PIECE):
        part = slice(start, start + _PIECE)
        yield flat[:, part], [out[part] for out in outs]
