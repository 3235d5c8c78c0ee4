"""Maps: the right color at the right place, in light and dark, saying what a reader must know."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.themes import DARK, LIGHT, THEMES
from aifs_ensemble.fields.interpolation import interpolation_weights
from aifs_ensemble.products.pictures.catalogue import (
    HIGHEST,
    LOWEST,
    MEAN,
    MEMBERS,
    SPREAD,
    Kind,
    Series,
    areas_of,
    lead_series,
    map_file,
    map_files,
    meteogram_files,
    period_series,
)
from aifs_ensemble.products.pictures.draw import draw_pictures
from aifs_ensemble.products.pictures.layout import Panel, layout
from aifs_ensemble.products.pictures.looks import Look, look_of
from aifs_ensemble.products.pictures.maps import Drawer
from aifs_ensemble.products.regular_grid import RegularGrid
from PIL import Image

from products.conftest import true_fields
from products.pictures.conftest import with_pictures

Array = npt.NDArray[np.float64]
SOME = 400  # pixels of a map that are looked at


def numbers_of(path: Path) -> npt.NDArray[np.uint8]:
    """Return the numbers of colors in a picture."""
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def palette_of(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image.getpalette(), np.uint8).reshape(-1, 3)


def texts_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        return dict(image.text)


def shown_at(
    path: Path, panel: Panel, look: Look, rng: np.random.Generator
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Return longitudes and latitudes of some pixels of a map, and the class that each shows."""
    classes = len(look.colors) + 1
    found = numbers_of(path)[panel.where]
    longitudes, latitudes = panel.frame.places()
    rows, columns = np.nonzero(found < classes)  # no ink on it
    some = rng.choice(len(rows), SOME, replace=False)
    at = rows[some], columns[some]
    return longitudes[at], latitudes[at], found[at].astype(np.int64)


def value_at(config: Config, field: npt.NDArray[np.float32], longitudes: Array, latitudes: Array) -> Array:
    """Return a field of the model's grid at places: regridded, then linear between four points, one by one."""
    grid = interpolation_weights(config.model.grid, "1.5x1.5", config.cache, "linear").apply(field[None])[0]
    grid = grid.reshape(121, 240).astype(np.float64)
    found = []
    for longitude, latitude in zip(longitudes % 360 / 1.5, (90 - latitudes) / 1.5, strict=True):
        column, row = int(longitude), min(int(latitude), 119)
        x, y = longitude - column, latitude - row
        east = (column + 1) % 240
        north = (1 - x) * grid[row, column] + x * grid[row, east]
        south = (1 - x) * grid[row + 1, column] + x * grid[row + 1, east]
        found.append((1 - y) * north + y * south)
    return np.array(found)


def expected(config: Config, series: Series, kind: Kind, lead: int, member: int | None = None) -> list[np.ndarray]:
    """Return the fields on the model's grid of which a map shows the members, in the units shown."""
    found = []
    for one in config.members if member is None else [member]:
        now = true_fields(config, one, lead)
        if series.quantity.accumulates:
            field = now["tp"] - (true_fields(config, one, lead - 24)["tp"] if lead > 24 else 0)
        else:
            field = np.hypot(now["10u"], now["10v"]) if series.name == "10si" else now[series.name]
        found.append(np.asarray(field, np.float32))
    return found


CASES = [
    ("2t", MEAN, "h024"), ("2t", SPREAD, "h048"), ("2t", "over-30", "h024"), ("tp", MEAN, "h024"), ("tp", MEAN, "h048"),
    ("tp", "over-10", "h048"), ("10si", MEAN, "h024"), ("2t", MEMBERS, "h048"),
]  # fmt: skip


@pytest.mark.parametrize("area", ["globe", "pacific"])
@pytest.mark.parametrize(("name", "kind_name", "when_name"), CASES)
def test_colors_are_those_of_the_values(
    pictured: Config, pictures: Path, name: str, kind_name: str, when_name: str, area: str
) -> None:
    series = next(one for one in lead_series(pictured) if one.name == name)
    kind = next(one for one in series.kinds if one.name == kind_name)
    when = next(one for one in series.whens if one.name == when_name)
    where = next(one for one in areas_of(pictured) if one.name == area)
    look, units = look_of(kind, series.quantity), series.quantity.units
    path = pictures / "maps" / map_file(series, kind, where, when, "light")
    labels = tuple(str(m) for m in pictured.members) if kind_name == MEMBERS else ("",)
    rng = np.random.default_rng(3)
    for place, panel in enumerate(layout(where, labels).panels):
        longitudes, latitudes, found = shown_at(path, panel, look, rng)
        fields = expected(pictured, series, kind, when.lead, pictured.members[place] if kind_name == MEMBERS else None)
        at = np.array([value_at(pictured, field, longitudes, latitudes) for field in fields])
        grids = {MEAN: at.mean(axis=0), MEMBERS: at[0]}
        if kind_name in grids:
            # packing to 16 bits, and a wind speed that is regridded by its components
            close = 0.05 + (0.3 if name == "10si" else 0)
            values = units.shown(grids[kind_name])
            low, high = (np.searchsorted(look.levels, values + sign * close, side="right") for sign in (-1, 1))
            assert ((found >= low) & (found <= high)).all(), (name, kind_name)
        else:
            # the spread and the share of members do not commute with the interpolation between points: their bounds do
            values = units.shown(at)
            if kind_name == SPREAD:
                most = np.ptp(values, axis=0) + 0.1
                assert (found <= np.searchsorted(look.levels, most, side="right")).all()
                typical = float(np.median(values.std(axis=0)))
                assert np.median(found) == np.searchsorted(look.levels, typical, side="right")
            else:
                threshold = float(units.shown(kind.threshold or 0))
                none, every = (values < threshold - 1.5).all(axis=0), (values > threshold + 1.5).all(axis=0)
                assert none.any() and (found[none] == 0).all()
                assert not every.any() or (found[every] == len(look.levels)).all()


