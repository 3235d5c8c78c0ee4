"""Where places are on maps, and what their pixels show."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from aifs_ensemble.common.areas import PRESETS, Area
from aifs_ensemble.products.pictures.coastlines import _FILE, read_lines
from aifs_ensemble.products.pictures.ink import geography
from aifs_ensemble.products.pictures.projection import equal_earth, fit, sampler

LATITUDES, LONGITUDES = 90 - 1.5 * np.arange(121), 1.5 * np.arange(240)
OVER_THE_DATE_LINE = Area("pacific", "Pacific", 150, 230, -40, 30)
AREAS = [*PRESETS.values(), OVER_THE_DATE_LINE]
# in a process of its own: ecCodes brings another libproj
PROJ = """
import json, pyproj
to = pyproj.Transformer.from_crs("+proj=longlat +R=1", "+proj=eqearth +R=1", always_xy=True)
print(json.dumps([to.transform(lon, lat) for lon in range(-180, 181, 30) for lat in range(-90, 91, 15)]))
"""


def test_the_globe_is_that_of_proj() -> None:
    said = subprocess.run([sys.executable, "-c", PROJ], capture_output=True, text=True, check=True).stdout
    lon, lat = (
        part.ravel().astype(float) for part in np.meshgrid(range(-180, 181, 30), range(-90, 91, 15), indexing="ij")
    )
    np.testing.assert_allclose(np.stack(equal_earth(lon, lat), axis=1), json.loads(said), atol=1e-9)


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.name)
def test_a_pixel_shows_the_place_that_lies_there(area: Area) -> None:
    frame = fit(area, 400, 300)
    assert frame.width <= 401 and frame.height <= 301
    longitudes, latitudes = frame.places()
    rows, columns = np.nonzero(~np.isnan(longitudes))
    x, y = frame.pixel(longitudes[rows, columns], latitudes[rows, columns])
    np.testing.assert_allclose(x, columns + 0.5, atol=1e-6)
    np.testing.assert_allclose(y, rows + 0.5, atol=1e-6)
    # the ellipse-like globe leaves corners, an area none
    assert (len(rows) == frame.width * frame.height) != area.is_globe


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.name)
def test_fields_are_whole_across_the_meridian_and_at_the_poles(area: Area) -> None:
    frame = fit(area, 500, 400)
    sample = sampler(frame, LATITUDES, LONGITUDES)
    inside = ~sample.outside
    np.testing.assert_allclose(sample.sample(np.full((121, 240), 7, np.float32))[inside], 7, rtol=1e-6)
    wave = np.cos(np.deg2rad(LATITUDES))[:, None] * np.sin(np.deg2rad(2 * LONGITUDES + 30))
    longitudes, latitudes = frame.places()
    truth = np.cos(np.deg2rad(latitudes)) * np.sin(np.deg2rad(2 * longitudes + 30))
    assert np.abs(sample.sample(wave.astype(np.float32)) - truth)[inside].max() < 1e-3


def test_missing_values_stay_where_they_are() -> None:
    field = np.zeros((121, 240), np.float32)
    field[60, 20] = np.nan  # 0 N, 30 E
    frame = fit(PRESETS["east-africa"], 400, 400)
    missing = np.isnan(sampler(frame, LATITUDES, LONGITUDES).sample(field))
    longitudes, latitudes = frame.places()
    near = (np.abs(longitudes - 30) < 1.5) & (np.abs(latitudes) < 1.5)
    assert (missing == near).all()


def distance(lines: tuple[np.ndarray, ...], longitude: float, latitude: float) -> float:
    """Return the distance in degrees from a place to the nearest of lines."""
    best = 999.0
    for line in lines:
        start, along = line[:-1], np.diff(line, axis=0)
        share = ((np.array((longitude, latitude)) - start) * along).sum(axis=1) / np.maximum(
            (along**2).sum(axis=1), 1e-12
        )
        nearest = start + np.clip(share, 0, 1)[:, None] * along
        best = min(best, float(np.hypot(*(nearest - (longitude, latitude)).T).min()))
    return best


@pytest.mark.parametrize(
    ("kind", "longitude", "latitude"),
    [
        ("coasts", 39.67, -4.06),  # Mombasa
        ("coasts", -9.14, 38.71),  # Lisbon
        ("coasts", 178.0, -38.66),  # Gisborne
        ("borders", 35.9, -2.08),  # Kenya and Tanzania, half way from Lake Victoria to Kilimanjaro
        ("borders", 7.5, 44.1),  # France and Italy
        ("lakes", 34.7, -0.2),  # Winam Gulf of Lake Victoria
    ],
)
def test_lines_are_where_they_are_on_the_earth(kind: str, longitude: float, latitude: float) -> None:
    assert distance(getattr(read_lines(), kind), longitude, latitude) < 0.35


def test_lines_are_small_and_cross_no_map() -> None:
    lines = read_lines()
    assert _FILE.stat().st_size < 200_000
    for kind in (lines.coasts, lines.borders, lines.lakes):
        assert len(kind) > 200
        assert max(float(np.abs(np.diff(line[:, 0])).max()) for line in kind) < 30  # the 49th parallel
    # nothing is drawn along the map's edges
    assert min(float(line[:, 1].min()) for line in lines.coasts) > -86


def test_an_area_over_the_date_line_has_its_coasts() -> None:
    frame = fit(OVER_THE_DATE_LINE, 800, 600)
    assert frame.turns() == (0, 360)
    drawn = geography(frame) > 180
    for longitude, latitude in ((178.0, -38.66), (180 + 180 - 159.4, 21.9)):  # Gisborne, Kauai
        x, y = (int(part) for part in frame.pixel(np.array(longitude), np.array(latitude)))
        assert drawn[y - 8 : y + 8, x - 8 : x + 8].any(), longitude
