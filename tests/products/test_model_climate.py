"""The model's own climate: quantiles counted another way, weeks round the year, and probabilities against it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.climatology import read_climatology, read_model_climatology
from aifs_ensemble.products.climatology_names import model_climatology_path, own_climatology_path, week_of_year
from aifs_ensemble.products.model_climate import Sample, check_choice, check_samples, weeks_apart, write_climate
from aifs_ensemble.products.quantile_classes import write_model_quintiles
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.weekly import attributes, period_coordinates, write_weekly_file
from delivery.members import make_config

from products.conftest import make_ensemble

WEEKLY: dict[str, Any] = {
    "enabled": True,
    "hours": 168,
    "periods": [432, 600],
    "variables": {
        "tas": {"variable": "2t", "statistic": "mean"},
        "pr": {"variable": "tp", "statistic": "sum"},
    },
}


def small(tmp_path: Path, **over: Any) -> Config:
    """Return a configuration whose products have a grid of 7 x 12 points."""
    raw: dict[str, Any] = {"lead_hours": 792, "products": {"grid": "30x30", "weekly": WEEKLY}}
    merge(raw, over)
    return make_config(tmp_path / "scratch", str(tmp_path / "results"), **raw)


def sample(config: Config, folder: Path, cycle: str, member: int, checkpoint: str = "c0ffee") -> Sample:
    """Write a member's file of periods, of random values in tenths: the same arguments give the same values."""
    rng = np.random.default_rng([int(cycle[:8]), member])
    grid, periods = RegularGrid(config), list(config.periods)
    shape = (len(periods), 1, *grid.shape)
    base = {"tas": (280, 100), "pr": (0, 300)}
    data = xr.Dataset(
        {
            name: (
                ("period", "number", "latitude", "longitude"),
                (base[name][0] + rng.integers(0, base[name][1], shape) / 10).astype("f4"),
                attributes(config, item),
            )
            for name, item in config.products.weekly.variables.items()
        },
        {**period_coordinates(config), "number": netcdf.member_coordinate([member]), **netcdf.latitude_longitude(grid)},
        {"member_digest": f"{cycle}{member}"},
    )
    path = folder / f"{cycle}_{member}.nc"
    netcdf.write_netcdf(data, path)
    return Sample(cycle, member, f"{cycle}{member}", checkpoint, path)


def cycles(first: str, count: int, days: int = 7) -> list[str]:
    start = datetime.strptime(first, "%Y%m%d")
    return [f"{start + timedelta(days=days * number):%Y%m%d}_0000" for number in range(count)]


def by_hand(values: list[float], share: float) -> float:
    """Return a quantile as it is defined: between the two sorted values that it falls between, by its distance."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def value(one: Sample, name: str, period: int, row: int, column: int) -> float:
    with netCDF4.Dataset(one.path) as data:
        return float(data[name][period, 0, row, column])


def test_quantiles_by_hand(tmp_path: Path) -> None:
    """Two members of ten weeks of two years: every week's samples and quantiles, point by point."""
    config = small(tmp_path)
    named = [*cycles("20230105", 9), *cycles("20240104", 9)]
    samples = [sample(config, tmp_path, cycle, member) for cycle in named for member in (1, 2)]
    found = dict(
        write_climate(config, samples, tmp_path / "climate", window=1, memory=3 * 4 * 12 * 12)
    )  # three rows at a time
    week_of = {
        (one.cycle, start): (datetime.strptime(one.cycle[:8], "%Y%m%d") + timedelta(hours=start)).timetuple().tm_yday
        for one in samples
        for start in (432, 600)
    }
    checked = 0
    for place, start in enumerate((432, 600)):
        for week in (3, 4, 6, 9, 13, 14, 15):
            near = [one for one in samples if abs(math.ceil(week_of[one.cycle, start] / 7) - week) <= 1]
            path = model_climatology_path(config, tmp_path / "climate", "tas", start, week)
            assert (path in found) == (len(near) > 4), (start, week)
            if path not in found:
                continue
            assert found[path] == len(near)
            bounds = read_climatology(path, config.products.weekly.variables["tas"], RegularGrid(config)).bounds
            for row, column in ((0, 0), (3, 7), (6, 11)):
                values = [value(one, "tas", place, row, column) for one in near]
                expected = [by_hand(values, share) for share in (0.2, 0.4, 0.6, 0.8)]
                np.testing.assert_allclose(bounds[:, row, column], expected, rtol=1e-6)
            checked += 1
    assert checked >= 6


