"""The report's picture: a map for each member that has the field, also of members that are not delivered."""

from __future__ import annotations

from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.areas import PRESETS
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.maps import read_field, write_member_fields
from aifs_ensemble.products.pictures.layout import layout
from aifs_ensemble.products.pictures.looks import value_look
from aifs_ensemble.products.pictures.quantities import quantity_of
from delivery.members import make_config
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
        f'{{"param": "{parameter.short_name}", "levtype": "pl", "levelist": "{parameter.level}", '
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


def test_a_map_for_each_member_on_one_scale(fields: Config, tmp_path: Path) -> None:
    assert read_field(fields, 3, "t_500", 24).max() == pytest.approx(269, abs=0.1)
    write_member_fields(fields, tmp_path / "drawn")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["fields-dark.png", "fields-light.png"]
    with Image.open(tmp_path / "drawn" / "fields-light.png") as image:
        numbers = np.array(image)
        about = dict(image.text)
    assert about["Title"].startswith("Temperature at 500 hPa: each member. Wednesday 20 August 2025, 00 UTC")
    assert "3 of 4 members" in about["Source"] and "Short ensemble: without member 4" in about["Source"]
    assert "Untrained" in about["Source"]
    look = value_look(quantity_of("t_500"))
    for member, panel in enumerate(layout(PRESETS["globe"], ("1", "2", "3")).panels, 1):
        # the empty Pacific, on the equator
        x, y = (int(part) for part in panel.frame.pixel(np.array(-130.0), np.array(3.0)))
        celsius = 230 + 30 * np.cos(np.deg2rad(3)) + 3 * member - 273.15
        expected = np.searchsorted(look.levels, [celsius - 0.2, celsius + 0.2], side="right")
        assert numbers[panel.where][y, x] in range(expected[0], expected[1] + 1), member


def test_the_map_of_one_member_names_it(fields: Config, tmp_path: Path) -> None:
    write_member_fields(Config({**fields.to_dict(), "members": "2"}), tmp_path)
    with Image.open(tmp_path / "fields-dark.png") as image:
        image.load()
        assert image.text["Title"].startswith("Temperature at 500 hPa: member002.")
    with pytest.raises(InputError, match="no member has t_500 at 24 h"):
        write_member_fields(Config({**fields.to_dict(), "members": "4"}), tmp_path)
    with pytest.raises(InputError, match="no member has t_850"):
        write_member_fields(Config({**fields.to_dict(), "report": {"field": "t_850"}}), tmp_path)