def test_every_picture_is_drawn_and_no_other(pictured: Config, pictures: Path) -> None:
    for folder, names in (("maps", map_files(pictured)), ("meteograms", meteogram_files(pictured))):
        assert sorted(path.name for path in (pictures / folder).iterdir()) == sorted(names)
        assert len(set(names)) == len(names)
    # an amount of a day has no map before a day has passed
    assert [when.lead for series in lead_series(with_pictures(pictured, products={"pictures": {"step_hours": 12}}))
            if series.name == "tp" for when in series.whens] == [24, 36, 48]  # fmt: skip


def test_light_and_dark_are_the_same_pixels_in_other_colors(pictures: Path) -> None:
    for name in ("2t_mean_globe_h024", "tp_over-10_pacific_h048", "2t_members_globe_h024"):
        light, dark = (pictures / "maps" / f"{name}-{theme.name}.png" for theme in THEMES)
        numbers = numbers_of(light)
        assert (numbers == numbers_of(dark)).all()
        for path, theme in ((light, LIGHT), (dark, DARK)):
            corner = palette_of(path)[numbers[0, 0]]
            assert corner.tolist() == [int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)]


def test_the_same_bytes_again(pictured: Config, pictures: Path, tmp_path: Path) -> None:
    config = with_pictures(pictured, products={"pictures": {"variables": ["2t"], "areas": ["pacific"]}})
    draw_pictures(config, config.members, tmp_path, [], None)
    again = sorted(tmp_path.rglob("*.*"))
    assert len(again) > 10
    for path in again:
        assert path.read_bytes() == (pictures / path.relative_to(tmp_path)).read_bytes(), path.name


def test_lines_of_the_mean_lie_on_their_values(pictured: Config, pictures: Path) -> None:
    """Over the spread of temperature: ink where the mean is 0, 5, 10 degrees ... and none between, away from coasts."""
    series = next(one for one in lead_series(pictured) if one.name == "2t")
    kind, when = next(one for one in series.kinds if one.name == SPREAD), series.whens[0]
    area = areas_of(pictured)[1]
    look, panel = look_of(kind, series.quantity), layout(area).panels[0]
    inked = numbers_of(pictures / "maps" / map_file(series, kind, area, when, "light"))[panel.where]
    strong = (inked >= 4 * (len(look.colors) + 1)) & (inked < 6 * (len(look.colors) + 1))
    longitudes, latitudes = panel.frame.places()
    column = panel.frame.width // 2 + 11  # the empty ocean
    fields = expected(pictured, series, kind, when.lead)
    mean = (
        np.mean([value_at(pictured, f, longitudes[:, column], latitudes[:, column]) for f in fields], axis=0) - 273.15
    )
    crossing = np.flatnonzero(np.floor(mean[1:] / 5) != np.floor(mean[:-1] / 5))
    crossing = crossing[(crossing > 15) & (crossing < panel.frame.height - 15)]
    assert len(crossing) >= 1
    for row in crossing:
        assert strong[row - 3 : row + 5, column - 3 : column + 3].any(), row


def test_an_untrained_model_is_named_in_every_picture(pictures: Path) -> None:
    for path in [*(pictures / "maps").iterdir(), *(pictures / "meteograms").glob("*.png")][::7]:
        if path.parent.name == "maps":
            assert "Untrained model: this is not a forecast" in texts_of(path)["Source"]
    # and drawn: the last color of all is that of warnings
    path = pictures / "maps" / "2t_mean_globe_h024-light.png"
    numbers = numbers_of(path)
    last = len(palette_of(path)) - 1
    assert palette_of(path)[last].tolist() == [0xB3, 0x26, 0x1E]
    foot = numbers[-40:]
    assert (foot == last).sum() > 300 and (numbers[:-40] == last).sum() == 0


def drawer(config: Config, members: list[int], folder: Path, *, untrained: bool = False) -> Drawer:
    return Drawer(config, members, folder, RegularGrid(config), untrained=untrained)