def test_what_packing_leaves_of_no_rain_is_none(tmp_path: Path) -> None:
    """An amount is a difference of packed fields: where it is dry it may be a little below zero."""
    config = small(tmp_path)
    samples = [sample(config, tmp_path, cycle, 1) for cycle in cycles("20230105", 5)]
    for one in samples:
        with netCDF4.Dataset(one.path, "a") as data:
            data["pr"][:, 0, 0, 0] = -1.5e-5
    write = write_climate(config, samples, tmp_path / "climate", window=5)
    path = next(path for path, _ in write if path.name.startswith("pr_"))
    bounds = read_model_climatology(config, path, config.products.weekly.variables["pr"], RegularGrid(config)).bounds
    assert bounds[:, 0, 0].tolist() == [0, 0, 0, 0] and (bounds[:, 3, 3] > 0).all()


def test_one_quantile_is_read_as_such(tmp_path: Path) -> None:
    config = small(tmp_path)
    samples = [sample(config, tmp_path, cycle, 1) for cycle in cycles("20230105", 2)]
    path, _ = next(iter(write_climate(config, samples, tmp_path / "climate", quantiles=[0.5])))
    found = read_climatology(path, config.products.weekly.variables["tas"], RegularGrid(config))
    assert (found.probabilities.tolist(), found.bounds.shape) == ([0.5], (1, 7, 12))


def test_a_file_says_what_it_is_made_of(tmp_path: Path) -> None:
    config = small(tmp_path)
    samples = [sample(config, tmp_path, cycle, member) for cycle in cycles("20230105", 3) for member in (1, 2)]
    path = next(path for path, count in write_climate(config, samples, tmp_path / "climate") if count == 6)
    with xr.open_dataset(path) as data:
        about = data.attrs
        assert (about["model"], about["checkpoint"], about["members"], about["samples"]) == ("demo", "c0ffee", "1-2", 6)
        assert about["cycles"] == "20230105_0000 20230112_0000 20230119_0000"
        assert "untrained" in about["source"]
        assert data["sample"].to_numpy().tolist() == [one.line for one in samples]


def test_it_goes_on_and_makes_what_has_changed(tmp_path: Path) -> None:
    """Killed after two files, the others are made; with a cycle more, the weeks near it."""
    config, folder = small(tmp_path), tmp_path / "climate"
    samples = [sample(config, tmp_path, cycle, member) for cycle in cycles("20230105", 6) for member in (1, 2)]
    some = write_climate(config, samples, folder)
    first = [next(some)[0], next(some)[0]]
    del some
    stamps = {path: path.stat().st_mtime_ns for path in first}
    every = dict(write_climate(config, samples, folder))
    assert {path: path.stat().st_mtime_ns for path in first} == stamps and len(every) > 2
    content = {path: path.read_bytes() for path in every}
    first[0].write_bytes(content[first[0]][:500])  # damaged
    more = [*samples, sample(config, tmp_path, "20230209_0000", 3)]
    again = dict(write_climate(config, more, folder))
    changed = {path for path in every if path.read_bytes() != content[path]}
    near = {path for path, count in again.items() if path in every and count != every[path]}
    assert changed == near and near
    assert first[0].read_bytes() == content[first[0]]


def test_weeks_of_the_year() -> None:
    assert [week_of_year(datetime(2024, *day)) for day in ((1, 1), (1, 7), (1, 8), (12, 30), (12, 31))] == [
        1, 1, 2, 52, 52,
    ]  # fmt: skip
    assert (weeks_apart(1, 52), weeks_apart(51, 2), weeks_apart(10, 36), weeks_apart(7, 7)) == (1, 3, 26, 0)


def test_what_cannot_be_a_climate_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path)
    one = sample(config, tmp_path, "20230105_0000", 1)
    with pytest.raises(InputError, match="no cycle has a member"):
        check_samples([])
    with pytest.raises(InputError, match="20230105_0000 was made with checkpoint c0ffee, 20230112_0000 with dec0de"):
        check_samples([one, replace(one, cycle="20230112_0000", checkpoint="dec0de")])
    for quantiles, window in (([0.4, 0.2], 1), ([0, 0.5], 1), ([], 1), ([0.5], 27), ([0.5], -1)):
        with pytest.raises(ConfigError):
            check_choice(quantiles, window)
    assert list(write_climate(config, [one] * 4, tmp_path / "climate")) == []  # four samples make no five classes


