"""What ``products.pictures`` names, compared with the model and the globe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aifs_ensemble.common.areas import areas_named
from aifs_ensemble.common.config.ensemble_products import refuse_direction
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import place_label
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.wind_speed import NEAR_SURFACE, sources

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config

_KEY = "products.pictures"


def check_pictures(config: Config) -> None:
    """Raise ConfigError for maps and meteograms that nobody can draw."""
    pictures = config.products.pictures
    areas_named(pictures.areas, pictures.own_areas, _KEY)
    made = config.model.delivered
    known = [*made, *(name for name in NEAR_SURFACE if set(made).issuperset(sources(name)))]
    for name in pictures.variables:
        if name not in known:
            meant = hint(name, known, f"such as {known[0]}")
            raise ConfigError(
                f"config: {_KEY}.variables: {name!r}, expected a variable that {config.model.name} makes, or 10si for "
                f"the speed of the wind, {meant}"
            )
        refuse_direction("pictures.variables", name)
    for key in ("step_hours", "amount_hours"):
        hours, step = getattr(pictures, key), config.model.timestep_hours
        if hours % step:
            raise ConfigError(f"config: {_KEY}.{key}: {hours}, expected a multiple of the model's step, {step}")
    labels: dict[str, str] = {}
    for name, (latitude, longitude) in pictures.places.items():
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 360):
            raise ConfigError(
                f"config: {_KEY}.places.{name}: [{latitude}, {longitude}], expected [latitude, longitude] in degrees"
            )
        label = place_label(name)
        if not label:
            raise ConfigError(f"config: {_KEY}.places: {name!r}, expected a name with letters of a to z, for its file")
        if label in labels:
            raise ConfigError(f"config: {_KEY}.places: {name!r} and {labels[label]!r}, expected names that differ")
        labels[label] = name
