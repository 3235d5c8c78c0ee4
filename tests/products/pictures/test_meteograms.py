"""Meteograms: the nearest point's values, quantile by quantile, and a picture that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.themes import DARK, LIGHT, Theme
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.pictures.meteograms import draw
from aifs_ensemble.products.pictures.place_values import great_circle, places_of, read_places
from PIL import Image

from products.conftest import true_fields
from products.pictures.conftest import PLACES, with_pictures

SHARES = {"min": 0, "p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90, "max": 100}


def nearest(config: Config, latitude: float, longitude: float) -> int:
    """Return the nearest point by its chord, without a formula of angles."""
    grid = grid_coordinates(config.model.grid)

    def on_sphere(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        lat, lon = np.deg2rad(lat), np.deg2rad(lon)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)

    place = on_sphere(np.array(latitude), np.array(longitude))
    return int(((on_sphere(grid.latitudes, grid.longitudes) - place) ** 2).sum(axis=1).argmin())


@pytest.mark.parametrize(("place", "label"), [("Nairobi", "nairobi"), ("Zürich", "zurich")])
def test_figures_are_the_quantiles_of_the_members(pictured: Config, pictures: Path, place: str, label: str) -> None:
    found = json.loads((pictures / "meteograms" / f"{label}.json").read_text())
    assert found["place"] == place and (found["members"], found["missing"]) == ("1-3", "")
    assert found["untrained"] is True and found["leadtime_hours"] == list(pictured.leads)
    assert found["valid_time"][0] == "2025-08-19T06:00Z"
    assert found["member_digests"] == [DeliveredFields(pictured, m).digest for m in pictured.members]
    point = nearest(pictured, *PLACES[place])
    fields = {(m, lead): true_fields(pictured, m, lead) for m in pictured.members for lead in pictured.leads}

    def values(name: str) -> np.ndarray:
        return np.array([[fields[m, lead][name][point] for lead in pictured.leads] for m in pictured.members], float)

    truth = {
        "2t": values("2t") - 273.15,
        "msl": values("msl") / 100,
        "tcc": values("tcc"),
        "10si": np.hypot(values("10u"), values("10v")),
        "tp": np.maximum(np.diff(values("tp"), axis=1, prepend=0), 0),  # these fields shrink at times
    }
    assert set(found["variables"]) == set(truth)
    for name, members in truth.items():
        for band, share in SHARES.items():
            expected = np.percentile(members, share, axis=0)
            np.testing.assert_allclose(found["variables"][name][band], expected, atol=0.03, err_msg=f"{name} {band}")
    assert min(found["variables"]["tp"]["min"]) >= 0


def test_places_have_their_nearest_point(pictured: Config) -> None:
    assert great_circle(0, 0, np.array([0.0]), np.array([90.0]))[0] == pytest.approx(10007.5, abs=0.1)
    (place,) = [one for one in places_of(pictured) if one.name == "Nairobi"]
    assert place.distance < 300 and place.point == nearest(pictured, *PLACES["Nairobi"])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_a_picture_says_what_it_is(pictured: Config, theme: Theme) -> None:
    asked = with_pictures(pictured, members="1-4", min_members=3)
    values = read_places(asked, {m: DeliveredFields(asked, m) for m in (1, 2, 3)})[0]
    figure = draw(asked, values, theme)
    said = "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    for words in (
        "Nairobi", "1.29° S, 36.82° E", "km away", "Precipitation in 6 hours, mm", "2 m temperature, °C", "Wed 20 Aug",
        "Forecast of 19 August 2025, 00 UTC, 3 of 4 members, model demo",
        "Untrained model: this is not a forecast. Short ensemble: without member 4",
    ):  # fmt: skip
        assert words in said, words
    # nothing is cut off by the picture's edges
    figure.canvas.draw()
    width, height = figure.bbox.size
    for text in figure.findobj(lambda artist: hasattr(artist, "get_window_extent") and hasattr(artist, "get_text")):
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text.get_text()


def test_pictures_are_there_in_both_themes(pictures: Path) -> None:
    for label in ("nairobi", "zurich"):
        corners = {}
        for theme in (LIGHT, DARK):
            with Image.open(pictures / "meteograms" / f"{label}-{theme.name}.png") as image:
                assert image.size[0] == 900
                corners[theme.name] = image.convert("RGB").getpixel((2, 2))
        assert corners["light"] == (255, 255, 255) and max(corners["dark"]) < 40
