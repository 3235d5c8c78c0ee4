"""Directions and their cosines and sines: the models have the two, GRIB has degrees.

Other grids, and means, are made of the two: halfway between 350 and 10 degrees is north.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.parameters import parts_of

Field = npt.NDArray[np.float32]


def whole(parts: Sequence[Field]) -> Field:
    """Return a field made of what the models have of it: itself, or degrees of a cosine and a sine.

    These need not be of length 1, as a network's are not. Degrees are from 0 to below 360, clockwise from north if the
    two are northward and eastward; NaN where one of the two is.
    """
    if len(parts) == 1:
        return parts[0]
    cosine, sine = (part.astype(np.float64) for part in parts)
    degrees = np.rad2deg(np.arctan2(sine, cosine)) % 360
    degrees[np.isinf(cosine) | np.isinf(sine)] = np.inf  # no direction, and not to be taken for one
    below = np.nextafter(np.float32(360), np.float32(0))  # for what would be rounded up
    return np.where(np.isinf(degrees), np.float32(np.inf), np.minimum(degrees.astype(np.float32), below))


def split(degrees: Field) -> tuple[Field, Field]:
    """Return cosine and sine of a field in degrees."""
    angle = np.deg2rad(degrees.astype(np.float64))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def through_parts(variable: str, field: Field, change: Callable[[Field], Field]) -> Field:
    """Return a field after a linear `change`, such as to another grid: of a direction its two parts are changed."""
    return change(field) if len(parts_of(variable)) == 1 else whole([change(part) for part in split(field)])
