"""The user's own GRIB: grids, orders, members, ERA5 as it comes, and files that are wrong."""

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.fields.grib_reader import decode, scan_file, split_messages
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.file_source import FileSource
from aifs_ensemble.initial.source import Regridder


def file_config(make_config, weights_cache, path, **settings):
    settings = {"source": "file", "file": {"path": path}, "cache": str(weights_cache), "derive": ["z"]} | settings
    return make_config(members="1", **settings)


def test_one_file_and_two_files_give_the_same_state(make_config, weights_cache, write_grib, tmp_path):
    whole = build_member(file_config(make_config, weights_cache, str(write_grib())), 1, tmp_path / "m1")
    upper = write_grib(lambda f, hours: {n: v for n, v in f.items() if "_" in n}, name="upper.grib2")
    lower = write_grib(lambda f, hours: {n: v for n, v in f.items() if "_" not in n}, name="lower_001.grib2")
    paths = [str(upper), str(lower).replace("001", "{member:03d}")]
    split = build_member(file_config(make_config, weights_cache, paths), 1, tmp_path / "m2")
    np.testing.assert_array_equal(split.fields, whole.fields)
    assert split.provenance["source"]["files"] == ["lower_001.grib2", "upper.grib2"]


def test_members_of_one_file_are_told_by_number(make_config, weights_cache, write_grib, tmp_path):
    both = tmp_path / "both.grib2"
    one = write_grib(number=1)
    two = write_grib(lambda f, hours: f | {"t_500": f["t_500"] + 1}, name="two.grib2", number=2)
    both.write_bytes(one.read_bytes() + two.read_bytes())
    first, second = (
        build_member(file_config(make_config, weights_cache, str(both)), m, tmp_path / "m") for m in (1, 2)
    )
    np.testing.assert_allclose(second.variable("t_500") - first.variable("t_500"), 1, atol=2e-3)
    with pytest.raises(InputError, match="no member 3, found 1-2"):
        build_member(file_config(make_config, weights_cache, str(both)), 3, tmp_path / "m3")