def test_another_models_climate_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path)
    samples = [sample(config, tmp_path, cycle, 1) for cycle in cycles("20230105", 6)]
    path, _ = next(iter(write_climate(config, samples, tmp_path / "climate", window=3)))
    item, grid = config.products.weekly.variables["tas"], RegularGrid(config)
    assert read_model_climatology(config, path, item, grid).bounds.shape == (4, 7, 12)
    for key, other in (("model", "aifs-ens-1.0"), ("period_hours", 24)):
        with netCDF4.Dataset(path, "a") as data:
            before = data.getncattr(key)
            data.setncattr(key, other)
        with pytest.raises(InputError, match=f"{path}: {key} {other}, expected {before}"):
            read_model_climatology(config, path, item, grid)
        with netCDF4.Dataset(path, "a") as data:
            data.setncattr(key, before)


def test_from_delivered_cycles_to_probabilities(
    tmp_path: Path, weights_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cycles of two members, one with files of periods and one without; then a run of quintiles."""
    variables = {"tas": {"variable": "2t", "statistic": "mean"}}
    over: dict[str, Any] = {
        "initial_conditions": {"source": "idealised", "cache": str(weights_cache)},
        "products": {"weekly": {"enabled": True, "hours": 12, "periods": [6], "variables": variables}},
        "members": "1-3",
        "lead_hours": 18,
    }
    configs = {
        cycle: make_ensemble(tmp_path / "scratch", str(tmp_path / "results"), cycle=cycle, **over)
        for cycle in ("20250812_0000", "20250819_0000")
    }
    last = configs["20250819_0000"]
    files = [Path(last.destination or "") / last.objects.weekly(member) for member in last.members]
    for member, path in zip(last.members, files, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weekly_file(last, member, path)
    open_destination(last).delete(configs["20250812_0000"].objects.manifest(3))  # not delivered
    file, folder = tmp_path / "config.yaml", tmp_path / "climate"
    raw = last.to_dict()
    raw["products"]["weekly"]["model_climatology"] = str(folder)
    file.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    assert main(["climatology", "--configfile", str(file)]) == 0
    said = capsys.readouterr().out
    assert "20250812_0000: 2 of 3 members" in said and "5 samples of 2 cycles, " in said
    made = tmp_path / "scratch" / "climatology"
    assert [path.relative_to(made).as_posix() for path in sorted(made.rglob("*.nc"))] == [
        "20250812_0000/member001.nc", "20250812_0000/member002.nc",
    ]  # fmt: skip
    config = Config(raw)
    path = own_climatology_path(config, "tas", "p1")
    samples = [*sorted(made.rglob("*.nc")), *files]
    with xr.open_dataset(path) as data:
        values = [xr.open_dataset(one)["tas"][0, 0].to_numpy()[40, 17] for one in samples]
        np.testing.assert_allclose(
            data["tas"][:, 40, 17], [by_hand(values, q) for q in (0.2, 0.4, 0.6, 0.8)], rtol=1e-6
        )
    write_model_quintiles(config, files, tmp_path / "quintiles.nc")
    with xr.open_dataset(tmp_path / "quintiles.nc", decode_timedelta=False) as data:
        assert "model's own climate" in data.attrs["title"]
        shares = data["2t_model_quintiles"][0]
        np.testing.assert_allclose(shares.sum("quintile"), 1, atol=1e-6)
        with xr.open_dataset(path) as climate:
            bounds = climate["tas"][:, 40, 17].to_numpy()
        inside = [sum(bound <= value for bound in bounds) for value in values[2:]]
        assert shares[:, 40, 17].to_numpy().tolist() == pytest.approx([inside.count(k) / 3 for k in range(5)])
    assert main(["climatology", "--configfile", str(file), "--cycles", "20250812_0000", "--quantiles", "0.5"]) == 0
    assert "2 samples of 1 cycles" in capsys.readouterr().out
    assert main(["climatology", "--configfile", str(file), "--cycles", "20240101_0000"]) == ConfigError.exit_code
    assert "which has 2 from 20250812_0000 to 20250819_0000" in capsys.readouterr().err
