"""Weights from MIR: exact for what is linear, cached, remade when the cache is damaged."""

from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.fields.ccsds import pack_with_eccodes
from aifs_ensemble.fields.grib_reader import decode
from aifs_ensemble.fields.grid_templates import grid_template
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import interpolation_weights, product
from scipy.sparse import csr_array


def smooth(grid):
    latitude, longitude = np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes)
    return np.sin(latitude) + np.cos(longitude - 0.7) * np.cos(latitude)


@pytest.mark.parametrize("source", ["2.5x2.5", "O32", "N48", "F32", "10x10", "5x2.5"])
def test_smooth_field_is_kept(source, weights_cache):
    weights = interpolation_weights(source, "N32", weights_cache)
    truth = smooth(grid_coordinates("N32"))
    result = weights.apply(np.stack([smooth(grid_coordinates(source)), np.ones(grid_coordinates(source).points)]))
    assert result.dtype == np.float32 and result.shape == (2, 6114)
    # linear between points h apart: h**2 / 8 times a curvature of at most 2, in each direction
    coarsest = {"10x10": 10, "5x2.5": 5}.get(source, 2.9)
    np.testing.assert_allclose(result[0], truth, atol=np.deg2rad(coarsest) ** 2 / 2)
    np.testing.assert_allclose(result[1], 1, atol=1e-6)


def test_many_fields_at_once_are_the_same_as_one_by_one(weights_cache):
    weights = interpolation_weights("10x10", "N32", weights_cache)
    fields = np.random.default_rng(0).normal(size=(70, 684)).astype(np.float32)
    at_once = weights.apply(fields)
    for i in range(len(fields)):
        np.testing.assert_array_equal(at_once[i], weights.apply(fields[i : i + 1])[0])


def test_weights_are_cached_and_damage_is_seen(tmp_path):
    first = interpolation_weights("10x10", "O8", tmp_path)
    (path,) = (tmp_path / "weights").glob("*.npz")
    stamp = path.stat().st_mtime_ns
    assert interpolation_weights("10x10", "O8", tmp_path).digest == first.digest
    assert path.stat().st_mtime_ns == stamp
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    again = interpolation_weights("10x10", "O8", tmp_path)
    assert again.digest == first.digest and path.stat().st_mtime_ns != stamp


def test_same_grid_is_left_alone(tmp_path):
    weights = interpolation_weights("N32", "N32", tmp_path)
    fields = np.random.default_rng(0).normal(size=(2, 6114)).astype(np.float32)
    assert weights.apply(fields) is fields or np.shares_memory(weights.apply(fields), fields)
    assert not list(tmp_path.iterdir())


def test_errors_are_one_line(tmp_path, weights_cache):
    with pytest.raises(ConfigError, match="N33"):
        interpolation_weights("N33", "N32", tmp_path)
    with pytest.raises(InputError, match="MIR made no weights from 10x10 to O8, of-my-own"):
        interpolation_weights("10x10", "O8", tmp_path, method="of-my-own")
    with pytest.raises(InputError, match=r"shape \(1, 7\), expected \(fields, 684\) on 10x10"):
        interpolation_weights("10x10", "N32", weights_cache).apply(np.zeros((1, 7)))