def draw_one(config: Config, members: list[int], folder: Path, **given: bool) -> Path:
    series = lead_series(config)[0]
    fields = np.full((len(members), 121, 240), 290, np.float32)
    drawer(config, members, folder, **given).draw(series, series.whens[0], fields)
    return folder / map_file(series, series.kinds[0], areas_of(config)[0], series.whens[0], "light")


def test_a_short_ensemble_says_who_is_missing(pictured: Config, tmp_path: Path) -> None:
    whole = draw_one(pictured, [1, 2, 3], tmp_path / "whole")
    assert "Short" not in texts_of(whole)["Source"] and "3 members" in texts_of(whole)["Source"]
    last = len(palette_of(whole)) - 1
    assert (numbers_of(whole) == last).sum() == 0, "a warning where there is nothing to warn of"
    short = draw_one(pictured, [1, 3], tmp_path / "short")
    assert "2 of 3 members" in texts_of(short)["Source"]
    assert "Short ensemble: without member 2" in texts_of(short)["Source"]
    assert (numbers_of(short) == last).sum() > 200


def test_a_member_that_is_not_delivered_makes_the_ensemble_short(pictured: Config, tmp_path: Path) -> None:
    one = {"pictures": {"variables": ["2t"], "areas": ["pacific"], "places": {"Nairobi": [-1.29, 36.82]}}}
    asked = with_pictures(pictured, members="1-4", min_members=3, products=one)
    draw_pictures(asked, (1, 2, 3), tmp_path, [], None)
    source = texts_of(tmp_path / "maps" / "2t_mean_pacific_h024-dark.png")["Source"]
    assert "3 of 4 members" in source and "Short ensemble: without member 4" in source
    with pytest.raises(InputError, match=r"member004.json: absent, expected a delivered member"):
        draw_pictures(asked, asked.members, tmp_path / "none", [], None)
    assert not (tmp_path / "none").exists()


def test_maps_of_periods_and_classes(pictured: Config, tmp_path: Path) -> None:
    config = with_pictures(
        pictured, products={"weekly": {"climatology": str(tmp_path)}, "pictures": {"areas": ["globe"]}}
    )
    series = next(one for one in period_series(config) if one.name == "tas-24h")
    assert series.title == "2 m temperature, mean of 1 day"
    assert [kind.name for kind in series.kinds] == [MEAN, SPREAD, MEMBERS, LOWEST, HIGHEST]
    assert [when.words for when in series.whens] == ["19 August 2025 12 UTC to 20 August 2025 12 UTC", "20 August 2025"]
    classes = np.zeros((5, 121, 240), np.float32)
    classes[0], classes[-1] = 0.12, 0.62
    fields = np.full((3, 121, 240), 290, np.float32)
    drawer(config, [1, 2, 3], tmp_path).draw(series, series.whens[1], fields, classes)
    area = areas_of(config)[0]
    for name, value in ((LOWEST, 12.0), (HIGHEST, 62.0)):
        kind = next(one for one in series.kinds if one.name == name)
        look = look_of(kind, series.quantity)
        path = tmp_path / map_file(series, kind, area, series.whens[1], "light")
        shown = shown_at(path, layout(area).panels[0], look, np.random.default_rng(1))[2]
        assert set(shown) == {int(np.searchsorted(look.levels, value, side="right"))}


def test_periods_are_drawn_from_the_members_files(pictured: Config, pictures: Path) -> None:
    names = {path.name for path in (pictures / "maps").iterdir()}
    assert {"tas-24h_mean_globe_p1-light.png", "pr-24h_members_pacific_p2-dark.png"} <= names
    said = texts_of(pictures / "maps" / "pr-24h_mean_globe_p2-light.png")["Title"]
    assert said == "Precipitation, total of 1 day: ensemble mean. Globe. 20 August 2025"


@pytest.mark.parametrize(("count", "columns"), [(4, 2), (50, 7)])
def test_postage_stamps_fill_the_sheet(pictured: Config, count: int, columns: int) -> None:
    area = areas_of(pictured)[0]
    sheet = layout(area, tuple(map(str, range(count))))
    assert len({panel.left for panel in sheet.panels}) == columns
    for panel in sheet.panels:
        assert panel.left + panel.frame.width <= sheet.width and panel.top + panel.frame.height < sheet.height - 60
    boxes = [panel.where for panel in sheet.panels]
    taken = np.zeros((sheet.height, sheet.width), int)
    for box in boxes:
        taken[box] += 1
    assert taken.max() == 1


def test_a_damaged_lead_is_one_line(pictured: Config, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(str(pictured.destination), folder)
    config = with_pictures(pictured, destination=str(folder))
    lead = folder / config.objects.lead(2, 24)
    lead.write_bytes(bytes(lead.stat().st_size))
    with pytest.raises(InputError, match=r"member002_h024.grib2: .* at byte"):
        draw_pictures(config, config.members, tmp_path / "drawn", [], None)
