"""Statistics over the members: formulas against numpy, which files there are, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.products.statistics.choice import chunks, files, find_chunk, kinds, leads_of, outputs, windows
from aifs_ensemble.products.statistics.formulas import mean_and_spread, probability, quantiles
from aifs_ensemble.products.statistics.write import write_statistics

from products.conftest import MEMBERS, make_ensemble, true_fields
from products.test_weekly import regridded

STATISTICS: dict[str, Any] = {
    "enabled": True,
    "variables": ["2t", "10si", "ws_850", "tp"],
    "windows": [6, 24],
    "at_least": {"tp": [5, 10, 17.5], "10si": [10]},
    "below": {"2t": [273.15, 280]},
    "quantiles": [0.1, 0.5, 1],
}


def changed(config: Config, **over: Any) -> Config:
    raw = config.to_dict()
    raw["products"]["statistics"] = {}
    merge(raw, {"products": {"statistics": {**STATISTICS, **over}}})
    return Config(raw)


def written(config: Config, chunk: str, folder: Path, members: Any = None) -> dict[str, Path]:
    """Write a chunk; return the files by the end of their names, such as ``h024-em_024h.grib2``."""
    found = find_chunk(config, chunk)
    paths = {key: folder / Path(key).name for key in outputs(config, found)}
    write_statistics(config, found, paths, members)
    assert sorted(folder.iterdir()) == sorted(paths.values())
    return {path.name.removeprefix(f"aifs_ens_{config.cycle}_"): path for path in paths.values()}


def expected(config: Config, name: str, lead: int, window: int = 0, members: Any = MEMBERS) -> np.ndarray:
    """Return a variable of all members by hand, float64 ``(member, row, column)``."""
    found = []
    for member in members:
        at = true_fields(config, member, lead)
        if window:
            before = true_fields(config, member, lead - window)[name] if lead > window else 0 * at[name]
            found.append(regridded(config, at[name] - before))
        elif parts := {"10si": ("10u", "10v"), "ws_850": ("u_850", "v_850")}.get(name):
            found.append(np.hypot(*(regridded(config, at[part], wind=True) for part in parts)))
        else:
            found.append(regridded(config, at[name]))
    return np.stack(found)


@pytest.mark.parametrize("members", [1, 2, 7, 50])
@pytest.mark.parametrize("missing", [False, True])
def test_formulas_are_those_of_numpy(members: int, missing: bool) -> None:
    rng = np.random.default_rng(members)
    values = rng.normal(280, 8, (members, 181, 103)).astype(np.float32)  # more points than a piece, and no multiple
    values[:, :5] = np.round(values[:, :5])  # ties
    if missing:
        values[members // 2, 7, 3:9] = np.nan
    doubles = values.astype(np.float64)
    mean, spread = mean_and_spread(values)
    np.testing.assert_allclose(mean, doubles.mean(0), rtol=1e-7)
    np.testing.assert_allclose(spread, doubles.std(0), rtol=1e-6, atol=1e-9)
    shares = [0.0, 0.1, 0.25, 0.5, 0.99, 1.0]
    np.testing.assert_allclose(quantiles(values, shares), np.quantile(doubles, shares, axis=0), rtol=1e-7)
    for comparison, by_hand in (("at_least", doubles >= 280), ("below", doubles < 280)):
        share = np.where(np.isnan(doubles).any(0), np.nan, 100 * by_hand.mean(0))
        np.testing.assert_allclose(probability(values, comparison, 280), share, rtol=1e-6)


def test_at_a_threshold_is_at_least_and_not_below() -> None:
    at = np.full((4, 1), 273.15, np.float32)
    assert probability(at, "at_least", 273.15) == 100 and probability(at, "below", 273.15) == 0


def test_windows_end_at_their_multiples_and_long_ones_every_day(ensemble: Config) -> None:
    config = changed(ensemble, windows=[6, 12, 24, 48])
    assert [windows(config, lead) for lead in (6, 12, 24, 36, 48)] == [
        [0, 6], [0, 6, 12], [0, 6, 12, 24], [0, 6, 12], [0, 6, 12, 24, 48]
    ]  # fmt: skip
    assert windows(changed(ensemble, variables=["2t"]), 24) == [0]
    assert windows(changed(ensemble, variables=["tp"]), 24) == [6, 24]


def test_files_of_a_chunk(ensemble: Config) -> None:
    config = changed(ensemble)
    assert [chunk.name for chunk in chunks(config)] == ["h006_024", "h030_048"]
    assert [chunk.name for chunk in chunks(changed(ensemble, hours_a_job=72))] == ["h006_048"]
    assert chunks(changed(ensemble, enabled=False)) == []
    chunk = find_chunk(config, "h030_048")
    assert leads_of(config, chunk, 24) == [48] and leads_of(config, chunk, 6) == [30, 36, 42, 48]
    found = {Path(key).name.removeprefix("aifs_ens_20250819_0000_") for *_, key in files(config, chunk)}
    assert {"h030-em.grib2", "h030-ep_006h.grib2", "h048-es_024h.grib2", "h030-048-ens_024h.nc"} <= found
    assert "h042-em_024h.grib2" not in found and len(found) == 4 * 6 + 3 + 3
    # no name in GRIB for any threshold: no file of probabilities
    assert kinds(changed(ensemble, at_least={"tp": [3]}, below={"2t": [280]}), 0) == ["em", "es"]


@pytest.fixture(scope="module")
def second_day(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(changed(ensemble), "h030_048", tmp_path_factory.mktemp("statistics"))


def test_netcdf_holds_the_statistics(ensemble: Config, second_day: dict[str, Path]) -> None:
    with xr.open_dataset(second_day["h030-048-ens.nc"], decode_timedelta=False) as data:
        assert data["2t_mean"].dims == ("time", "latitude", "longitude")
        assert data["2t_quantile"].dims == ("time", "quantile", "latitude", "longitude")
        assert data["2t_below"].dims[1] == "threshold_2t_below"
        assert data["time"].to_numpy()[0] == np.datetime64("2025-08-20T06:00")
        assert data["leadtime"].to_numpy().tolist() == [30, 36, 42, 48]
        assert data["10si_mean"].attrs["standard_name"] == "wind_speed"
        for name in ("2t", "10si", "ws_850"):
            values = expected(ensemble, name, 42)
            scale = max(float(np.ptp(values)), 1e-3) / 2**13
            one = data.sel(time="2025-08-20T18:00")
            np.testing.assert_allclose(one[f"{name}_mean"], values.mean(0), atol=scale)
            np.testing.assert_allclose(one[f"{name}_spread"], values.std(0), atol=scale)
            np.testing.assert_allclose(one[f"{name}_quantile"], np.quantile(values, [0.1, 0.5, 1], axis=0), atol=scale)
        assert data.attrs["source"].startswith("demo, an untrained model") and "untrained" in data.attrs["title"]
        assert data.attrs["ensemble"] == "3 of 3 members" and len(data.attrs["member_digests"].split()) == 3


@pytest.mark.parametrize(
    ("file", "lead", "window"), [("h030-048-ens_006h.nc", 36, 6), ("h030-048-ens_024h.nc", 48, 24)]
)
def test_amounts_are_those_of_their_window(
    ensemble: Config, second_day: dict[str, Path], file: str, lead: int, window: int
) -> None:
    values = expected(ensemble, "tp", lead, window)
    scale = float(np.ptp(true_fields(ensemble, 1, 48)["tp"])) / 2**14
    with xr.open_dataset(second_day[file], decode_timedelta=False) as data:
        one = data.isel(time=data["leadtime"].to_numpy().tolist().index(lead))
        np.testing.assert_allclose(one["tp_mean"], values.mean(0), atol=scale)
        np.testing.assert_allclose(one["tp_spread"], values.std(0), atol=scale)
        assert data["threshold_tp_at_least"].to_numpy().tolist() == [5, 10, 17.5]
        for threshold in (5, 10, 17.5):
            # not where packing may have moved a value over the threshold
            sure = (np.abs(values - threshold) > scale).all(0)
            found = one["tp_at_least"].sel(threshold_tp_at_least=threshold).to_numpy()
            np.testing.assert_allclose(found[sure], 100 * (values >= threshold).mean(0)[sure], rtol=1e-6)
        bounds = data["time_bnds"].to_numpy()
        assert ((bounds[:, 1] - bounds[:, 0]) / np.timedelta64(1, "h") == window).all()
        assert data["tp_mean"].attrs["cell_methods"] == f"time: sum (interval: {window} hours)"


def test_sums_of_steps_are_the_same_rain(tmp_path: Path, weights_cache: Path) -> None:
    cache = {"initial_conditions": {"source": "idealised", "cache": str(weights_cache)}}
    over = {"members": "1-2", "lead_hours": 24, "forecast": {"accumulate": "per_step"}, "products": {}}
    made = make_ensemble(tmp_path / "scratch", str(tmp_path / "results"), **over, **cache)
    config = changed(made, variables=["tp"], windows=[24], quantiles=[])
    paths = written(config, "h006_024", tmp_path / "made")
    steps = [sum(true_fields(config, member, lead)["tp"] for lead in (6, 12, 18, 24)) for member in (1, 2)]
    values = np.stack([regridded(config, field) for field in steps])
    with xr.open_dataset(paths["h006-024-ens_024h.nc"]) as data:
        assert np.abs(data["tp_mean"][0] - values.mean(0)).max() <= 4 * np.ptp(values) / 2**14
        assert "quantile" not in data.dims


def test_made_again_they_are_the_same_bytes(ensemble: Config, second_day: dict[str, Path], tmp_path: Path) -> None:
    again = written(changed(ensemble), "h030_048", tmp_path)
    assert all(path.read_bytes() == second_day[name].read_bytes() for name, path in again.items())


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"variables": ["2tt"]}, "statistics.variables: 2tt: '2tt', expected .*did you mean '2t'"),
        ({"variables": ["ws_851"]}, "demo makes no u_851 and v_851, expected both components"),
        ({"variables": ["10fg"]}, "statistics.variables: 10fg"),
        ({"windows": [36]}, "statistics.windows: 36, expected whole days, or hours that divide a day"),
        ({"windows": [4]}, "statistics.windows: 4"),
        ({"below": {"2tx": [1]}}, "statistics.below.2tx"),
        ({"quantiles": [1.5]}, "statistics.quantiles"),
        ({"hours_a_job": 30}, "statistics.hours_a_job"),
    ],
)
def test_wrong_keys_are_refused(ensemble: Config, over: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        changed(ensemble, **over)


def test_a_member_that_is_not_there_is_named_and_nothing_left(ensemble: Config, tmp_path: Path) -> None:
    raw = changed(ensemble).to_dict()
    raw["members"] = "1-4"
    with pytest.raises(InputError, match=r"member004.*expected a delivered member"):
        written(Config(raw), "h006_024", tmp_path)
    assert not list(tmp_path.iterdir())
    # without it, it is said
    paths = written(Config(raw), "h006_024", tmp_path, members=[1, 2, 3])
    with xr.open_dataset(paths["h006-024-ens.nc"]) as data:
        assert data.attrs["ensemble"] == "3 of 4 members, short: without members 4"
        assert "short: without members 4" in data.attrs["title"]
