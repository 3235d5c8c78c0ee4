"""Colours, levels and words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from aifs_ensemble.common.areas import PRESETS
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.parameters import TABLE, read_parameters
from aifs_ensemble.common.themes import DARK, LIGHT, Theme
from aifs_ensemble.products import wording
from aifs_ensemble.products.pictures.layout import layout
from aifs_ensemble.products.pictures.looks import (
    MOST_LEVELS,
    class_look,
    difference_look,
    line_distance,
    probability_look,
    spread_look,
    value_look,
)
from aifs_ensemble.products.pictures.quantities import quantity_of
from aifs_ensemble.products.pictures.sheet import Sheet
from delivery.members import make_config

VARIABLES = [*get_model("aifs-ens-1.0").outputs, "10si", "100si"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_variable_has_levels_that_grow_and_colors_that_differ(variable: str) -> None:
    quantity = quantity_of(variable)
    looks = [value_look(quantity), spread_look(quantity), probability_look(quantity)]
    looks += [class_look(quantity, highest=highest) for highest in (True, False)]
    for look in looks:
        assert 3 <= len(look.levels) <= MOST_LEVELS and (np.diff(look.levels) > 0).all()
        for dark in (True, False):
            colors = look.painted(dark=dark).astype(int)
            assert colors.shape == (len(look.levels) + 2, 3)
            assert (np.abs(np.diff(colors[1:-1], axis=0)).max(axis=1) >= 4).all()
    assert line_distance(quantity) > 0


@pytest.mark.parametrize("variable", VARIABLES)
def test_differences_grow_from_the_ground_on_both_sides(variable: str) -> None:
    look = difference_look(quantity_of(variable))
    half = len(look.levels) // 2
    assert look.levels == tuple(-level for level in reversed(look.levels)) and 2 <= half <= 6
    assert (np.diff(look.levels) > 0).all()
    pixels = np.array([-1e9, look.levels[0] * 0.999, 0, look.levels[-1] * 1.001, np.nan], "f4")
    assert list(look.classes(pixels)) == [0, 1, half, 2 * half, 2 * half + 1]
    for dark in (True, False):
        colors = look.painted(dark=dark).astype(int)
        assert (colors[half] == colors[-1]).all(), "no difference is the ground"
        away = np.abs(colors[:-1] - colors[half]).sum(axis=1)
        for side in (away[half::-1], away[half:]):
            assert (np.diff(side) > 0).all(), "the larger, the further from the ground"


@pytest.mark.parametrize(
    ("variable", "units", "value", "shown"),
    [
        ("2t", "°C", 300.15, 27), ("msl", "hPa", 101325, 1013.25), ("tp", "mm", 12, 12),
        ("z_500", "dam", 55000, 560.84),
        ("q_850", "g/kg", 0.012, 12), ("tcc", "%", 40, 40), ("10u", "m/s", -5, -5), ("ssrd", "MJ/m²", 2e7, 20),
    ],
)  # fmt: skip
def test_units_are_those_that_people_use(variable: str, units: str, value: float, shown: float) -> None:
    quantity = quantity_of(variable)
    assert quantity.units.name == units
    assert float(quantity.units.shown(value)) == pytest.approx(shown, abs=0.01)
    look = value_look(quantity)
    assert look.levels[0] - abs(look.levels[0]) < shown < look.levels[-1] * 1.5
    # a spread has no zero of its own
    assert float(quantity.units.shown(0.0, difference=True)) == 0


def test_a_value_on_a_level_belongs_above_it() -> None:
    look = value_look(quantity_of("2t"))
    first = look.levels[0]
    pixels = np.array([first - 1, first, first + 1, look.levels[-1], np.nan], np.float32)
    last = len(look.levels)
    assert look.classes(pixels).tolist() == [0, 1, 1, last, last + 1]


@pytest.mark.parametrize("variable", ["2t", "tp", "msl", "tcc"])
def test_the_most_is_farthest_from_the_paper(variable: str) -> None:
    """In one hue the highest class is dark on white, and pale on dark."""
    quantity = quantity_of(variable)
    for look in (spread_look(quantity), probability_look(quantity), class_look(quantity, highest=False)):
        for dark in (False, True):
            light = look.painted(dark=dark).astype(int).sum(axis=1)
            assert abs(light[-2] - light[-1]) > abs(light[1] - light[-1])  # against the ground, which stands last


@pytest.mark.parametrize("variable", ["2t", "tp", "10si", "tcc", "msl"])
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_coasts_can_be_seen_on_every_color(variable: str, theme: Theme) -> None:
    quantity = quantity_of(variable)
    for look in (value_look(quantity), spread_look(quantity), probability_look(quantity)):
        colors = Sheet(look, layout(PRESETS["globe"]), "", []).colors(theme).astype(float)
        classes = len(look.colors) + 1
        inked = colors[5 * classes : 6 * classes]  # the last of five steps to ink
        assert (np.abs((inked - colors[:classes]) @ [0.299, 0.587, 0.114]) > 22).all()


def test_wind_speed_is_that_of_both_components() -> None:
    fields = {"10u": np.array([3.0, 0.0], np.float32), "10v": np.array([4.0, -2.0], np.float32)}
    assert quantity_of("10si").of(fields).tolist() == [5.0, 2.0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"levels": [1, 3, 2]}, r"surface: 2t: map: levels: \[1.0, 3.0, 2.0\], expected numbers that grow"),
        ({"spread": ["a"]}, r"surface: 2t: map: spread: \['a'\], expected numbers"),
        ({"colour": "red"}, "surface: 2t: map: unknown key 'colour'"),
        ({"lines": "5"}, "surface: 2t: map: lines: '5', expected"),
    ],
)
def test_a_row_that_cannot_be_drawn_is_one_line(tmp_path: Path, row: dict[str, object], says: str) -> None:
    table = yaml.safe_load(TABLE.read_text())
    table["surface"]["2t"]["map"] = row
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigError, match=says):
        read_parameters(path)


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        ({"variables": ["2tt"]}, r"products.pictures.variables: '2tt', expected .*did you mean '2t'"),
        ({"variables": ["10sj"]}, r"products.pictures.variables: '10sj', .*did you mean '10si'"),
        ({"areas": ["east-afrika"]}, r"products.pictures.areas: 'east-afrika', .*did you mean 'east-africa'"),
        ({"own_areas": {"x": [5, 10, 0, 5]}}, r"own_areas.x: \[5, 10, 0, 5\], expected \[north, west"),
        ({"own_areas": {"x": [95, 10, 50, 20]}}, r"own_areas.x: .*expected"),
        ({"places": {"Nairobi": [36.82, 400]}}, r"places.Nairobi: \[36.82, 400\], expected \[latitude, longitude\]"),
        ({"places": {"北京": [39.9, 116.4]}}, "places: '北京', expected a name with letters"),
        ({"places": {"São Paulo": [1, 2], "Sao-Paulo": [1, 2]}}, "'Sao-Paulo' and 'São Paulo', expected names that"),
        ({"step_hours": 7}, "products.pictures.step_hours"),
    ],
)  # fmt: skip
def test_pictures_that_nobody_can_draw_are_refused(tmp_path: Path, pictures: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_config(tmp_path, str(tmp_path), products={"pictures": {"enabled": True, **pictures}})


@pytest.mark.parametrize(
    ("start", "hours", "words"),
    [
        (24, 168, "20 to 26 August 2025"),
        (432, 168, "6 to 12 September 2025"),
        (264, 168, "30 August to 5 September 2025"),
        (24, 24, "20 August 2025"),
        (6, 24, "19 August 2025 06 UTC to 20 August 2025 06 UTC"),
        (3216, 168, "31 December 2025 to 6 January 2026"),
    ],
)  # fmt: skip
def test_periods_in_words(tmp_path: Path, start: int, hours: int, words: str) -> None:
    config: Config = make_config(tmp_path, str(tmp_path))
    assert wording.period_words(config, start, hours) == words


def test_times_and_members_in_words(tmp_path: Path) -> None:
    assert wording.time_words(datetime(2025, 8, 21, 6, tzinfo=UTC)) == "Thursday 21 August 2025, 06 UTC"
    assert [wording.lead_words(lead) for lead in (6, 24, 36, 72)] == ["6 hours", "1 day", "36 hours", "3 days"]
    assert [wording.number_words(value) for value in (-5.0, 0.25, 1013.0)] == ["−5", "0.25", "1013"]
    config = make_config(tmp_path, str(tmp_path), members="1-4")
    assert wording.ensemble_words(config, [1, 2, 3, 4]) == "4 members"
    assert wording.ensemble_words(config, [1, 3]) == "2 of 4 members"
    assert wording.warnings(config, [1, 3], untrained=False) == ["Short ensemble: without members 2,4"]
    assert wording.warnings(config, [1, 2, 3, 4], untrained=False) == []
