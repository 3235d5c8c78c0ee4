"""The report's picture: a map for each member that has the field, also of members that are not delivered."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.areas import PRESETS
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.maps import member_maps, read_field
from aifs_ensemble.products.pictures.layout import layout
from aifs_ensemble.products.pictures.looks import value_look
from aifs_ensemble.products.pictures.quantities import quantity_of
from delivery.members import make_config, make_real_member
from PIL import Image


def write_grib(config: Config, member: int, variable: str, values: np.ndarray, folder: Path) -> None:
    """Write one lead with one field, as ecCodes makes it, and its index."""
    from aifs_ensemble.common.names import index_file, lead_file
    from aifs_ensemble.fields.grib_encoder import grib_parameter

    parameter = grib_parameter(variable)
    handle = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib2")
    eccodes.codes_set(handle, "paramId", parameter.param_id)
    eccodes.codes_set(handle, "level", parameter.level)
    eccodes.codes_set_values(handle, values)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    folder.mkdir(parents=True, exist_ok=True)
    name = lead_file(config.cycle, member, config.leads[-1])
    (folder / name).write_bytes(message)
    (folder / index_file(name)).write_text(
        f'{{"step": "{config.leads[-1]}", "param": "{parameter.short_name}", "levtype": "pl", '
        f'"levelist": "{parameter.level}", '
        f'"_offset": 0, "_length": {len(message)}}}\n'
    )


@pytest.fixture
def fields(tmp_path: Path, weights_cache: Path) -> Config:
    """Three members with t_500: the third lies at the destination."""
    config = make_config(
        tmp_path / "s", str(tmp_path / "there"), members="1-4", lead_hours=24,
        initial_conditions={"cache": str(weights_cache)},
    )  # fmt: skip
    latitudes = grid_coordinates("N32").latitudes
    for member in (1, 2, 3):
        folder = config.scratch.forecasts() if member < 3 else tmp_path / "there" / config.cycle / "forecasts"
        write_grib(config, member, "t_500", 230 + 30 * np.cos(np.deg2rad(latitudes)) + 3 * member, folder)
    return config


def maps_of(config: Config) -> dict[str, tuple[np.ndarray, dict[str, str]]]:
    """Return the light pictures by area: colour numbers of their pixels, and what they say of themselves."""
    found = {}
    for area, pictures in member_maps(config):
        assert set(pictures) == {"light", "dark"}
        with Image.open(io.BytesIO(pictures["light"])) as image:
            found[area.name] = np.array(image), dict(image.text)
    return found


def test_a_map_for_each_member_on_one_scale_in_every_area(fields: Config) -> None:
    storage = open_destination(fields)
    assert read_field(fields, 3, "t_500", 24, storage).max() == pytest.approx(269, abs=0.1)
    found = maps_of(fields)
    look = value_look(quantity_of("t_500"))
    # the empty Pacific, and the sea before Somalia
    for name, longitude in (("globe", -130.0), ("east-africa", 48.3)):
        numbers, about = found.pop(name)
        assert about["Title"].startswith("Temperature at 500 hPa: each member. Wednesday 20 August 2025, 00 UTC")
        assert "3 of 4 members" in about["Source"] and "Short ensemble: without member 4" in about["Source"]
        assert "Untrained" in about["Source"]
        for member, panel in enumerate(layout(PRESETS[name], ("1", "2", "3")).panels, 1):
            x, y = (int(part) for part in panel.frame.pixel(np.array(longitude), np.array(3.0)))
            celsius = 230 + 30 * np.cos(np.deg2rad(3)) + 3 * member - 273.15
            expected = np.searchsorted(look.levels, [celsius - 0.2, celsius + 0.2], side="right")
            assert numbers[panel.where][y, x] in range(expected[0], expected[1] + 1), (name, member)
    assert not found


def test_the_map_of_one_member_names_it(fields: Config) -> None:
    only = Config({**fields.to_dict(), "members": "2", "products": {"pictures": {"areas": ["europe"]}}})
    ((_, about),) = maps_of(only).values()
    assert about["Title"].startswith("Temperature at 500 hPa: member002.")
    with pytest.raises(InputError, match="no member has t_500 at 24 h"):
        maps_of(Config({**fields.to_dict(), "members": "4"}))
    with pytest.raises(InputError, match="no member has t_850"):
        maps_of(Config({**fields.to_dict(), "report": {"field": "t_850"}}))


def test_fields_of_members_in_a_bucket(tmp_path: Path, bucket: Callable[[], str]) -> None:
    """Of a member whose scratch is gone: by byte range, through the index beside the lead."""
    config = make_config(tmp_path / "s", bucket(), lead_hours=6)
    make_real_member(config, 1)
    expected = read_field(config, 1, "t_500", 6, None)
    deliver_member(config, 1)
    elsewhere = Config({**config.to_dict(), "scratch": str(tmp_path / "other")})
    assert np.array_equal(read_field(elsewhere, 1, "t_500", 6, open_destination(elsewhere)), expected)
    with pytest.raises(InputError, match="member002"):
        read_field(elsewhere, 2, "t_500", 6, open_destination(elsewhere))
