"""How many points a grid has, without the libraries that make grids."""

from __future__ import annotations

# Points of the grids in the model catalogue; others are asked of ecCodes, which takes longer to import than a plan.
_POINTS = {"N32": 6114, "N48": 13280, "N80": 35718, "N128": 88838, "N320": 542080}


def grid_points(name: str) -> int:
    """Return the number of points of a grid."""
    if name in _POINTS:
        return _POINTS[name]
    from aifs_ensemble.fields.grids import grid_coordinates

    return grid_coordinates(name).points