# content of the file, and the line
BAD_FILES = [
    ("absent", None, "no such GRIB file"),
    ("empty", lambda good: b"", "no GRIB message in 0 bytes"),
    ("text", lambda good: b"hello\n" * 75, "no GRIB message in 450 bytes"),
    ("cut short", lambda good: good[: len(good) // 2], "no whole GRIB message after message"),
    ("twice the same", lambda good: good + good, "more than one field of "),
]


@pytest.mark.parametrize(("name", "content", "line"), BAD_FILES, ids=[case[0].replace(" ", "-") for case in BAD_FILES])
def test_bad_file_is_one_line(name, content, line, make_config, weights_cache, write_grib, tmp_path):
    path = tmp_path / "bad.grib2"
    if content:
        path.write_bytes(content(write_grib().read_bytes()))
    with pytest.raises(InputError, match=line) as caught:
        build_member(file_config(make_config, weights_cache, str(path)), 1, tmp_path / "m1")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "m1").exists()


def test_two_versions_of_a_field_are_named(make_config, weights_cache, write_grib, tmp_path):
    """ERA5 and ERA5T in one file."""
    both = tmp_path / "both.grib2"
    keys = {"setLocalDefinition": 1, "localDefinitionNumber": 1}
    first = write_grib(name="a.grib2", **keys, experimentVersionNumber="0001").read_bytes()
    second = write_grib(name="b.grib2", **keys, experimentVersionNumber="0005").read_bytes()
    both.write_bytes(first + second)
    with pytest.raises(InputError, match=r"expver 0001 and 0005: choose one"):
        build_member(file_config(make_config, weights_cache, str(both)), 1, tmp_path / "m1")


def test_unknown_placeholder_is_refused(make_config, weights_cache, tmp_path):
    with pytest.raises(ConfigError, match=r"expected placeholders \{member\}"):
        build_member(file_config(make_config, weights_cache, "in_{number}.grib2"), 1, tmp_path / "m1")


def rewritten(path, **keys):
    """Return the first message of `path` with other keys."""
    handle = eccodes.codes_new_from_message(scan_file(path)[0].read())
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return message


# keys of a message on a grid that cannot be read, and the line
BAD_GRIDS = [
    ({"latitudeOfFirstGridPointInDegrees": 80}, "expected rows at both poles, 90 to -90"),
    ({"longitudeOfLastGridPointInDegrees": 100}, "expected a global grid"),
    ({"longitudeOfFirstGridPointInDegrees": 185, "longitudeOfLastGridPointInDegrees": 175}, "a point at 0 E"),
    ({"jPointsAreConsecutive": 1}, "jPointsAreConsecutive is set"),
    ({"iScansNegatively": 1}, "iScansNegatively is set"),
]


@pytest.mark.parametrize(("keys", "line"), BAD_GRIDS, ids=[next(iter(keys)) for keys, _ in BAD_GRIDS])
def test_grid_that_is_not_global_or_oddly_scanned_is_refused(keys, line, write_grib):
    with pytest.raises(InputError, match=line):
        decode(rewritten(write_grib(), **keys), "field")


def test_missing_values_are_refused(write_grib):
    handle = eccodes.codes_new_from_message(scan_file(write_grib())[0].read())
    values = eccodes.codes_get_values(handle)
    values[:7] = 9999
    eccodes.codes_set(handle, "bitmapPresent", 1)
    eccodes.codes_set_values(handle, values)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    with pytest.raises(InputError, match="7 of 684 values missing"):
        decode(message, "field")


def test_south_to_north_rows_are_turned(write_grib):
    location = scan_file(write_grib())[0]
    grid, values = decode(location.read(), "field")
    handle = eccodes.codes_new_from_message(location.read())
    turned = values.reshape(19, 36)[::-1]
    keys = {"jScansPositively": 1, "latitudeOfFirstGridPointInDegrees": -90, "latitudeOfLastGridPointInDegrees": 90,
            "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 350}  # fmt: skip
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.ascontiguousarray(turned.ravel(), float))
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    assert grid == "10x10"
    np.testing.assert_allclose(decode(message, "field")[1], values, atol=1e-5 * np.ptp(values))


def test_split_wants_whole_messages(write_grib):
    data = write_grib().read_bytes()
    assert len(list(split_messages(data, "x"))) == len(scan_file(write_grib()))
    for broken in (data[:-1], data + b"\0", b"x" + data):
        with pytest.raises(InputError, match="x: no whole GRIB message at byte"):
            list(split_messages(broken, "x"))


def test_era5_members_are_read_as_they_come(make_config, weights_cache, shared_data, tmp_path):
    path = shared_data / "ensembles" / "era5-levels-members.grib"
    locations = scan_file(path)
    assert {location.header.number for location in locations} == set(range(10))
    config = file_config(make_config, weights_cache, str(path))
    source = FileSource(config)
    time = parse_cycle("20170101_1200")
    source.times = (parse_cycle("20170101_0000"), time)
    fields = source.read(4).fields
    assert set(fields[time]) == {"t_500", "t_850", "z_500", "z_850"}
    weights = grid_coordinates("N32").weights
    assert 5500 * 9.8 < weights @ fields[time]["z_500"] < 5800 * 9.8
    assert not np.array_equal(source.read(5).fields[time]["z_500"], fields[time]["z_500"])


@pytest.mark.parametrize("name", ["gaussian/t_n48.grib", "gaussian/O32_global.grib2", "opendata-messages/2t.grib2"])
def test_real_message_lands_where_mir_puts_it(name, shared_data, weights_cache, tmp_path):
    """Reading, rolling and the sparse product against MIR's own GRIB to GRIB, point by point.

    At 0.25 degrees this proves that rows start at 180 E in the file and at 0 E in the product.
    """
    import mir

    location = scan_file(shared_data / name)[0]
    (tmp_path / "in").write_bytes(location.read())
    job = mir.Job()
    for key, value in (("grid", "N32"), ("interpolation", "linear"), ("accuracy", 24)):
        job.set(key, value)
    job.execute(mir.GribFileInput(str(tmp_path / "in")), mir.GribFileOutput(str(tmp_path / "out")))
    grid, expected = decode(scan_file(tmp_path / "out")[0].read(), "mir")
    assert grid == "N32"
    source_grid, values = decode(location.read(), name)
    result = Regridder("N32", weights_cache).to_model(source_grid, {"t": values})["t"]
    np.testing.assert_allclose(result, expected, atol=1e-3)
    shifted = Regridder("N32", weights_cache).to_model(source_grid, {"t": np.roll(values, 1)})["t"]
    assert np.abs(shifted - expected).max() > 0.1, "the comparison would not see a shift by one point"
