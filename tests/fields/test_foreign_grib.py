"""GRIB that others made: every packing, padding, several fields in a message, other surfaces, other definitions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.parameters import variable_name
from aifs_ensemble.fields.field_decoder import FieldDecoder
from aifs_ensemble.fields.grib_check import messages
from aifs_ensemble.fields.grib_reader import decode, message_length, read_header, scan_file

PACKINGS = ("grid_simple", "grid_jpeg", "grid_png", "grid_ieee", "grid_ccsds", "grid_complex",
            "grid_complex_spatial_differencing", "grid_second_order")  # fmt: skip
REAL = ("opendata-messages/2t.grib2", "opendata-messages/ecmwf-ifs-oper-surface.grib2", "opendata-messages/lsm.grib2",
        "opendata-messages/q_150.grib2", "opendata-messages/t_600.grib2", "ensembles/era5-levels-members.grib",
        "gaussian/O32_global.grib2", "gaussian/t_n48.grib", "aifs-output/aifs-ens-cf-t500.grib2")  # fmt: skip


@pytest.fixture(scope="module")
def message() -> bytes:
    """A field on O32 that looks like temperature."""
    handle = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib2")
    points = eccodes.codes_get(handle, "numberOfDataPoints")
    rng = np.random.default_rng(1)
    keys = {"shortName": "t", "typeOfLevel": "isobaricInhPa", "level": 500, "bitsPerValue": 16}
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_array(handle, "values", 250 + 20 * np.sin(np.arange(points) / 300) + rng.normal(size=points))
    return bytes(eccodes.codes_get_message(handle))


def remade(message: bytes, **keys: object) -> bytes:
    handle = eccodes.codes_new_from_message(message)
    values = eccodes.codes_get_array(handle, "values")
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_array(handle, "values", values)
    return bytes(eccodes.codes_get_message(handle))


def values_of(message: bytes) -> np.ndarray:
    return np.asarray(eccodes.codes_get_array(eccodes.codes_new_from_message(message), "values"))


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_is_read(message: bytes, packing: str, tmp_path: Path, capsys) -> None:
    """By the reader of states, by the products' decoder, and by `inspect`."""
    packed = remade(message, packingType=packing)
    expected = values_of(packed).astype(np.float32)
    np.testing.assert_array_equal(decode(packed, packing)[1], expected)
    points = len(expected)
    np.testing.assert_array_equal(FieldDecoder(points).decode(packed, packing), expected)
    path = tmp_path / "file.grib2"
    path.write_bytes(packed)
    assert main(["inspect", str(path)]) == 0
    assert "1 fields" in capsys.readouterr().out


@pytest.fixture
def several(message: bytes, tmp_path: Path) -> Path:
    """A message of three levels, padding, a message of its own, and bytes after it."""
    path = tmp_path / "several.grib2"
    multi = eccodes.codes_grib_multi_new()
    for start, level in ((0, 500), (4, 700), (4, 850)):
        handle = eccodes.codes_new_from_message(remade(message, level=level))
        eccodes.codes_set_array(handle, "values", values_of(message) + level)
        eccodes.codes_grib_multi_append(handle, start, multi)
    with path.open("wb") as file:
        eccodes.codes_grib_multi_write(multi, file)
        file.write(bytes(40) + remade(message, level=300) + b"end")
    return path


def test_each_field_of_a_message_and_bytes_between(several: Path, message: bytes, capsys) -> None:
    found = scan_file(several)
    assert [variable_name(location.header.field) for location in found] == ["t_500", "t_700", "t_850", "t_300"]
    for location, added in zip(found, (500, 700, 850, 0), strict=True):
        np.testing.assert_allclose(decode(location.read(), "field")[1], values_of(message) + added, atol=0.02)
    assert main(["inspect", str(several)]) == 0
    assert "4 fields" in capsys.readouterr().out
    with pytest.raises(InputError, match="40 bytes at byte"):
        list(messages(several))  # a lead of ours has nothing between


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read(name: str, shared_data: Path, capsys) -> None:
    path = shared_data / name
    locations = scan_file(path)
    assert main(["inspect", str(path)]) == 0
    assert f"{len(locations)} fields" in capsys.readouterr().out
    _, values = decode(locations[0].read(), name)
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("keys", "variable"),
    [
        ({"typeOfLevel": "isobaricInPa", "level": 50000}, "t_500"),
        ({"typeOfLevel": "isobaricInPa", "level": 50}, "t on isobaricInPa 50"),
        ({"typeOfLevel": "hybrid", "level": 137}, "t on hybrid 137"),
        ({"typeOfLevel": "tropopause"}, "t on tropopause 0"),
        ({"shortName": "z", "typeOfLevel": "hybrid", "level": 1}, "z on hybrid 1"),
    ],
)
def test_a_field_is_named_for_its_surface(message: bytes, keys: dict, variable: str) -> None:
    """50 Pa is no 50 hPa, and geopotential on a model level no orography."""
    header = read_header(remade(message, **keys), "message")
    assert variable_name(header.field) == variable


def test_rows_missing_at_the_poles_are_named() -> None:
    handle = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
    keys = {"Ni": 36, "Nj": 18, "latitudeOfFirstGridPointInDegrees": 85, "latitudeOfLastGridPointInDegrees": -85,
            "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 350,
            "iDirectionIncrementInDegrees": 10, "jDirectionIncrementInDegrees": 10}  # fmt: skip
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_array(handle, "values", np.arange(36 * 18.0))
    with pytest.raises(InputError, match="rows from 85 to -85 N, expected rows at both poles"):
        decode(bytes(eccodes.codes_get_message(handle)), "message")


def test_definitions_of_another_eccodes_are_set_aside(message: bytes, tmp_path: Path) -> None:
    """With them no key of a message has a name; an empty folder stands for them."""
    path = tmp_path / "file.grib2"
    path.write_bytes(message)
    command = [sys.executable, "-m", "aifs_ensemble", "inspect", str(path)]
    environment = {**os.environ, "ECCODES_DEFINITION_PATH": str(tmp_path), "ECCODES_SAMPLES_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ECCODES_DEFINITION_PATH, ECCODES_SAMPLES_PATH: set aside" in done.stderr
    assert message_length(message[:16]) == len(message)
