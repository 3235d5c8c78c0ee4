"""Leads of an area: whole rows with a bitmap, in which what is kept is that of the whole lead to the bit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import eccodes
import numpy as np
import numpy.typing as npt
import pytest
from aifs_ensemble.common.areas import PRESETS, Box
from aifs_ensemble.common.errors import ConfigError, EncodingError
from aifs_ensemble.fields.area import cut_of
from aifs_ensemble.fields.ccsds import pack_with_eccodes, read_values
from aifs_ensemble.fields.field_decoder import FieldDecoder
from aifs_ensemble.fields.grib_check import check_index, check_lead, check_messages, messages
from aifs_ensemble.fields.grib_encoder import FieldEncoder
from aifs_ensemble.fields.grids import grid_coordinates

from fields.members import make_fields, make_spec, write_member

GRID = grid_coordinates("N32")
EUROPE, EAST_AFRICA = PRESETS["europe"].box, PRESETS["east-africa"].box  # the first one lies across 0 E
BOXES: tuple[Box, ...] = (EUROPE, EAST_AFRICA, (90.0, -180.0, 0.0, 180.0), (88.0, 0.0, -88.0, 30.0))
BOXES += ((60.0, 350.0, 20.0, 380.0), (86.0, -180.0, -90.0, 180.0))


def inside(box: Box) -> npt.NDArray[np.bool_]:
    """Which points of the whole grid are in an area, one by one."""
    north, west, south, east = box
    return np.array(
        [
            south <= latitude <= north and any(west <= longitude + turn <= east for turn in (-720, -360, 0, 360))
            for latitude, longitude in zip(GRID.latitudes, GRID.longitudes, strict=True)
        ]
    )


def decoded(message: bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return values, latitudes and longitudes as ecCodes reads them."""
    handle = eccodes.codes_new_from_message(message)
    try:
        places = (eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes"))
        return read_values(handle, np.float32), *places
    finally:
        eccodes.codes_release(handle)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("variable", ["2t", "tp", "swh", "q_50", "mwd"])
def test_what_is_kept_is_that_of_the_whole_to_the_bit(variable: str, box: Box) -> None:
    """By ecCodes: values, and where they are. Waves miss values of their own, which stay missing."""
    whole_spec, part_spec = make_spec(model="demo-v2"), make_spec(model="demo-v2", area=box)
    rng = np.random.default_rng(3)
    field = (280 + 20 * rng.standard_normal(GRID.points)).astype(np.float32)
    field[:9] = 1000  # far from all others, and out of most areas: the packing of the whole decides
    if variable in ("swh", "mwd"):
        field[np.abs(GRID.latitudes) < 20] = np.nan
    field = np.abs(field) / (1 if variable in ("2t", "mwd") else 1000)
    whole = decoded(bytes(FieldEncoder(whole_spec).encode(variable, 12, field)))[0]
    message = bytes(FieldEncoder(part_spec).encode(variable, 12, field))
    values, latitudes, longitudes = decoded(message)
    cut, kept = cut_of("N32", box), inside(box)
    expected = np.where(kept, whole, np.float32(np.nan))[cut.points]
    np.testing.assert_array_equal(values.view(np.int32), expected.view(np.int32))
    assert kept.sum() == cut.inside.sum() and not kept[: cut.points.start].any() and not kept[cut.points.stop :].any()
    np.testing.assert_allclose(latitudes, GRID.latitudes[cut.points], atol=1e-9)
    np.testing.assert_allclose(longitudes, GRID.longitudes[cut.points], atol=1e-9)
    ours = FieldDecoder(cut.grid.points).decode(message, "a part")
    np.testing.assert_array_equal(ours.view(np.int32), values.view(np.int32))


def test_the_bytes_are_those_of_eccodes_where_the_area_has_the_extremes() -> None:
    encoder = FieldEncoder(make_spec(["2t"], area=EUROPE))
    cut = cut_of("N32", EUROPE)
    field = make_fields(make_spec(["2t"]), 12)[0]
    first, second = np.flatnonzero(inside(EUROPE))[:2]
    field[first], field[second] = 100, 400
    message = bytes(encoder.encode("2t", 12, field))
    assert message == pack_with_eccodes(encoder.header("2t", 12), cut.of(field), encoder.spec.bits["2t"])


def odd_fields() -> dict[str, npt.NDArray[np.float32]]:
    """Fields that ecCodes packs in its own ways: extremes below GRIB's smallest numbers, or hardly apart."""
    common = np.random.default_rng(5).random(GRID.points).astype(np.float32)
    near, beyond = np.float32(2.0**-90), np.nextafter(np.float32(2.0**-90), np.float32(1))
    fields = {
        "one tiny": common + 1,
        "one tiny below zero": common + 1,
        "all tiny": common * np.float32(1e-35),
        "all tiny below zero": common * np.float32(-1e-35),
        "none normal": common * np.float32(1e-40),
        "two values": np.where(common > 0.5, near, beyond),
    }
    fields["one tiny"][0], fields["one tiny below zero"][0] = 1e-39, -1e-39
    return fields


@pytest.mark.parametrize("bits", [8, 16, 24])
@pytest.mark.parametrize("name", odd_fields())
def test_what_eccodes_packs_in_its_own_ways_is_that_of_the_whole_too(name: str, bits: int) -> None:
    """To the bit, whether or not the extremes are in the area; where they are, all bytes are those of ecCodes."""
    packing = {"bits": {"swh": bits}}
    encoders = [FieldEncoder(make_spec(["swh"], model="demo-v2", area=box, **packing)) for box in (None, EUROPE)]
    cut, field = cut_of("N32", EUROPE), odd_fields()[name]
    for gap in (False, True):
        if gap:
            field[np.abs(GRID.latitudes) < 40] = np.nan
        whole, part = (bytes(encoder.encode("swh", 12, field)) for encoder in encoders)
        assert whole == pack_with_eccodes(encoders[0].header("swh", 12), field, bits)
        found, expected = decoded(part)[0], cut.of(decoded(whole)[0])
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
        ours = FieldDecoder(cut.grid.points).decode(part, "a part")
        np.testing.assert_array_equal(ours.view(np.int32), found.view(np.int32))
    there = np.flatnonzero(inside(EUROPE) & np.isfinite(field))[:2]
    field[there] = np.nanmin(field), np.nanmax(field)
    part = bytes(encoders[1].encode("swh", 12, field))
    assert part == pack_with_eccodes(encoders[1].header("swh", 12), cut.of(field), bits)


def test_eccodes_alone_cannot_pack_an_area() -> None:
    with pytest.raises(EncodingError, match="native: False with an area, expected libaec: ecCodes packs a part by"):
        FieldEncoder(make_spec(["2t"], area=EUROPE), native=False)


@pytest.mark.parametrize("value", [7.5, np.nan])
def test_constant_and_missing_fields(value: float) -> None:
    field = np.full(GRID.points, value, np.float32)
    encoder = FieldEncoder(make_spec(["swh"], model="demo-v2", area=EAST_AFRICA))
    found = decoded(bytes(encoder.encode("swh", 12, field)))[0]
    cut = cut_of("N32", EAST_AFRICA)
    np.testing.assert_array_equal(found, np.where(cut.inside, np.float32(value), np.nan))


def test_a_lead_of_an_area_is_right_by_its_check(tmp_path: Path) -> None:
    spec = make_spec(["2t", "tp", "swh"], model="demo-v2", area=EUROPE)
    [record] = write_member(spec, tmp_path, (12,))
    path = tmp_path / record.grib.name
    assert check_lead(path, spec, 12) == []
    found = list(messages(path, values=True))
    assert check_messages(path, found, {}) == [] and check_index(path, found) == []
    other = make_spec(["2t", "tp", "swh"], model="demo-v2", area=(72.0, -25.0, 33.0, 40.0))
    assert any("2t: numberOfMissing is " in line for line in check_lead(path, other, 12))
    whole = make_spec(["2t", "tp", "swh"], model="demo-v2")
    assert any("bitmapPresent is 1, expected 0" in line for line in check_lead(path, whole, 12))


def test_files_are_the_same_whatever_the_processes(tmp_path: Path) -> None:
    spec = make_spec(area=EAST_AFRICA)
    one, three = (write_member(spec, tmp_path / str(count), (6, 12), count) for count in (1, 3))
    assert one == three


def test_xarray_places_the_points(tmp_path: Path) -> None:
    xarray, _ = pytest.importorskip("xarray"), pytest.importorskip("cfgrib")
    spec = make_spec(["msl"], area=EUROPE)
    [record] = write_member(spec, tmp_path, (12,))
    path = tmp_path / record.grib.name
    with xarray.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as data:
        there = data["msl"].notnull().values
        longitudes = (data.longitude.values[there] + 180) % 360 - 180
        assert data.latitude.values[there].min() >= 33 and data.latitude.values[there].max() <= 72
        assert longitudes.min() >= -25 and longitudes.max() <= 45
        assert there.sum() == inside(EUROPE).sum()


def test_an_area_between_points_is_told() -> None:
    with pytest.raises(ConfigError, match=r"area: no point of N32 within \(1\.0, 1\.0, 0\.5, 1\.5\)"):
        cut_of("N32", (1.0, 1.0, 0.5, 1.5))


@pytest.mark.skipif(not shutil.which("cdo"), reason="no cdo on this machine")
def test_cdo_places_the_points(tmp_path: Path) -> None:
    """On degrees it makes the same of an area as of the globe, away from the area's edge."""
    found = []
    for name, box in (("globe", None), ("part", EAST_AFRICA)):
        [record] = write_member(make_spec(["2t"], area=box), tmp_path / name, (12,))
        path = str(tmp_path / name / record.grib.name)
        command = [
            "cdo",
            "-s",
            "outputtab,value",
            "-sellonlatbox,25,49,-8,15",
            "-remapbil,r180x91",
            "-setgridtype,regular",
        ]
        done = subprocess.run([*command, path], check=True, capture_output=True, text=True)
        found.append([float(line) for line in done.stdout.splitlines()[1:]])
    assert len(found[0]) == 12 * 12
    assert found[0] == found[1] and max(found[0]) < 400
