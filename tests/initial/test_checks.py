"""Mistakes that users made, each caught by name; formulas against known values."""

import numpy as np
import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.initial import derive
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.constants import GRAVITY

MODEL = get_model("aifs-ens-1.0")


def mountain(fields, hours):
    """Raise a plateau of 3 km in the tropics, surface pressure with it: the idealised orography is low."""
    grid = grid_coordinates("10x10")
    inside = (np.abs(grid.latitudes) < 35) & (np.abs(grid.longitudes - 180) < 60)
    height = np.where(inside, 3000.0, 0.0)
    fields["z"] = fields["z"] + GRAVITY * height
    surface = fields["2t"] - 0.0065 * height
    fields["2t"] = np.where(inside, surface, fields["2t"])
    fields["2d"] = np.minimum(fields["2d"], fields["2t"])
    levels = sorted((int(n[2:]) for n in fields if n.startswith("z_")), reverse=True)
    profile = np.stack([fields[f"z_{level}"] for level in levels])
    logs = np.log(np.array(levels) * 100.0)
    for point in np.flatnonzero(inside):
        fields["sp"][point] = np.exp(np.interp(fields["z"][point], profile[:, point], logs))
    fields["msl"] = fields["sp"] * derive.sea_level_factor(fields["z"], fields["2t"])
    return fields


def copied(fields):
    return {name: values.copy() for name, values in fields.items()}


def sp_from_msl(fields, hours):
    fields = mountain(copied(fields), hours)
    fields["sp"] = fields["msl"].copy()
    return fields


def levels_reversed(fields, hours):
    levels = sorted(MODEL.levels)
    moved = {f"{p}_{a}": fields[f"{p}_{b}"] for p in MODEL.pressure for a, b in zip(levels, levels[::-1], strict=True)}
    return fields | moved


def geopotential_as_if_height(fields, hours):
    return fields | {"z_500": fields["z_500"] / GRAVITY}


def z500_too_high(fields, hours):
    return fields | {"z_500": 1.6 * fields["z_500"]}


def two_levels_swapped(fields, hours):
    return fields | {"z_850": fields["z_700"], "z_700": fields["z_850"]}


def temperature_of_another_level(fields, hours):
    return fields | {"t_250": fields["t_1000"]}


def celsius(fields, hours):
    return fields | {"2t": fields["2t"] - 273.15}


def hectopascal(fields, hours):
    return fields | {"msl": fields["msl"] / 100}


def negative_humidity(fields, hours):
    return fields | {"q_700": fields["q_700"] - 0.001}


def land_in_per_cent(fields, hours):
    return fields | {"lsm": 100 * fields["lsm"]}


def dew_point_above_temperature(fields, hours):
    return fields | {"2d": fields["2t"] + 3}


def another_day(fields, hours):
    """Weather at T that has nothing to do with that at T-6h: at all heights, waves that are not there before."""
    grid = grid_coordinates("10x10")
    wave = 900 * np.sin(3 * np.deg2rad(grid.longitudes)) * np.cos(np.deg2rad(grid.latitudes))
    return fields if hours else fields | {name: fields[name] + wave for name in fields if name.startswith("z_")}


# the mistake, and the check that names it
MISTAKES = [
    (sp_from_msl, r"sp against msl and orography.* \(is it a copy of msl\?\)"),
    (levels_reversed, r"pressure-level order at T: z_925 not above z_1000"),
    (two_levels_swapped, r"pressure-level order at T: z_700 not above z_850 at 100"),
    (z500_too_high, r"pressure-level order .*z_400 not above z_500"),
    (geopotential_as_if_height, r"range of z_500 .* expected 41188 to 61782"),
    (temperature_of_another_level, r"thickness against temperature .* rms from"),
    (celsius, r"range of 2t at T"),
    (hectopascal, r"range of msl at T"),
    (negative_humidity, r"range of q_700 at T.*: -0\.00\d+ to"),
    (land_in_per_cent, r"range of lsm at T: 0 to 100 1"),
    (dew_point_above_temperature, r"2d against 2t at T.* on 100\.0% of the globe"),
    (another_day, r"change of z_500 from T-6h to T.* \(are the times 6 h apart, not 24\?\)"),
]


def file_config(make_config, weights_cache, path, **settings):
    settings = {"source": "file", "file": {"path": str(path)}, "cache": str(weights_cache), "derive": ["z"]} | settings
    return make_config(members="1", **settings)


def test_plateau_itself_passes(make_config, weights_cache, write_grib, tmp_path):
    path = write_grib(lambda fields, hours: mountain(copied(fields), hours))
    state = build_member(file_config(make_config, weights_cache, path), 1, tmp_path / "m1")
    assert state.provenance["checks"]["failed"] == []


