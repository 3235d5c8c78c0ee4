"""Coordinates of grids against ecCodes' own iterator and against known counts."""

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.fields.grids import grid_coordinates


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("N32", 6114),
        ("N48", 13280),
        ("N320", 542080),
        ("O8", 544),
        ("O96", 40320),
        ("F32", 8192),
        ("0.25x0.25", 1038240),
    ],
)
def test_points(name, points):
    grid = grid_coordinates(name)
    assert grid.points == points == len(grid.longitudes) == grid.rows.sum()
    assert (np.diff(grid.latitudes) <= 0).all()
    assert grid.longitudes.min() >= 0 and grid.longitudes.max() < 360


@pytest.mark.parametrize("number", [32, 48, 320])
def test_classical_grids_are_those_of_eccodes(number):
    handle = eccodes.codes_new_from_samples(f"reduced_gg_pl_{number}_grib2", eccodes.CODES_PRODUCT_GRIB)
    grid = grid_coordinates(f"N{number}")
    np.testing.assert_allclose(grid.latitudes, eccodes.codes_get_array(handle, "latitudes"), atol=1e-10)
    np.testing.assert_allclose(grid.longitudes, eccodes.codes_get_array(handle, "longitudes"), atol=1e-10)
    assert eccodes.codes_get(handle, "gridName") == grid.name
    eccodes.codes_release(handle)


def test_octahedral_grid_is_that_of_a_real_message(shared_data):
    with open(shared_data / "gaussian" / "O32_global.grib2", "rb") as file:
        handle = eccodes.codes_grib_new_from_file(file)
    grid = grid_coordinates("O32")
    np.testing.assert_allclose(grid.latitudes, eccodes.codes_get_array(handle, "latitudes"), atol=1e-10)
    np.testing.assert_allclose(grid.longitudes, eccodes.codes_get_array(handle, "longitudes"), atol=1e-10)
    eccodes.codes_release(handle)


@pytest.mark.parametrize("name", ["N32", "O96", "F32", "2.5x2.5"])
def test_area_weights_integrate_a_known_function(name):
    grid = grid_coordinates(name)
    assert grid.weights.sum() == pytest.approx(1)
    # the mean of sin^2(latitude) over the sphere is 1/3
    assert (grid.weights * np.sin(np.deg2rad(grid.latitudes)) ** 2).sum() == pytest.approx(1 / 3, abs=2e-3)


@pytest.mark.parametrize("name", ["N33", "O0", "X12", "", "0.25", "0.7x0.7", "0x0", "n320"])
def test_what_is_no_grid_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="grid: "):
        grid_coordinates(name)


def test_a_grid_too_fine_is_refused_before_memory_is_taken():
    with pytest.raises(ConfigError, match=r"expected increments of 0\.01 degrees or more"):
        grid_coordinates("0.0000001x1")
