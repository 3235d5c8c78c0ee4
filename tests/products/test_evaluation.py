"""A delivered ensemble against analyses: values, sources, what is missing, files and errors."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from aifs_ensemble import open_ensemble
from aifs_ensemble.cli import main
from aifs_ensemble.common import themes
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError
from aifs_ensemble.products.evaluation import due
from aifs_ensemble.products.evaluation.analyses import Analyses
from aifs_ensemble.products.evaluation.evaluate import evaluate
from aifs_ensemble.products.evaluation.tables import write_evaluation
from aifs_ensemble.products.quantile_classes import write_quintiles
from aifs_ensemble.products.weekly import write_weekly_file
from doubles.opendata_replica import _index_keys, deterministic_stream, encode, write_file
from doubles.opendata_server import Fault, serve

GRID = "1.5x1.5"
VARIABLES = ["2t", "msl", "z_500"]
AREAS = {"globe": [90, 0, -90, 360], "around": [30, 350, -30, 40]}
Truth = Callable[[int, str], np.ndarray]


@pytest.fixture(scope="module")
def members(ensemble: Config) -> xr.Dataset:
    address = f"{ensemble.destination}/{ensemble.cycle}"
    return open_ensemble(address, grid=GRID, variables=VARIABLES, cache=ensemble.cache).load()


@pytest.fixture(scope="module")
def truth(members: xr.Dataset) -> Truth:
    """What happened: the first member, and something that nobody forecast."""

    def at(lead: int, name: str) -> np.ndarray:
        first = members[name].isel(number=0, time=max(0, lead // 6 - 1)).to_numpy()
        return first + np.random.default_rng([lead, len(name)]).normal(0.02, 0.03, first.shape).astype("f4")

    return at


def write_analyses(config: Config, path: Path, truth: Truth, leads: tuple[int, ...], **keys: Any) -> Path:
    """Write analyses of these leads: geopotential as height, rows beginning at 180 E, as open data has them."""
    path.write_bytes(
        b"".join(
            encode(name, truth(lead, name).ravel(), GRID, config.cycle_time + timedelta(hours=lead), **keys)
            for lead in leads
            for name in VARIABLES
        )
    )
    return path


def scored(config: Config, **over: Any) -> Config:
    raw = config.to_dict()
    wanted = {"source": "file", "variables": VARIABLES, "areas": AREAS} | over
    merge(raw, {"products": {"evaluation": wanted}})
    raw["products"]["evaluation"]["areas"] = wanted["areas"]
    return Config(raw)


@pytest.fixture(scope="module")
def analyses(ensemble: Config, truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_analyses(ensemble, tmp_path_factory.mktemp("analyses") / "all.grib2", truth, (0, 24, 48))


def expected(members: xr.Dataset, truth: Truth, name: str, lead: int, bounds: list[float]) -> dict[str, float]:
    """Return scores in other words: pair by pair, with xarray's own weighted means."""
    values = members[name].isel(time=lead // 6 - 1, drop=True).astype("f8")
    happened, start = (values.isel(number=0, drop=True).copy(data=truth(hour, name)) for hour in (lead, 0))
    north, west, south, east = bounds
    near = ((values.longitude >= west) | (values.longitude <= east)) if west > 0 else values.longitude >= 0
    inside = near & (values.latitude <= north) & (values.latitude >= south)

    def mean(field: xr.DataArray) -> float:
        return float(
            field.where(inside).weighted(np.cos(np.deg2rad(values.latitude)).clip(0)).mean(("latitude", "longitude"))
        )

    pairs = np.mean([np.abs(values[i] - values[j]) for i in range(3) for j in range(3) if i != j], axis=0)
    error = values.mean("number") - happened
    return {
        "crps": mean(np.abs(values - happened).mean("number") - pairs / 2),
        "rmse": mean(error**2) ** 0.5,
        "bias": mean(error),
        "spread": mean(values.var("number", ddof=1) * 4 / 3) ** 0.5,
        "persistence_crps": mean(np.abs(start - happened)),
        "persistence_rmse": mean((start - happened) ** 2) ** 0.5,
    }


def test_scores_by_hand(ensemble: Config, analyses: Path, members: xr.Dataset, truth: Truth) -> None:
    data = evaluate(scored(ensemble, path=str(analyses)))
    assert dict(data.sizes) == {"variable": 3, "lead": 2, "area": 2, "rank": 4, "edge": 4}
    for name in VARIABLES:
        for lead in (24, 48):
            for area, bounds in AREAS.items():
                one = data.sel(variable=name, lead=lead, area=area)
                # 16 bits a value in analyses, and heights of 1e-2 m
                tolerance = 2e-3 * float(one["persistence_rmse"]) + (0.05 if name == "z_500" else 1e-3)
                for score, value in expected(members, truth, name, lead, bounds).items():
                    assert one[score].item() == pytest.approx(value, abs=tolerance), (name, lead, area, score)
                assert one["rank_histogram"].sum().item() == pytest.approx(1)
    assert data["climatology_crps"].isnull().all() and data["control_rmse"].isnull().all()
    assert data.attrs["without_analysis"] == "" and data.attrs["ensemble"] == "3 of 3 members"
    assert data["units"].to_numpy().tolist() == ["K", "Pa", "m2 s-2"]


def test_a_lead_without_analysis_is_left_out_and_named(ensemble: Config, truth: Truth, tmp_path: Path) -> None:
    path = write_analyses(ensemble, tmp_path / "an.grib2", truth, (12, 24))
    config = scored(ensemble, path=str(path), every_hours=12, variables=["2t", "t_850"])
    data = evaluate(config)
    assert data["lead"].to_numpy().tolist() == [12, 24]
    assert data["crps"].sel(variable="t_850").isnull().all() and data["persistence_crps"].isnull().all()
    said = data.attrs["without_analysis"].splitlines()
    assert f"2t at 36 h: {path}: no 2t at 2025-08-20 12 UTC, found 2025-08-19 12 step 0, 2025-08-20 00 step 0" in said
    assert any(line.startswith("2t at 0 h: ") for line in said)
    assert any(line.startswith("t_850 at 12 h: ") for line in said)


def test_open_data_is_asked_by_the_projects_own_client(ensemble: Config, truth: Truth, tmp_path: Path) -> None:
    for lead in (0, 24):
        time = ensemble.cycle_time + timedelta(hours=lead)
        stream = deterministic_stream(time)
        folder = tmp_path / "replica" / f"{time:%Y%m%d}" / f"{time:%H}z" / "ifs" / "0p25" / stream
        fields = [
            (_index_keys(name, time, stream, "fc", None), encode(name, truth(lead, name).ravel(), GRID, time))
            for name in VARIABLES
        ]
        write_file(folder, f"{time:%Y%m%d%H}0000-0h-{stream}-fc", fields)
    raw = scored(ensemble, source="ecmwf-open-data").to_dict()
    with serve(tmp_path / "replica") as server:
        opendata = {"sources": [server.url], "attempts": 1, "deadline_seconds": 20}
        merge(raw, {"initial_conditions": {"cache": str(tmp_path / "cache"), "ecmwf_open_data": opendata}})
        data = evaluate(Config(raw))
        requests = len(server.log)
        indexes = [path for path, _ in server.log if path.endswith(".index")]
        assert len(indexes) == len(set(indexes)) == 3, "each index is asked for once, be it there or not"
        again = evaluate(Config(raw))
        # what is there is in the cache, what is not is asked for again
        assert all(path.endswith(".index") for path, _ in server.log[requests:])
    xr.testing.assert_identical(data, again)
    from_file = evaluate(scored(ensemble, path=str(write_analyses(ensemble, tmp_path / "an.grib2", truth, (0, 24)))))
    np.testing.assert_allclose(data["crps"], from_file["crps"], rtol=1e-6)
    assert (
        data["lead"].to_numpy().tolist() == [24]
        and "2t at 48 h: open data 20250821_0000" in data.attrs["without_analysis"]
    )


def from_sources(config: Config, cache: Path, *sources: str) -> Config:
    raw = scored(config, source="ecmwf-open-data").to_dict()
    opendata = {"sources": [*sources], "attempts": 3, "deadline_seconds": 20}
    merge(raw, {"initial_conditions": {"cache": str(cache), "ecmwf_open_data": opendata}})
    return Config(raw)


def test_sources_that_nobody_reaches_are_a_failed_download(
    ensemble: Config, truth: Truth, tmp_path: Path, capsys, caplog, monkeypatch
) -> None:
    """One line with every source, of the first field alone; a service that fails at each file is a failed download."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty") as one, serve(tmp_path / "empty") as two:
        pass  # closed: their addresses refuse connections
    Path("run.yaml").write_text(yaml.safe_dump(from_sources(ensemble, tmp_path, one.url, two.url).to_dict()))
    assert main(["evaluate", "--configfile", "run.yaml", "--output", "scores"]) == DownloadError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    start = "error: no source of analyses can be reached: open data 20250819_0000"
    assert line.startswith(start) and one.url in line and two.url in line
    assert not [record for record in caplog.records if record.levelname == "WARNING"], "nothing is tried again"
    assert not Path("scores").exists()
    with (
        serve(tmp_path / "empty", Fault(status=501)) as failing,
        pytest.raises(DownloadError, match=r"24 to 48 h: .*501"),
    ):
        evaluate(from_sources(ensemble, tmp_path, failing.url))
    # one that answers is enough to know what is not there; the other is tried once
    with serve(tmp_path / "empty") as without, pytest.raises(InputError, match=r"24 to 48 h: .*HTTP 404"):
        evaluate(from_sources(ensemble, tmp_path, one.url, without.url))
    assert not [record for record in caplog.records if "again in" in record.message]


def test_what_is_not_over_is_not_asked_for(ensemble: Config, analyses: Path) -> None:
    now = datetime(2025, 8, 20, 12, tzinfo=UTC)
    config = scored(ensemble, path=str(analyses))
    data = evaluate(config, Analyses(config, now))
    assert data["lead"].to_numpy().tolist() == [24]
    assert "2t at 48 h: 2025-08-21 00 UTC is not over yet" in data.attrs["without_analysis"]
    assert due.evaluation_due(config, now) and not due.evaluation_due(config, datetime(2025, 8, 19, 23, tzinfo=UTC))


def test_files_of_the_command(ensemble: Config, analyses: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # a climatology of three years, of which one is what happened, rows from south to north and columns from 180 W
    climatology = str(tmp_path / "clim_{valid:%m%d}.nc")
    config = scored(ensemble, path=str(analyses), climatology=climatology, variables=["2t"])
    lines = {"latitude": np.linspace(-90, 90, 121), "longitude": np.arange(-180, 180, 1.5)}
    years = xr.DataArray(np.full((3, 121, 240), 280.0) + np.array([0, 3, 6]).reshape(3, 1, 1), lines, ("year", *lines))
    xr.Dataset({"2t": years.astype("f4")}).to_netcdf(tmp_path / "clim_0820.nc")
    Path("run.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert main(["evaluate", "--configfile", "run.yaml", "--output", "scores"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 members" in said and "files are in scores" in said
    assert sorted(path.name for path in Path("scores").iterdir()) == sorted(due.evaluation_files(config))
    assert tuple(theme.name for theme in themes.THEMES) == due.THEMES
    lines = Path("scores/scores.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if line[0] != "#"))
    assert len(rows) == 2 * 2
    with xr.open_dataset("scores/scores.nc") as data:
        one = data.sel(variable="2t", area="around", lead=24)
        row = next(row for row in rows if (row["variable"], row["area"], row["lead_hours"]) == ("2t", "around", "24"))
        assert (
            float(row["crps"]) == pytest.approx(one["crps"].item(), rel=1e-5)
            and row["valid_time"] == "2025-08-20T00:00Z"
        )
        assert float(row["climatology_rmse"]) == pytest.approx(one["climatology_rmse"].item(), rel=1e-5)
        assert data["climatology_crps"].notnull().sum() == 2
    first = {path.name: path.read_bytes() for path in Path("scores").iterdir()}
    write_evaluation(config, Path("scores"))
    assert {path.name for path in Path("scores").iterdir() if path.read_bytes() != first[path.name]} == set()


def test_a_short_ensemble_says_so(ensemble: Config, analyses: Path, tmp_path: Path) -> None:
    shutil.copytree(ensemble.destination or "", tmp_path / "results")
    raw = scored(ensemble, path=str(analyses)).to_dict() | {"destination": str(tmp_path / "results")}
    (tmp_path / "results" / ensemble.objects.manifest(2)).unlink()
    data = evaluate(Config(raw))
    assert data.attrs["ensemble"] == "2 of 3 members, short: without members 2" and data.sizes["rank"] == 3
    (tmp_path / "results" / ensemble.objects.manifest(1)).unlink()
    with pytest.raises(InputError, match=r"1 members at .*, expected at least two"):
        evaluate(Config(raw))


@pytest.mark.parametrize(
    ("over", "error", "says"),
    [
        ({"path": None}, ConfigError, "products.evaluation.path is missing"),
        (
            {"path": "nowhere_{valid:%Y}.grib"},
            InputError,
            "no analysis for any of 2 leads that are scored, 24 to 48 h: nowhere_2025.grib: no such",
        ),
        ({"path": "an_{member}.grib"}, ConfigError, "expected placeholders {cycle} or {valid:%Y%m%d_%H}"),
        ({"path": "text.grib"}, InputError, "text.grib: "),
        ({"path": "twice.grib"}, InputError, "2 fields of 2t at 2025-08-19 00 UTC, expected one"),
        ({"variables": ["2tt"]}, ConfigError, "products.evaluation.variables: '2tt', expected"),
        ({"variables": ["tp"]}, ConfigError, "'tp' is an amount, which no analysis holds"),
        ({"areas": {"a": [0, 0, 10, 10]}}, ConfigError, "products.evaluation.areas.a: .* expected north"),
        ({"areas": {"a": [1, 0.2, 0.5, 1]}}, InputError, "areas.a: no point of 1.5x1.5"),
        ({"climatology": "clim.nc"}, InputError, "clim.nc: units 'degC', expected 'K' as 2t is delivered"),
    ],
)
def test_what_is_wrong_is_one_line(
    ensemble: Config, analyses: Path, tmp_path: Path, monkeypatch, over: dict, error: type, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.grib").write_text("no GRIB")
    Path("twice.grib").write_bytes(analyses.read_bytes() * 2)
    lines = {"latitude": np.linspace(90, -90, 121), "longitude": np.arange(0, 360, 1.5)}
    field = xr.DataArray(np.zeros((121, 240)), lines, tuple(lines), attrs={"units": "degC"})
    xr.Dataset({"2t": field}).to_netcdf("clim.nc")
    with pytest.raises(error, match=says) as caught:
        evaluate(scored(ensemble, **{"path": str(analyses), **over}))
    assert "\n" not in str(caught.value)


def test_skill_of_the_weeks(ensemble: Config, members: xr.Dataset, tmp_path: Path) -> None:
    """One period from 12 to 36 h; probabilities of three members against what the user observed, on land."""
    weekly = {"hours": 24, "periods": [12], "climatology": str(tmp_path), "variables": None}
    raw = scored(ensemble, path=str(tmp_path / "an.grib2"), observations=str(tmp_path)).to_dict()
    variables = {"tas": {"variable": "2t", "statistic": "mean"}, "pr": {"variable": "tp", "statistic": "sum"}}
    raw["products"]["weekly"] |= weekly | {"variables": variables}
    raw["destination"] = str(shutil.copytree(ensemble.destination or "", tmp_path / "results"))
    config = Config(raw)
    lines = {"latitude": np.linspace(90, -90, 121), "longitude": np.arange(0, 360, 1.5)}
    mean = members["2t"].isel(time=slice(1, 5)).mean(("time", "number")).to_numpy()
    files = {
        "tas_20yrCLIM_WEEKLYMEAN_quintiles_20250819": mean,
        "pr_20yrCLIM_WEEKLYSUM_quintiles_20250819": mean * 0 + 9,
    }
    for name, middle in files.items():
        bounds = np.stack([middle + step for step in (-3, -1, 1, 3)])
        xr.DataArray(bounds, {"quintile": [0.2, 0.4, 0.6, 0.8], **lines}, ("quintile", *lines), "q").to_netcdf(
            tmp_path / f"{name}.nc"
        )
    paths = [tmp_path / f"member{member}.nc" for member in config.members]
    for member, path in zip(config.members, paths, strict=True):
        write_weekly_file(config, member, path)
    key = Path(config.destination or "") / config.objects.quintiles
    key.parent.mkdir(parents=True, exist_ok=True)
    write_quintiles(config, paths, key, {})
    # 2t at all four hours of the mean, and land everywhere but in one hemisphere
    times = [config.cycle_time + timedelta(hours=hour) for hour in (0, 12, 18, 24, 30)]
    warm = (members["2t"].isel(time=slice(1, 5)).mean(("time", "number")).to_numpy() + 2).astype("f4")
    land = np.tile(np.arange(240) < 120, (121, 1)).astype("f4")
    content = [encode("2t", warm.ravel(), GRID, time) for time in times]
    (tmp_path / "an.grib2").write_bytes(b"".join([*content, encode("lsm", land.ravel(), GRID, times[0])]))
    data = evaluate(config)
    # all members lie in the middle class, the truth in the next: 1 against 0.04 + 0.16 + 0.36 + 0.04 of equal shares
    assert data["rpss"].sel(week_variable="tas", area="globe").item() == pytest.approx(1 - 1 / 0.6, rel=1e-3)
    assert np.isnan(data["rpss"].sel(week_variable="pr", area="globe").item())
    assert data.attrs["without_observation"].startswith("pr p1: an amount, which no analysis holds")
    assert data.attrs["rpss_points"] == "2t and tp on land"
    observed = xr.DataArray(
        np.where(land, mean, mean + 2)[::-1], {**lines, "latitude": lines["latitude"][::-1]}, name="x"
    )
    observed.to_netcdf(tmp_path / "tas_obs_WEEKLYMEAN_20250819.nc")
    assert evaluate(config)["rpss"].sel(week_variable="tas", area="globe").item() == pytest.approx(1)
