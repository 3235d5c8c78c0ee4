"""Scores of an ensemble against an analysis: formulas at each point, and their means over areas.

Shapes: `members` is ``(member, ...)``, `truth` ``(...)`` of the same units; results are ``(...)``. A point without an
analysis (NaN) has no score.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]


def fair_crps(members: Values, truth: Values) -> Scores:
    """Return the fair continuous ranked probability score at each point, float64, in the units of the field.

    ``mean |x_i - y| - sum_ij |x_i - x_j| / (2 m (m - 1))``: Ferro (2014), Quart. J. Roy. Meteor. Soc. 140, 1917-1923,
    eq. 8. It expects what an ensemble of infinitely many such members would have. The double sum is
    ``2 sum_i (2 i - m - 1) x_(i)`` over sorted members. A single field has its absolute error.
    """
    count = len(members)
    errors = members - truth
    mean = np.abs(errors).mean(axis=0, dtype=np.float64)
    if count == 1:
        return mean
    errors.sort(axis=0)  # in float32: four times as fast, and differences are exact enough in it
    factors = 2.0 * np.arange(1, count + 1) - count - 1
    between = np.tensordot(factors, errors.astype(np.float64), axes=1)  # half of the double sum
    return mean - between / (count * (count - 1))


def squared_error(members: Values, truth: Values) -> Scores:
    """Return the squared error of the mean of the members, float64."""
    return (members.astype(np.float64).mean(axis=0) - truth) ** 2


def error_of_mean(members: Values, truth: Values) -> Scores:
    """Return the mean of the members less the analysis, float64: over an area, the bias."""
    return members.astype(np.float64).mean(axis=0) - truth


def predicted_variance(members: Values) -> Scores:
    """Return the variance that the error of the ensemble's mean has if the members are as good as their spread says.

    ``(m + 1) / m`` times the variance with ``1 / (m - 1)``: Fortin et al. (2014), J. Hydrometeor. 15, 1708-1713.
    The root of its mean over an area, the spread, is to equal the root of the mean squared error.
    """
    count = len(members)
    return members.astype(np.float64).var(axis=0, ddof=1) * ((count + 1) / count)


def rank_shares(members: Values, truth: Values) -> Scores:
    """Return the shares of ranks that the analysis may have among the members, ``(rank, ...)``, summing to 1.

    Rank 0 is below all members, rank m above. Where members equal the analysis, all ranks that it may have get the
    same share: the expectation of the random choice of Hamill (2001), Mon. Wea. Rev. 129, 550-560.
    """
    count = len(members)
    below, equal = (members < truth).sum(axis=0), (members == truth).sum(axis=0)
    rank = np.arange(count + 1).reshape(-1, *[1] * truth.ndim)
    shares = ((rank >= below) & (rank <= below + equal)) / (equal + 1.0)
    return np.where(np.isnan(truth) | np.isnan(members).any(axis=0), np.nan, shares)


def observed_class(truth: Values, bounds: Values) -> Scores:
    """Return which class happened as probabilities of 0 and 1, ``(class, ...)``; NaN where all bounds are the same.

    `bounds` is ``(bound, ...)``. A class holds its lower bound and not its upper one; where both are the same nothing
    lies between them. Source: ``conditional_obs_probs`` of AI-WQ-package 3.33, which masks deserts so.
    """
    rank = (truth[None] >= bounds).sum(axis=0)
    happened = (np.arange(len(bounds) + 1).reshape(-1, *[1] * truth.ndim) == rank).astype(np.float64)
    unknown = (bounds.min(axis=0) == bounds.max(axis=0)) | np.isnan(truth) | np.isnan(bounds).any(axis=0)
    return np.where(unknown, np.nan, happened)


def ranked_probability_score(probabilities: Values, happened: Values) -> Scores:
    """Return the ranked probability score at each point: squared differences of cumulated probabilities, summed.

    Both are ``(class, ...)``. Source: Epstein (1969), J. Appl. Meteor. 8, 985-987; ``calculate_RPS`` of
    AI-WQ-package 3.33, which does not divide by the number of classes either.
    """
    return ((np.cumsum(probabilities, axis=0) - np.cumsum(happened, axis=0)) ** 2).sum(axis=0)


def area_mean(values: Values, weights: Scores) -> Scores:
    """Return the weighted mean over the last two dimensions, rows and columns, of what is not NaN; NaN of nothing.

    `weights` is ``(row, column)``, 0 outside the area.
    """
    usable = np.isfinite(values)
    total = (usable * weights).sum(axis=(-2, -1))
    sums = (np.where(usable, values, 0.0) * weights).sum(axis=(-2, -1))
    return np.divide(sums, total, out=np.full_like(np.asarray(sums, np.float64), np.nan), where=total > 0)


def area_weights(
    latitudes: npt.NDArray[np.float64],
    longitudes: npt.NDArray[np.float64],
    bounds: tuple[float, float, float, float],
) -> Scores:
    """Return the weight of each point of a regular grid in an area, ``(row, column)``: the cosine of its latitude.

    `bounds` are north, west, south and east in degrees, included; west may be above east, across 0 E. The cosine is
    that of the WMO's standardised verification (Manual on the GDPFS, WMO-No. 485).
    """
    north, west, south, east = bounds
    rows = (latitudes <= north) & (latitudes >= south)
    columns = (longitudes - west) % 360 <= (east - west if east >= west else east - west + 360)
    weights = np.outer(rows * np.cos(np.deg2rad(latitudes)), columns)
    return np.maximum(weights, 0.0)