@pytest.mark.parametrize(("mistake", "line"), MISTAKES, ids=[mistake.__name__ for mistake, _ in MISTAKES])
def test_mistake_is_caught_by_name(mistake, line, make_config, weights_cache, write_grib, tmp_path):
    config = file_config(make_config, weights_cache, write_grib(mistake))
    with pytest.raises(InputError, match=line) as caught:
        build_member(config, 1, tmp_path / "m1")
    assert str(caught.value).startswith("20250819_0000 member001: implausible: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "m1").exists()


def test_warn_records_what_failed(make_config, weights_cache, write_grib, tmp_path):
    config = file_config(make_config, weights_cache, write_grib(dew_point_above_temperature), checks="warn")
    state = build_member(config, 1, tmp_path / "m1")
    assert [(f["check"], f["when"]) for f in state.provenance["checks"]["failed"]] == [
        ("2d against 2t", "at T-6h"),
        ("2d against 2t", "at T"),
    ]


def test_day_apart_is_caught_by_its_headers(make_config, weights_cache, write_grib, tmp_path):
    config = file_config(make_config, weights_cache, write_grib(hours=(-24, 0)))
    with pytest.raises(InputError, match=r"no fields at 2025-08-18 18 UTC: the file has .*, 24 h apart, expected both"):
        build_member(config, 1, tmp_path / "m1")


def test_same_time_twice_under_two_labels_is_caught(make_config, weights_cache, write_grib, tmp_path):
    config = file_config(make_config, weights_cache, write_grib(hours=(0, 0), label=(-6, 0)))
    with pytest.raises(InputError, match="T-6h is another time than T: all fields equal"):
        build_member(config, 1, tmp_path / "m1")


def test_missing_fields_are_listed(make_config, weights_cache, write_grib, tmp_path):
    lacking = write_grib(lambda fields, hours: {n: v for n, v in fields.items() if n not in ("sp", "t_500", "slor")})
    with pytest.raises(InputError, match=r"3 of 92 input fields missing at .*: slor, sp, t_500 .*derive may fill sp\)"):
        build_member(file_config(make_config, weights_cache, lacking), 1, tmp_path / "m1")


def test_height_is_no_geopotential_unless_allowed(make_config, weights_cache, write_grib, tmp_path):
    config = file_config(make_config, weights_cache, write_grib(), derive=[])
    with pytest.raises(InputError, match=r"13 of 92 input fields missing .*z_1000.*derive may fill z\)"):
        build_member(config, 1, tmp_path / "m1")


def test_surface_geopotential_comes_from_orography_at_both_times(make_config, weights_cache, write_grib, tmp_path):
    """Which is written once, as constants are."""

    def heights(fields, hours):
        orography = {} if hours else {"orog": fields["z"] / GRAVITY}
        return {name: values for name, values in fields.items() if name != "z"} | orography

    lacking = write_grib(heights)
    state = build_member(file_config(make_config, weights_cache, lacking), 1, tmp_path / "m1")
    whole = build_member(file_config(make_config, weights_cache, write_grib(name="whole.grib2")), 1, tmp_path / "m")
    assert "orog" in state.provenance["derived"]["z"]
    for time in (0, 1):
        np.testing.assert_allclose(state.variable("z")[time], whole.variable("z")[time], rtol=1e-4, atol=1)


@pytest.mark.parametrize("field", ["sp", "2d"])
def test_derived_fields_are_close_and_recorded(field, fields, make_config, weights_cache, write_grib, tmp_path):
    lacking = write_grib(lambda fields, hours: {n: v for n, v in fields.items() if n != field})
    config = file_config(make_config, weights_cache, lacking, derive=["z", field])
    state = build_member(config, 1, tmp_path / "m1")
    whole = build_member(file_config(make_config, weights_cache, write_grib(name="whole.grib2")), 1, tmp_path / "m")
    difference = np.abs(state.variable(field) - whole.variable(field))
    assert difference.mean() < {"sp": 30, "2d": 2}[field]
    assert set(state.provenance["derived"]) == {field, *(f"z_{level}" for level in MODEL.levels)}
    assert set(whole.provenance["derived"]) == {f"z_{level}" for level in MODEL.levels}


@pytest.mark.parametrize(
    ("z", "t", "expected"),
    [
        (0.0, 288.15, 1.0),
        # US Standard Atmosphere 1976: 898.76 hPa at 1000 m, 701.21 at 3000 m (geopotential height)
        (1000 * GRAVITY, 281.65, 1013.25 / 898.76),
        (3000 * GRAVITY, 268.65, 1013.25 / 701.21),
    ],
)
def test_sea_level_factor_is_that_of_the_standard_atmosphere(z, t, expected):
    assert derive.sea_level_factor(np.array(z), np.array(t)) == pytest.approx(expected, rel=1e-3)


def test_dew_point_inverts_saturation():
    t = np.linspace(230, 310, 9)
    np.testing.assert_allclose(derive.dew_point(derive.saturation_pressure(t)), t, rtol=1e-9)
    np.testing.assert_allclose(derive.saturation_pressure(np.array([273.16, 293.15])), [611.2, 2338], rtol=3e-3)
