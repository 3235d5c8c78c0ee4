"""Normalisation statistics for untrained checkpoints, from the table of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.parameter_rows import OTHER
from aifs_ensemble.common.parameters import find_variable, has_row


def mean_and_deviation(variable: str, given: Mapping[str, Sequence[float]] | None = None) -> tuple[float, float]:
    """Return global mean and standard deviation of a variable, in the model's units.

    `given` (variable name to the two numbers) comes first. A pressure level is interpolated in the logarithm of
    pressure. What is computed, or has no statistics in the table, has mean 0 and deviation 1.
    """
    if given and variable in given:
        mean, deviation = given[variable]
        return float(mean), float(deviation)
    if not has_row(variable):
        return 0.0, 1.0
    parameter, level = find_variable(variable)
    known = parameter.statistics or {OTHER: (0.0, 1.0)}
    if level in known or OTHER in known:
        return known.get(level, known.get(OTHER, (0.0, 1.0)))
    heights = np.log(sorted(known))
    pairs = [known[key] for key in sorted(known)]
    mean, deviation = (float(np.interp(np.log(level), heights, [pair[i] for pair in pairs])) for i in (0, 1))
    return mean, deviation


def statistics_of(
    variables: Sequence[str], given: Mapping[str, Sequence[float]] | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``mean``, ``stdev``, ``minimum`` and ``maximum``, each ``(variable,)``, as anemoi-models reads them."""
    pairs = np.array([mean_and_deviation(variable, given) for variable in variables])
    mean, stdev = pairs.T.copy()
    maximum = mean + 5 * stdev
    for index, variable in enumerate(variables):
        largest = find_variable(variable)[0].largest if has_row(variable) else None
        maximum[index] = maximum[index] if largest is None else largest
    return {"mean": mean, "stdev": stdev, "minimum": mean - 5 * stdev, "maximum": maximum}
