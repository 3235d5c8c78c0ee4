"""Products of AIFS ENS v2: what is missing stays missing, and a direction is no number to average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray
from aifs_ensemble import open_ensemble
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.parameters import parts_of
from aifs_ensemble.fields.ccsds import read_values
from aifs_ensemble.fields.directions import whole
from aifs_ensemble.fields.grib_index import read_index, read_messages
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import interpolation_weights, product
from aifs_ensemble.products.member_file import write_member_file
from aifs_ensemble.products.regrid import regrid_file
from aifs_ensemble.products.regular_fields import RegularFields
from aifs_ensemble.products.statistics.choice import chunks, outputs
from aifs_ensemble.products.statistics.write import write_statistics
from fields.members import make_fields

from products.conftest import make_ensemble, spec_of

SHOWN = ["swh", "mwd", "sd", "2t"]
PRODUCTS: dict[str, Any] = {
    "grid": "5x5",
    "members": {"enabled": True, "variables": SHOWN},
    "statistics": {"enabled": True, "variables": ["swh", "sd", "2t"], "at_least": {"swh": [2]}, "below": {}},
}
LEAD = 12


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Config:
    """Two members of 12 hours of the second version's demonstration."""
    folder = tmp_path_factory.mktemp("second")
    cache = {"initial_conditions": {"source": "idealised", "cache": str(weights_cache)}}
    over = {"model": "demo-v2", "members": "1-2", "lead_hours": LEAD, "products": PRODUCTS, **cache}
    return make_ensemble(folder / "scratch", str(folder / "results"), **over)


def regular(config: Config, member: int, name: str, weights_cache: Path) -> np.ndarray:
    """Return a field on the products' grid, made of what the network made."""
    spec = spec_of(config, member)
    fields = dict(zip(spec.rows, make_fields(spec, LEAD), strict=True))
    matrix = interpolation_weights("N32", "5x5", weights_cache).matrix
    return whole([product(matrix, fields[part]) for part in parts_of(name)]).reshape(37, 72)


def check(got: np.ndarray, expected: np.ndarray, atol: float, circle: bool = False) -> None:
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    away = got - expected
    assert np.nanmax(np.abs((away + 180) % 360 - 180 if circle else away)) <= atol


def test_members_on_the_regular_grid(waves: Config, weights_cache: Path, tmp_path: Path) -> None:
    write_member_file(waves, 2, tmp_path / "member.nc")
    with xarray.open_dataset(tmp_path / "member.nc") as data:
        for name in SHOWN:
            expected = regular(waves, 2, name, weights_cache)
            assert 0.1 < np.isnan(expected).mean() < 0.5 or name == "2t"
            got = data[name].values[-1, 0] / (1000 if name == "sd" else 1)
            check(got, expected, 0.1, circle=name == "mwd")
        assert data["mwd"].attrs["standard_name"] == "sea_surface_wave_from_direction"
    fields = RegularFields(waves, 2, ["mwd"]).read(LEAD, ["mwd"])["mwd"]
    assert np.nanmin(fields) >= 0 and np.nanmax(fields) < 360


def test_statistics_are_missing_where_a_member_is(waves: Config, weights_cache: Path, tmp_path: Path) -> None:
    (chunk,) = chunks(waves)
    paths = {key: tmp_path / Path(key).name for key in outputs(waves, chunk)}
    write_statistics(waves, chunk, paths)
    members = np.stack([regular(waves, member, "swh", weights_cache) for member in (1, 2)])
    (mean,) = [path for path in paths.values() if path.name.endswith("h012-em.grib2")]
    entry = next(entry for entry in read_index(mean.with_suffix(".index")) if entry["param"] == "swh")
    (message,) = read_messages(mean, [entry])
    handle = eccodes.codes_new_from_message(message)
    assert [eccodes.codes_get(handle, key) for key in ("productDefinitionTemplateNumber", "typeOfLevel")] == [
        2,
        "meanSea",
    ]
    check(read_values(handle).reshape(37, 72), members.mean(axis=0), 0.1)
    eccodes.codes_release(handle)


def test_the_ensemble_as_one_data_set_has_all_fields(waves: Config) -> None:
    data = open_ensemble(f"{waves.destination}/{waves.cycle}")
    assert set(data.data_vars) == set(waves.model.delivered) and len(data.data_vars) == 119
    one = data["h1012"].isel(number=0, time=1).to_numpy()
    np.testing.assert_array_equal(np.isnan(one), np.abs(grid_coordinates("N32").latitudes) < 20)


def test_a_file_regridded_goes_through_cosine_and_sine(waves: Config, weights_cache: Path, tmp_path: Path) -> None:
    path = waves.scratch.lead(1, LEAD)
    out = tmp_path / "waves.nc"
    assert regrid_file(path, out, grid="5x5", variables=["mwd", "swh", "ro"], cache=weights_cache) == 3
    with xarray.open_dataset(out) as data:
        for name in ("mwd", "swh"):
            check(np.squeeze(data[name].values), regular(waves, 1, name, weights_cache), 0.1, circle=name == "mwd")
        assert np.isnan(data["ro"].values).any()
    assert grid_coordinates("5x5").shape == (37, 72)


REFUSED = {
    "statistics": ({"statistics": {"variables": ["mwd"]}}, "statistics.variables: 'mwd': a direction has no mean"),
    "bands": ({"statistics": {"variables": ["h1012"]}}, "statistics.variables: 'h1012': GRIB2 has no statistics"),
    "pictures": ({"pictures": {"enabled": True, "variables": ["mwd"]}}, "pictures.variables: 'mwd': a direction has"),
    "weekly": (
        {"weekly": {"enabled": True, "variables": {"w": {"variable": "mwd", "statistic": "mean"}}}},
        "weekly.variables.w.variable: 'mwd': a direction has no mean",
    ),
    "evaluation": ({"evaluation": {"variables": ["mwd"]}}, "evaluation.variables: 'mwd': a direction has no mean"),
    "component": (
        {"members": {"variables": ["cos_mwd"]}},
        "members.variables: cos_mwd: 'cos_mwd', expected a variable",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused(waves: Config, case: str) -> None:
    change, line = REFUSED[case]
    raw = waves.to_dict()
    merge(raw, {"products": change})
    with pytest.raises(ConfigError) as caught:
        Config(raw)
    assert f"config: products.{line}" in str(caught.value)
