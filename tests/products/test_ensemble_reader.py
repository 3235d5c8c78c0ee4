"""An ensemble opened by its address: values, what is read for them, and what is left out."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble import open_ensemble
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.manifest import parse_member_manifest, write_member_manifest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.member_file import write_member_file
from delivery.members import finish_member, make_config
from fields.members import write_member

from products.conftest import make_ensemble, spec_of


def address(config: Config) -> str:
    return f"{config.destination}/{config.cycle}"


def test_values_are_those_of_the_members(ensemble: Config) -> None:
    data = open_ensemble(address(ensemble))
    assert dict(data.sizes) == {"time": 8, "number": 3, "value": 6114}
    assert set(data.data_vars) == set(ensemble.model.outputs)
    for member, lead, name in ((2, 24, "2t"), (3, 48, "tp"), (1, 6, "t_500")):
        expected = DeliveredFields(ensemble, member).read(lead, [name])[name]
        found = data[name].sel(number=member, time=data["time"][data["leadtime"] == lead][0])
        np.testing.assert_array_equal(found, expected)
    assert data["tp"].attrs["units"] == "kg m-2" and "from the start" in data["tp"].attrs["cell_methods"]
    assert data["time"].to_numpy()[3] == np.datetime64("2025-08-20T00:00")
    assert "untrained" in data.attrs["title"] and "left_out" not in data.attrs


def test_any_selection_is_that_of_the_whole(ensemble: Config) -> None:
    """Integers, slices, lists, steps backwards, nothing, in any order, before and after loading."""
    lazy = open_ensemble(address(ensemble), variables=["msl"])["msl"]
    whole = lazy.copy().load()
    for where in (
        {"time": 3},
        {"number": [2, 0], "time": slice(None, None, -3), "value": slice(10, 4000, 7)},
        {"value": [5, 1, 1], "number": 1},
        {"time": slice(2, 2)},
        {"time": -1, "number": -1, "value": -1},
    ):
        found = lazy.isel(where)
        assert found.dims == whole.isel(where).dims
        np.testing.assert_array_equal(found.to_numpy(), whole.isel(where).to_numpy())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy)), whole)  # what dask sends to its processes
    np.testing.assert_allclose(lazy.chunk({"time": 2}).mean("number").compute(), whole.mean("number"), rtol=1e-6)


def test_on_a_regular_grid_it_is_the_members_file(ensemble: Config, tmp_path: Path) -> None:
    write_member_file(ensemble, 2, tmp_path / "member.nc")
    lazy = open_ensemble(address(ensemble), grid="1.5x1.5", variables=["tp", "2t"], cache=ensemble.cache)
    with xr.open_dataset(tmp_path / "member.nc") as file:
        for name in ("tp", "2t"):
            np.testing.assert_array_equal(lazy[name].sel(number=2), file[name].sel(number=2))
        np.testing.assert_array_equal(lazy["latitude"], file["latitude"])
    assert lazy["2t"].sel(latitude=slice(10, -10), longitude=slice(20, 60)).shape == (8, 3, 13, 27)


@pytest.mark.cloud
def test_only_what_is_asked_for_is_read(bucket, gcs, tmp_path: Path) -> None:
    config = make_ensemble(tmp_path / "scratch", bucket(), members="1-2")
    data = open_ensemble(address(config))
    before = gcs.schedule.log["requests"]
    data["2t"].isel(time=0, number=0).load()
    first = gcs.schedule.log["requests"] - before
    data["msl"].isel(time=0, number=0).load()
    # manifest, receipt and listing of the member once, then index and range; of a lead whose index is known the range
    assert first <= 5 and gcs.schedule.log["requests"] - before - first == 1


def copied(ensemble: Config, folder: Path) -> Path:
    shutil.copytree(ensemble.destination or "", folder)
    return folder / ensemble.cycle


def test_members_that_are_not_whole_are_left_out_and_named(ensemble: Config, tmp_path: Path) -> None:
    cycle = copied(ensemble, tmp_path / "results")
    next(cycle.glob("forecasts/*member002_h012.grib2")).unlink()
    (cycle / "manifests/member003.json").write_text("{}")
    data = open_ensemble(cycle)
    assert data["number"].to_numpy().tolist() == [1]
    assert "member 2: damaged" in data.attrs["left_out"] and "member 3: damaged" in data.attrs["left_out"]
    with pytest.raises(ConfigError, match=r"members: 2 is not in .*, found 1"):
        open_ensemble(cycle, members=[1, 2])


@pytest.mark.cloud
def test_a_copy_of_a_bucket_in_a_folder_is_read(bucket, tmp_path: Path) -> None:
    config = make_ensemble(tmp_path / "scratch", bucket(), members="1-1", lead_hours=12)
    there = open_ensemble(address(config))
    storage = open_destination(config)
    for info in storage.list(f"{config.cycle}/"):
        storage.get_file(info.key, tmp_path / "copy" / info.key)
    here = open_ensemble(tmp_path / "copy" / config.cycle)
    np.testing.assert_array_equal(here["2t"].load(), there["2t"].load())


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"url": "results"}, ConfigError, "'results', expected a folder or gs:// URL that ends in YYYYMMDD_HHMM"),
        ({"url": "s3://a/20250819_0000"}, ConfigError, "'s3://a', expected"),
        ({"url": "nowhere/20250819_0000"}, InputError, "nowhere/20250819_0000: no delivered member"),
        ({"variables": ["2tt"]}, ConfigError, "variables: '2tt' is not in .*did you mean '?2t"),
        ({"members": [7]}, ConfigError, "members: 7 is not in .*, found 1-3"),
        ({"grid": "1.5"}, ConfigError, "products.grid: '1.5'"),
        ({"interpolation": {"tp": "cubic"}}, ConfigError, "products.interpolation.tp: 'cubic'"),
    ],
)
def test_what_cannot_be_opened_is_one_line(ensemble: Config, asked: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        open_ensemble(**{"url": address(ensemble), **asked})
    assert "\n" not in str(caught.value)


def test_settings_are_those_of_the_manifest(tmp_path: Path, weights_cache: Path) -> None:
    """Sums over each step: nothing of the configuration at hand counts."""
    config = make_ensemble(
        tmp_path / "scratch",
        str(tmp_path / "results"),
        members="1-1",
        lead_hours=12,
        forecast={"accumulate": "per_step"},
    )
    manifest = config.scratch.manifest(1)
    for path in (manifest, tmp_path / "results" / config.objects.manifest(1)):
        found = parse_member_manifest(path.read_bytes(), str(path), cycle=config.cycle, member=1)
        write_member_manifest(path, dataclasses.replace(found, settings={"accumulate": "per_step"}))
    assert "over the 6 hours before" in open_ensemble(address(config))["tp"].attrs["cell_methods"]


def test_of_members_with_few_variables_and_leads(tmp_path: Path, weights_cache: Path) -> None:
    """What `forecast.output` kept is what there is: no variable is missed, and no member left out."""
    over = {"initial_conditions": {"source": "idealised", "cache": str(weights_cache)}}
    output = {"variables": ["2t", "tp", "msl"], "every_hours": 12}
    config = make_config(tmp_path / "scratch", str(tmp_path / "to"), forecast={"output": output}, members="1-2", **over)
    for member in config.members:
        folder = config.scratch.work(member) / "leads"
        folder.mkdir(parents=True)
        spec = dataclasses.replace(spec_of(config, member), variables=config.output_variables, selected=True)
        records = sorted(write_member(spec, folder, config.leads), key=lambda record: record.lead)
        manifest = dataclasses.replace(
            finish_member(config, member, records), settings={"output": list(config.output_variables)}
        )
        write_member_manifest(config.scratch.manifest(member), manifest)
        deliver_member(config, member)
    data = open_ensemble(address(config))
    assert list(data.data_vars) == ["2t", "msl", "tp"] and data["leadtime"].to_numpy().tolist() == [12, 24]
    assert "left_out" not in data.attrs and data.sizes["number"] == 2
    np.testing.assert_array_equal(data["tp"][1, 0], DeliveredFields(config, 1).read(24, ["tp"])["tp"])
    with pytest.raises(ConfigError, match="t_500"):
        open_ensemble(address(config), variables=["t_500"])


def test_of_members_of_an_area_and_of_the_globe(tmp_path: Path, weights_cache: Path) -> None:
    """Points are those of the rows that the area lies in, missing outside it, also of a member that has the globe."""
    over = {"initial_conditions": {"source": "idealised", "cache": str(weights_cache)}}
    output = {"variables": ["2t", "msl"], "every_hours": 24, "area": "europe"}
    config = make_config(tmp_path / "scratch", str(tmp_path / "to"), forecast={"output": output}, members="1-2", **over)
    for member, area in ((1, config.area), (2, None)):
        folder = config.scratch.work(member) / "leads"
        folder.mkdir(parents=True)
        spec = dataclasses.replace(spec_of(config, member), variables=("2t", "msl"), selected=True, area=area)
        settings = {"output": ["2t", "msl"], **({"area": list(area)} if area else {})}
        manifest = finish_member(config, member, write_member(spec, folder, config.leads))
        write_member_manifest(config.scratch.manifest(member), dataclasses.replace(manifest, settings=settings))
        deliver_member(config, member)
    data = open_ensemble(address(config)).load()
    assert "left_out" not in data.attrs and data.sizes["number"] == 2
    west_to_east = (data["longitude"] + 180) % 360 - 180
    inside = (data["latitude"] <= 72) & (data["latitude"] >= 33) & (west_to_east >= -25) & (west_to_east <= 45)
    assert 0 < inside.sum() < data.sizes["value"] < 6114
    for member in (1, 2):
        np.testing.assert_array_equal(data["2t"].sel(number=member).notnull()[0], inside)
    globe = make_config(
        tmp_path / "scratch", str(tmp_path / "to"), members="2", **over,
        forecast={"output": {"variables": ["2t", "msl"], "every_hours": 24}},
    )  # fmt: skip
    whole = DeliveredFields(globe, 2).read(24, ["2t"])["2t"]
    grid = grid_coordinates(globe.model.grid)
    there = np.flatnonzero(np.isin(grid.latitudes, data["latitude"]))
    found = data["2t"].sel(number=2)[0].to_numpy()
    np.testing.assert_array_equal(found[inside], whole[there][inside])
    on_degrees = open_ensemble(address(config), grid="10x5", variables=["2t"], members=[1], cache=weights_cache)
    with pytest.raises(
        InputError, match=r"no 2t of the globe, expected it in a coarse lead \(forecast\.output\.area\)"
    ):
        on_degrees["2t"].load()
