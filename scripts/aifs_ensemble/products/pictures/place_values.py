"""Values of the ensemble at places, from the nearest point of the model's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.product_reads import METEOGRAM
from aifs_ensemble.common.wind_speed import sources
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.pictures.quantities import Quantity, quantity_of

Array = npt.NDArray[np.float32]
QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}
_EARTH = 6371.0  # km


@dataclass(frozen=True)
class Place:
    """A place and the point of the model's grid nearest to it; `distance` in km."""

    name: str
    latitude: float
    longitude: float
    point: int
    point_latitude: float
    point_longitude: float
    distance: float


@dataclass(frozen=True)
class PlaceValues:
    """Values by quantity at a place, in the units shown, float32 ``(member, lead)``; amounts are those of each step."""

    place: Place
    members: tuple[int, ...]
    digests: tuple[str, ...]
    untrained: bool
    values: Mapping[str, Array]

    def quantiles(self, name: str) -> dict[str, Array]:
        """Return the quantiles of a quantity over the members, ``(lead,)``, by name; linear between members."""
        found = np.quantile(self.values[name].astype(np.float64), list(QUANTILES.values()), axis=0)
        return dict(zip(QUANTILES, found.astype(np.float32), strict=True))


def places_of(config: Config) -> list[Place]:
    """Return the places of the configuration with their nearest points."""
    grid = grid_coordinates(config.model.grid)
    found = []
    for name, (latitude, longitude) in config.products.pictures.places.items():
        away = great_circle(latitude, longitude, grid.latitudes, grid.longitudes)
        point = int(away.argmin())
        there = float(grid.latitudes[point]), (float(grid.longitudes[point]) + 180) % 360 - 180
        found.append(Place(name, float(latitude), float(longitude), point, *there, float(away[point])))
    return found


def great_circle(latitude: float, longitude: float, latitudes: Any, longitudes: Any) -> npt.NDArray[np.float64]:
    """Return distances in km on a sphere, by haversines."""
    a, b = np.deg2rad(latitude), np.deg2rad(latitudes)
    half = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.deg2rad(longitudes - longitude) / 2) ** 2
    return 2 * _EARTH * np.arcsin(np.sqrt(half))


def shown_quantities(config: Config) -> list[Quantity]:
    """Return what the meteograms of a model show."""
    made = set(config.output_variables)
    return [quantity_of(name) for name in METEOGRAM if made.issuperset(sources(name))]


def read_places(config: Config, members: Mapping[int, DeliveredFields]) -> list[PlaceValues]:
    """Return the values of all members at all places; each field is read once."""
    places, quantities = places_of(config), shown_quantities(config)
    points = [place.point for place in places]
    variables = sorted({source for quantity in quantities for source in quantity.sources})

    def one(job: tuple[DeliveredFields, int]) -> Array:
        reader, lead = job
        fields = {name: field[points] for name, field in reader.read(lead, variables).items()}
        return np.stack([quantity.of(fields) for quantity in quantities])

    with ThreadPoolExecutor(readers(config)) as pool:
        found = list(pool.map(one, [(reader, lead) for reader in members.values() for lead in config.leads]))
    values = np.array(found).reshape(len(members), len(config.leads), len(quantities), len(places))
    digests = tuple(reader.digest for reader in members.values())
    untrained = any(reader.untrained for reader in members.values())
    return [
        PlaceValues(
            place,
            tuple(members),
            digests,
            untrained,
            {q.name: _steps(config, q, values[:, :, number, at]) for number, q in enumerate(quantities)},
        )
        for at, place in enumerate(places)
    ]


def _steps(config: Config, quantity: Quantity, values: Array) -> Array:
    """Return values in the units shown; amounts since the start become amounts of each step."""
    if quantity.accumulates and config.forecast.accumulate == "from_start":
        # packing may take a hundredth of a millimetre from a dry step
        values = np.maximum(np.diff(values, axis=1, prepend=np.float32(0)), 0)
    return quantity.units.shown(values)