@pytest.mark.parametrize("name", ["u", "t"])
@pytest.mark.parametrize(
    ("source", "target", "method"),
    [
        ("N32", "1.5x1.5", "linear"),
        ("O24", "5x5", "linear"),
        ("F32", "2x2", "linear"),
        ("N32", "5x5", "nearest-neighbour"),
    ],
)
def test_pole_rows_are_what_mir_makes_grid_to_grid(source, target, method, name, weights_cache: Path, tmp_path) -> None:
    """Wind that goes round the pole differs along such a row; a scalar has one value there."""
    import mir

    grid, rows = grid_coordinates(source), grid_coordinates(target)
    field = 20 * np.cos(np.deg2rad(grid.longitudes)) + 5 * np.sin(np.deg2rad(grid.latitudes))
    sample = "regular_gg_pl_grib2" if source[0] == "F" else "reduced_gg_pl_32_grib2"
    handle = eccodes.codes_grib_new_from_samples(sample)
    keys = {"N": int(source[1:]), "bitsPerValue": 24, "shortName": name}
    if source[0] == "F":
        keys |= {"Ni": int(grid.rows[0]), "Nj": len(grid.rows)}
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    if source[0] != "F":
        eccodes.codes_set_array(handle, "pl", grid.rows)
    step = 360 / grid.rows.max()
    eccodes.codes_set(handle, "longitudeOfLastGridPointInDegrees", 360 - step)
    if source[0] == "F":
        eccodes.codes_set(handle, "iDirectionIncrementInDegrees", step)
    for end, place in (("First", 0), ("Last", -1)):
        eccodes.codes_set(handle, f"latitudeOf{end}GridPointInDegrees", float(grid.latitudes[place]))
    eccodes.codes_set_array(handle, "values", field)
    (tmp_path / "in").write_bytes(eccodes.codes_get_message(handle))
    job = mir.Job()
    for key, value in (("grid", target.replace("x", "/")), ("interpolation", method), ("accuracy", 24)):
        job.set(key, value)
    job.execute(mir.GribFileInput(str(tmp_path / "in")), mir.GribFileOutput(str(tmp_path / "out")))
    _, expected = decode((tmp_path / "out").read_bytes(), "mir")
    found = interpolation_weights(source, target, weights_cache, method, wind=name == "u").apply(field[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    north = expected[: int(rows.rows[0])]
    assert (np.ptp(north) > 30) == (name == "u"), "one value for the whole row would pass"


def matrix_of(*rows: list[float]) -> csr_array:
    """Weights that are 0 are kept: so are some of MIR's."""
    data = np.array(rows, np.float32)
    columns = np.tile(np.arange(data.shape[1]), len(data))
    return csr_array((data.ravel(), columns, np.arange(len(data) + 1) * data.shape[1]), shape=data.shape)


def message_with(field: np.ndarray, grid: str) -> bytes:
    handle = grid_template(grid)
    for key, value in (("paramId", 140229), ("typeOfLevel", "meanSea")):
        eccodes.codes_set(handle, key, value)
    return pack_with_eccodes(eccodes.codes_get_message(handle), field, 24)


MISSING = np.float32("nan")
# weights of a point, values of its neighbours, and by hand: as MIR has it, and where any neighbour will do
COASTS = {
    "none missing": ([0.5, 0.3, 0.2, 0], [1, 2, 3, 4], 1.7, 1.7),
    "the lightest missing": ([0.5, 0.3, 0.2, 0], [1, 2, MISSING, 4], (0.5 + 0.6) / 0.8, (0.5 + 0.6) / 0.8),
    "the heaviest missing": ([0.5, 0.3, 0.2, 0], [MISSING, 2, 3, 4], MISSING, (0.6 + 0.6) / 0.5),
    "the heaviest alone there": ([0.5, 0.3, 0.2, 0], [1, MISSING, MISSING, 4], 1, 1),
    "only a light one there": ([0.5, 0.3, 0.2, 0], [MISSING, MISSING, 3, 4], MISSING, 3),
    "all missing": ([0.5, 0.3, 0.2, 0], [MISSING, MISSING, MISSING, 4], MISSING, MISSING),
    "one that does not count": ([0.5, 0.5, 0, 0], [1, 2, MISSING, MISSING], 1.5, 1.5),
    "two equal, the first missing": ([0.5, 0.5, 0, 0], [MISSING, 2, 3, 4], MISSING, 2),
    "two equal, the second missing": ([0.5, 0.5, 0, 0], [1, MISSING, 3, 4], 1, 1),
    "nearest": ([0, 1, 0, 0], [1, MISSING, 3, 4], MISSING, MISSING),
}


@pytest.mark.parametrize("case", COASTS)
def test_coasts_by_hand(case: str) -> None:
    weights, values, as_mir, reaching = COASTS[case]
    # beside a point that misses nothing, whose value must not change
    matrix, field = matrix_of(weights, [0, 0, 0, 1]), np.array(values, np.float32)
    for reach, expected in ((False, as_mir), (True, reaching)):
        np.testing.assert_allclose(product(matrix, field, reach=reach), [expected, field[3]], rtol=1e-6)


def test_points_beside_no_missing_value_are_the_plain_product(weights_cache: Path) -> None:
    weights = interpolation_weights("10x10", "N32", weights_cache)
    field = np.random.default_rng(1).normal(size=684).astype(np.float32)
    plain = weights.apply(field[None])[0]
    holed = field.copy()
    holed[100:300] = np.nan
    made = weights.apply(holed[None])[0]
    beside = (weights.matrix != 0) @ np.isnan(holed).astype(int) > 0
    assert made[~beside].tobytes() == plain[~beside].tobytes() and 0 < np.isnan(made).mean() < 0.5


@pytest.mark.parametrize(("source", "target", "method"), [
    ("2.5x2.5", "N32", "linear"), ("N32", "5x5", "linear"), ("N32", "5x5", "grid-box-average"),
])  # fmt: skip
def test_missing_values_are_where_mir_has_them(
    source: str, target: str, method: str, weights_cache: Path, tmp_path: Path
) -> None:
    """A field of half a world of sea, through MIR itself, grid to grid."""
    import mir

    grid = grid_coordinates(source)
    field = smooth(grid).astype(np.float32)
    field[smooth(grid) * np.sin(np.deg2rad(5 * grid.longitudes)) > 0.2] = np.nan
    path, out = tmp_path / "in.grib", tmp_path / "out.grib"
    path.write_bytes(message_with(field, source))
    job = mir.Job()
    for key, value in (("grid", target.replace("x", "/")), ("interpolation", method), ("accuracy", 24)):
        job.set(key, value)
    job.execute(mir.GribFileInput(str(path)), mir.GribFileOutput(str(out)))
    _, expected = decode(out.read_bytes(), "mir")
    made = interpolation_weights(source, target, weights_cache, method).apply(field[None])[0]
    differ = np.isnan(made) != np.isnan(expected)
    assert differ.mean() < 0.005, differ.sum()  # of equal weights, rounding says which is heaviest
    both = ~np.isnan(made) & ~np.isnan(expected)
    np.testing.assert_allclose(made[both], expected[both], atol=2e-4)
    assert 0.1 < np.isnan(made).mean() < 0.9
