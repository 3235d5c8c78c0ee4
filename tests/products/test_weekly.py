"""Members on a regular grid, means and sums of periods, probabilities of classes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.periods import weights_of_leads
from aifs_ensemble.fields.interpolation import interpolation_weights
from aifs_ensemble.products.member_file import write_member_file
from aifs_ensemble.products.quantile_classes import class_probabilities, write_quintiles, write_weekly_ensemble
from aifs_ensemble.products.submission import submission_names, unmade_periods
from aifs_ensemble.products.weekly import write_weekly_file

from products.conftest import MEMBERS, make_ensemble, true_fields

SHAPE = (121, 240)


def regridded(config: Config, field: np.ndarray, *, wind: bool = False) -> np.ndarray:
    matrix = interpolation_weights("N32", "1.5x1.5", config.cache, wind=wind).matrix
    return (matrix @ field.astype(np.float64)).reshape(SHAPE)


def changed(config: Config, **over: Any) -> Config:
    raw = config.to_dict()
    merge(raw, over)
    return Config(raw)


def test_weeks_are_those_of_ai_weather_quest() -> None:
    """AI-WQ-package 3.33: days 18.0 to 24.75 and 25.0 to 31.75 for means, to 25.0 and 32.0 for sums."""
    for start, end in ((432, 594), (600, 762)):
        mean = weights_of_leads("mean", start, 168)
        assert (min(mean), max(mean), len(mean)) == (start, end, 28)
        assert sum(mean.values()) == pytest.approx(1)
    assert weights_of_leads("sum", 432, 168) == {432: -1.0, 600: 1.0}
    steps = weights_of_leads("sum", 600, 168, from_start=False)
    assert (min(steps), max(steps), len(steps), set(steps.values())) == (606, 768, 28, {1.0})


def test_a_member_file_holds_the_leads(ensemble: Config, tmp_path: Path) -> None:
    path = tmp_path / "member.nc"
    write_member_file(ensemble, 2, path)
    with xr.open_dataset(path) as data:
        assert data["2t"].dims == ("time", "number", "latitude", "longitude")
        assert data["2t"].shape == (8, 1, *SHAPE)
        assert data.attrs["source"].startswith("demo, an untrained model")
        assert (data["latitude"][0], data["latitude"][-1], data["longitude"][1]) == (90, -90, 1.5)
        assert data["time"].to_numpy()[3] == np.datetime64("2025-08-20T00:00")
        assert data["tp"].attrs["units"] == "kg m-2" and "from the start" in data["tp"].attrs["cell_methods"]
        for place, lead in enumerate(ensemble.leads):
            for variable in ("2t", "msl", "tp"):
                expected = regridded(ensemble, true_fields(ensemble, 2, lead)[variable])
                spread = max(float(np.ptp(expected)), 1e-3)
                assert np.abs(data[variable][place, 0] - expected).max() <= spread / 2**14, (variable, lead)


def test_made_again_it_is_the_same_file(ensemble: Config, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_weekly_file(ensemble, 1, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.fixture(scope="module")
def weekly_files(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weekly")
    paths = [folder / f"member{member:03d}.nc" for member in MEMBERS]
    for member, path in zip(MEMBERS, paths, strict=True):
        write_weekly_file(ensemble, member, path)
    return paths


def test_means_and_sums_by_hand(ensemble: Config, weekly_files: list[Path]) -> None:
    for member, path in zip(MEMBERS, weekly_files, strict=True):
        leads = {lead: true_fields(ensemble, member, lead) for lead in ensemble.leads}
        with xr.open_dataset(path, decode_timedelta=False) as data:
            assert data["period"].to_numpy().tolist() == ["p1", "p2"]
            assert (data["period_start"].to_numpy().tolist(), data["period_end"].to_numpy().tolist()) == (
                [12, 24],
                [36, 48],
            )
            for period, start in (("p1", 12), ("p2", 24)):
                one = data.sel(period=period, number=member)
                mean = regridded(ensemble, sum(leads[lead]["2t"] for lead in range(start, start + 24, 6)) / 4)
                rain = regridded(ensemble, leads[start + 24]["tp"] - leads[start]["tp"])
                assert np.abs(one["tas"] - mean).max() <= 0.002
                assert np.abs(one["pr"] - rain).max() <= np.ptp(leads[48]["tp"]) / 2**14
            assert data["tas"].attrs["cell_methods"] == "time: mean (interval: 6 hours)"


def test_amounts_over_each_step_give_the_same_rain(tmp_path: Path, weights_cache: Path) -> None:
    cache = {"initial_conditions": {"source": "idealised", "cache": str(weights_cache)}}
    config = make_ensemble(
        tmp_path / "scratch", str(tmp_path / "results"), members="1-1", forecast={"accumulate": "per_step"}, **cache
    )
    write_weekly_file(config, 1, tmp_path / "weekly.nc")
    expected = regridded(config, sum(true_fields(config, 1, lead)["tp"] for lead in (18, 24, 30, 36)))
    with xr.open_dataset(tmp_path / "weekly.nc") as data:
        assert np.abs(data["pr"][0, 0] - expected).max() <= 4 * np.ptp(expected) / 2**15


def test_mean_and_spread_say_who_is_missing(ensemble: Config, weekly_files: list[Path], tmp_path: Path) -> None:
    write_weekly_ensemble(ensemble, weekly_files, tmp_path / "all.nc")
    write_weekly_ensemble(ensemble, [weekly_files[0], weekly_files[2]], tmp_path / "two.nc")
    members = [xr.open_dataset(path, decode_timedelta=False)["tas"].isel(number=0) for path in weekly_files]
    values = np.stack([member.to_numpy() for member in members]).astype("f8")
    with xr.open_dataset(tmp_path / "all.nc", decode_timedelta=False) as data:
        np.testing.assert_allclose(data["tas_mean"], values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(data["tas_spread"], values.std(0), atol=1e-5)
        assert data.attrs["ensemble"] == "3 of 3 members"
    with xr.open_dataset(tmp_path / "two.nc", decode_timedelta=False) as data:
        assert data.attrs["ensemble"] == "2 of 3 members, short: without members 2"
        assert "short: without members 2" in data.attrs["title"]


def test_classes_are_closed_below_and_open_above() -> None:
    bounds = np.array([1.0, 2.0, 3.0, 4.0])[:, None]
    members = np.array([0.9, 1.0, 1.9, 2.0, 4.0, 7.0, 3.9, 3.0, 2.5, 0.0])[:, None]
    np.testing.assert_allclose(class_probabilities(members, bounds)[:, 0], [0.2, 0.2, 0.2, 0.2, 0.2])
    # a dry place: the two lowest bounds are the same, and nothing lies between them
    dry = np.array([0.0, 0.0, 3.0, 4.0])[:, None]
    np.testing.assert_allclose(class_probabilities(np.zeros((4, 1)), dry)[:, 0], [0, 0, 1, 0, 0])
    missing = np.array([1.0, np.nan, 3.0, 4.0])[:, None]
    assert np.isnan(class_probabilities(members, missing)).all()


def test_classes_are_those_that_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(5)
    members, bounds = rng.integers(0, 8, (50, 7)).astype(float), np.sort(rng.integers(0, 8, (4, 7)), axis=0)
    found = class_probabilities(members, bounds)
    for point in range(7):
        edges = [-np.inf, *bounds[:, point], np.inf]
        for k in range(5):
            inside = [edges[k] <= value < edges[k + 1] for value in members[:, point]]
            assert found[k, point] == pytest.approx(sum(inside) / 50)


def climatology(config: Config, folder: Path, **units: str) -> Path:
    """Write quantiles as AI Weather Quest gives them, for both periods; rain in mm."""
    folder.mkdir()
    latitude, longitude = np.arange(-90, 90.1, 1.5), np.arange(-180, 180, 1.5)  # another order on purpose
    for name, base, kind, unit in (("tas", 270.0, "MEAN", "K"), ("mslp", 1e5, "MEAN", "Pa"), ("pr", 5.0, "SUM", "mm")):
        for start in config.periods.values():
            day = f"{config.cycle_time + timedelta(hours=start):%Y%m%d}"
            bounds = np.full((4, 121, 240), base) + np.arange(4)[:, None, None] * base / 50 + latitude[:, None] / 90
            field = xr.DataArray(
                bounds, dims=("quantile", "latitude", "longitude"), name=name, attrs={"units": units.get(name, unit)},
                coords={"quantile": [0.2, 0.4, 0.6, 0.8], "latitude": latitude, "longitude": longitude},
            )  # fmt: skip
            field.to_netcdf(folder / f"{name}_20yrCLIM_WEEKLY{kind}_quintiles_{day}.nc")
    return folder


@pytest.fixture
def with_climatology(ensemble: Config, tmp_path: Path) -> Config:
    """The ensemble, with mean sea level pressure left out: the made-up fields have 280 Pa."""
    raw = ensemble.to_dict()
    raw["products"]["weekly"]["climatology"] = str(climatology(ensemble, tmp_path / "climatology"))
    del raw["products"]["weekly"]["variables"]["mslp"]
    return Config(raw)


def test_quintiles_of_the_weeks(with_climatology: Config, weekly_files: list[Path], tmp_path: Path) -> None:
    config, output = with_climatology, tmp_path / "quintiles.nc"
    write_quintiles(config, weekly_files, output, {})
    weeks = [xr.open_dataset(path, decode_timedelta=False) for path in weekly_files]
    with xr.open_dataset(output, decode_timedelta=False) as data:
        assert data["2t_quintiles"].dims == ("time_week", "quintile", "latitude", "longitude")
        assert data["quintile"].to_numpy().tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
        assert data["week"].to_numpy().tolist() == ["week1", "week2"]
        np.testing.assert_allclose(data["tp_quintiles"].sum("quintile"), 1, atol=1e-6)
        # one place by hand: 30 N, 45 E
        bounds = 270 + np.arange(4) * 5.4 + 30 / 90
        values = [float(week["tas"].sel(period="p2", latitude=30, longitude=45)[0]) for week in weeks]
        expected = np.bincount(np.searchsorted(bounds, values, side="right"), minlength=5) / 3
        np.testing.assert_allclose(data["2t_quintiles"][1].sel(latitude=30, longitude=45), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data.assign_attrs(units="m"), "units 'm', expected 'kg m-2'"),
        (lambda data: (data / 1000).assign_attrs(units=""), "expected amounts in kg m-2"),
        (lambda data: data.isel(latitude=slice(0, 120)), "latitude 120 from"),
        (lambda data: data.isel(longitude=slice(None, None, 2)), "longitude 120 from 0 to 357"),
        (
            lambda data: data.isel(quantile=[1, 0, 2, 3]).assign_coords(quantile=[0.2, 0.4, 0.6, 0.8]),
            "smaller than a lower",
        ),
        (lambda data: data * np.nan, "every value is missing"),
        (lambda data: data.rename(quantile="category"), "expected quantile or quintile or tercile among them"),
        (lambda data: data.assign_coords(quantile=[1, 2, 3, 4]), "expected shares such as 0.2"),
        (None, "no such file, expected the quantiles of tp"),
    ],
)
def test_a_climatology_that_does_not_fit_is_refused(
    with_climatology: Config, weekly_files: list[Path], tmp_path: Path, spoil, says: str
) -> None:
    folder = Path(with_climatology.products.weekly.climatology or "")
    path = sorted(folder.glob("pr_*"))[0]
    if spoil is None:
        path.unlink()
    else:
        with xr.open_dataarray(path) as data:
            changed_data = spoil(data.load())
        changed_data.to_netcdf(path)
    with pytest.raises(InputError, match=f"^{path}: .*{says}"):
        write_quintiles(with_climatology, weekly_files, tmp_path / "quintiles.nc", {})
    assert not (tmp_path / "quintiles.nc").exists()


def test_files_of_a_submission_have_the_names_that_are_asked_for(ensemble: Config) -> None:
    weekly = {"hours": 168, "periods": [432, 600], "team": "Nairobi", "submission_model": "AIFSens", "climatology": "c"}
    config = changed(ensemble, lead_hours=792, products={"weekly": weekly})
    names = [name for _, _, name in submission_names(config)]
    assert names[0] == "tas_20250819_p1_Nairobi_AIFSens.nc" and names[-1] == "pr_20250819_p2_Nairobi_AIFSens.nc"
    assert len(names) == 6


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"members": {"variables": ["2tt"]}}, "products.members.variables: 2tt: '2tt', expected .*did you mean '2t'"),
        ({"interpolation": {"2tx": "linear"}}, "products.interpolation.2tx"),
        ({"weekly": {"variables": {"pr": {"variable": "tp", "statistic": "mean"}}}}, "statistic: mean, expected sum"),
        ({"weekly": {"variables": {"tas": {"variable": "2t", "statistic": "sum"}}}}, "statistic: sum, expected mean"),
        ({"weekly": {"periods": [7]}}, "products.weekly.periods: 7"),
        ({"weekly": {"team": "A"}}, "team and submission_model, expected both"),
        ({"weekly": {"team": "A", "submission_model": "B"}}, "climatology is missing"),
        ({"grid": "N80"}, "products.grid"),
    ],
)
def test_wrong_keys_are_refused(ensemble: Config, over: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        changed(ensemble, products=over)


def test_periods_after_the_forecast_are_left_out_and_said(ensemble: Config) -> None:
    config = changed(ensemble, products={"weekly": {"periods": [12, 30]}})
    assert config.periods == {"p1": 12}
    assert unmade_periods(config) == ["products.weekly: 30-54 h not made, the forecast ends at 48 h"]
    assert unmade_periods(ensemble) == []


def test_time_comes_first_and_grows(ensemble: Config, tmp_path: Path) -> None:
    """CDO reads no other order."""
    path = tmp_path / "member.nc"
    write_member_file(ensemble, 1, path)
    import netCDF4

    with netCDF4.Dataset(path) as data:
        assert data.dimensions["time"].isunlimited()
        assert data["2t"].dimensions[0] == "time" and data["time"].units == "hours since 2025-08-19"
