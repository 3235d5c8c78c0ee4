"""Initial states of AIFS ENS v2: snow, soil water and waves, missing where they are, from each kind of source."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.common.parameters import delivered
from aifs_ensemble.fields.grib_reader import decode
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.state import State, read_state, write_state
from aifs_ensemble.forecast.request import ForecastRequest, read_initial
from aifs_ensemble.initial.build import assemble, build_member, prepare_cycle
from aifs_ensemble.initial.checks import run_checks
from aifs_ensemble.initial.idealised import IdealisedSource
from aifs_ensemble.initial.newest import Availability
from aifs_ensemble.initial.pickles import convert_pickle
from aifs_ensemble.initial.published import check_published
from aifs_ensemble.initial.source import input_times
from aifs_ensemble.initial.spread import ensemble_statistics
from doubles.opendata_replica import build_replica, encode, member_fields
from doubles.opendata_server import serve

MODEL = get_model("demo-v2")
GRID, CYCLE = "10x10", "20260513_0000"
TIME = parse_cycle(CYCLE)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first cycle that open data has whole, with members 1 and 2 and the control on its own."""
    return build_replica(tmp_path_factory.mktemp("replica"), TIME, [1, 2], GRID, ("oper", "oper"), MODEL)


@pytest.fixture
def make(make_config: Callable[..., Config]) -> Callable[..., Config]:
    """Return a function that makes a configuration of the second version."""

    def config(members: str = "1", cycle: str = CYCLE, **initial: Any) -> Config:
        return Config({**make_config(cycle, members).to_dict(), "model": "demo-v2", "initial_conditions": initial})

    return config


@pytest.fixture
def served(make: Callable[..., Config], weights_cache: Path, tmp_path: Path) -> Callable[..., Config]:
    """Return a function that makes a configuration of a service."""

    def config(*urls: str, **more: Any) -> Config:
        service = {"sources": list(urls), "attempts": 1, "stall_seconds": 2}
        return make(source="ecmwf-open-data", cache=str(weights_cache), ecmwf_open_data=service, **more)

    return config


def check_masks(state: State) -> None:
    """Snow and soil water have a value exactly where there is land; all waves are missing at the same points."""
    land = state.variable("lsm")[-1] > 0
    assert 0 < land.mean() < 1
    for name in ("sd", "swvl1", "swvl2"):
        np.testing.assert_array_equal(~np.isnan(state.variable(name)), [land, land], err_msg=name)
    missing = np.isnan(state.variable("swh"))
    assert 0 < missing.mean() < 1 and not missing[:, state.variable("lsm")[-1] == 0].any()
    for name in (*MODEL.waves, "wmb"):
        np.testing.assert_array_equal(np.isnan(state.variable(name)), missing, err_msg=name)
    for row, name in enumerate(state.variables):
        assert name in MODEL.missing or np.isfinite(state.fields[:, row]).all(), name


@pytest.mark.parametrize("member", [0, 1])
def test_open_data_gives_all_of_it(served: Callable[..., Config], second: Path, member: int, tmp_path: Path) -> None:
    with serve(second) as server:
        config = served(server.url, members="0-2")
        assert check_published(config) is None
        assert Availability().lacking(config) == ""
        prepare_cycle(config)
        state = build_member(config, member, path := tmp_path / "state.safetensors")
    assert state.variables == MODEL.inputs and len(state.variables) == 112
    assert state.provenance["checks"]["failed"] == []
    check_masks(state)
    files = {file for item in state.provenance["source"]["requests"] for file in item["files"]}
    streams = {"enfo", "waef"} if member else {"oper", "wave"}
    assert {file.split("-")[-2] for file in files} == streams and len(files) == 4
    cosine, sine = state.variable("cos_mwd"), state.variable("sin_mwd")
    known = ~np.isnan(cosine)
    np.testing.assert_allclose((cosine**2 + sine**2)[known], 1, rtol=1e-5)
    assert state.variable("wmb")[0].tobytes() == state.variable("wmb")[1].tobytes()
    # metres, of the service's kg m-2; linear interpolation stays within the values of the source, which over sea are 0
    truth = member_fields(GRID, TIME, TIME, member or 900, MODEL)
    for name in ("sd", "swvl1", "swh", "mwp", "h2530", "cdww", "wmb"):
        low = 0 if MODEL.missing[name] == "sea" else np.nanmin(truth[name])
        high = np.nanmax(truth[name])
        margin = 1e-3 * (high - low)
        assert low - margin <= np.nanmin(state.variable(name)[1]), name
        assert np.nanmax(state.variable(name)[1]) <= high + margin, name
    read = read_state(path, variables=MODEL.inputs, grid="N32")
    np.testing.assert_array_equal(read.fields, state.fields)


@pytest.mark.parametrize("cycle", ["20260512_1800", "20260512_1200", "20250819_0000"])
def test_an_earlier_cycle_is_refused_before_anything_is_fetched(
    served: Callable[..., Config], second: Path, cycle: str, tmp_path: Path
) -> None:
    with serve(second) as server:
        config = served(server.url, cycle=cycle)
        for attempt in (check_published, prepare_cycle, lambda config: build_member(config, 1, tmp_path / "state")):
            with pytest.raises(InputError) as caught:
                attempt(config)
            line = str(caught.value)
            assert line.startswith(f"config: cycle: '{cycle}': open data has cdww, h1012, ") and "t_10" in line
            assert line.endswith("which demo-v2 starts from, since 2026-05-13 00 UTC only") and "swh" not in line
        assert server.log == []
        with pytest.raises(InputError, match="no index of"):
            check_published(Config({**config.to_dict(), "model": "demo"}))


def test_a_service_without_waves_is_told_beforehand(
    served: Callable[..., Config], second: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(second, tmp_path / "replica")
    next(root.glob("20260513/00z/ifs/0p25/waef/*.index")).unlink()
    with serve(root) as server, pytest.raises(InputError, match=r"no index of 20260513_0000 waef$"):
        check_published(served(server.url))
    with serve(root) as server:
        assert "no index of" in Availability().lacking(served(server.url))


def idealised(make: Callable[..., Config], tmp_path: Path, members: str = "1") -> list[Path]:
    config = make(members, source="idealised")
    for member in config.members:
        build_member(config, member, tmp_path / f"{member}.safetensors")
    return [tmp_path / f"{member}.safetensors" for member in config.members]


def test_the_idealised_state_has_all_of_it(make: Callable[..., Config], tmp_path: Path) -> None:
    state = read_state(idealised(make, tmp_path)[0])
    check_masks(state)
    assert state.provenance["checks"]["failed"] == [] and state.variables == MODEL.inputs
    bands = [state.variable(name) for name in MODEL.waves if name.startswith("h")]
    assert (np.nansum(np.square(bands), axis=0) <= np.nan_to_num(state.variable("swh")) ** 2 + 1e-6).all()
    assert np.nanmax(state.variable("sd")) > 0.1 and np.nanmin(state.variable("sd")) == 0
    # waves come from where the wind comes from: 10 m wind points the other way than their direction
    against = state.variable("10u") * state.variable("sin_mwd") + state.variable("10v") * state.variable("cos_mwd")
    np.testing.assert_allclose(against, -np.hypot(state.variable("10u"), state.variable("10v")) + 0 * against, atol=0.2)


def test_the_first_version_gets_nothing_new(make_config: Callable[..., Config], tmp_path: Path) -> None:
    state = build_member(make_config(), 1, tmp_path / "state.safetensors")
    assert len(state.variables) == 92 and np.isfinite(state.fields).all()


def test_a_forecast_takes_what_may_be_missing_and_nothing_else(make: Callable[..., Config], tmp_path: Path) -> None:
    config = make("1", source="idealised")
    state = build_member(config, 1, config.scratch.initial(1))
    request = ForecastRequest.from_config(config, 1, checkpoint=tmp_path / "none.ckpt")
    np.testing.assert_array_equal(read_initial(request).fields, state.fields)
    for name, value in (("2t", np.nan), ("swh", np.inf)):
        fields = state.fields.copy()
        fields[1, state.variables.index(name), 3] = value
        write_state(config.scratch.initial(1), replace(state, fields=fields))
        with pytest.raises(InputError, match=f"NaN or infinity in {name}, expected numbers"):
            read_initial(request)


def test_statistics_leave_out_what_is_missing(make: Callable[..., Config], tmp_path: Path) -> None:
    paths = idealised(make, tmp_path, "1-3")
    table = ensemble_statistics(paths)
    states = [read_state(path) for path in paths]
    for name in ("swh", "sd", "2t"):
        values = np.stack([state.variable(name)[-1] for state in states]).astype(float)
        known = np.isfinite(values).all(axis=0)
        area = grid_coordinates("N32").weights[known]
        mean = np.average(values.mean(axis=0)[known], weights=area)
        spread = np.sqrt(np.average(values.var(axis=0, ddof=1)[known], weights=area))
        np.testing.assert_allclose(table.loc[name, "mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(table.loc[name, "spread"], spread, rtol=1e-4, atol=1e-9)
        assert table.loc[name, "largest"] == np.nanmax(values)


WRONG = {
    "snow missing on land": (lambda at, land: at["sd"].__setitem__(land, np.nan), "missing values of sd at T: "),
    "no waves at sea": (lambda at, land: at["swh"].__setitem__(slice(0, 4000), np.nan), "missing values of swh at T: "),
    "all waves missing": (
        lambda at, land: at["mwp"].fill(np.nan),
        "all missing: mwp, expected values over land or sea",
    ),
    "infinite": (lambda at, land: at["sd"].__setitem__(land, np.inf), "not finite: sd, expected a number"),
    "temperature missing": (lambda at, land: at["2t"].__setitem__(3, np.nan), "not finite: 2t, expected a number"),
    "9999 over land": (lambda at, land: np.nan_to_num(at["swh"], copy=False, nan=9999), "range of swh"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_elsewhere_is_refused(make: Callable[..., Config], case: str) -> None:
    config = make("1", source="idealised")
    found = IdealisedSource(config).read(1)
    change, line = WRONG[case]
    for time in input_times(config):
        change(found.fields[time], np.flatnonzero(found.fields[time]["lsm"] > 0.9)[:5])
    with pytest.raises(InputError) as caught:
        assemble(config, 1, found)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def grib(path: Path, change: Callable[[dict], object] = lambda fields: None, **keys: Any) -> Path:
    with path.open("wb") as file:
        for hours in (-6, 0):
            fields = member_fields(GRID, TIME + timedelta(hours=hours), TIME, 1, MODEL)
            change(fields)
            for name in delivered(MODEL.inputs if not hours else MODEL.prognostic):
                file.write(encode(name, fields[name], GRID, TIME + timedelta(hours=hours), bitsPerValue=24, **keys))
    return path


def test_the_users_grib_may_miss_values(make: Callable[..., Config], weights_cache: Path, tmp_path: Path) -> None:
    path = grib(tmp_path / "input.grib2")
    config = make("1", source="file", file={"path": str(path)}, cache=str(weights_cache), derive=["z"])
    state = build_member(config, 1, tmp_path / "state.safetensors")
    assert state.provenance["checks"]["failed"] == []
    check_masks(state)
    np.testing.assert_allclose(np.nanmax(state.variable("sd")[1]), 0.2190, atol=0.05)


def test_other_values_that_are_missing_are_refused() -> None:
    fields = member_fields(GRID, TIME, TIME, 1, MODEL)
    _, values = decode(encode("mwp", fields["mwp"], GRID, TIME), "mwp")
    np.testing.assert_array_equal(np.isnan(values), np.isnan(fields["mwp"]))
    handle = eccodes.codes_new_from_message(encode("mwp", fields["mwp"], GRID, TIME))
    eccodes.codes_set(handle, "shortName", "2t")
    with pytest.raises(InputError, match=r"a field: \d+ of 684 values missing or not finite, expected none"):
        decode(eccodes.codes_get_message(handle), "a field")
    with pytest.raises(InputError, match=r"a field: 684 of 684 values missing"):
        decode(encode("mwp", fields["mwp"] * np.nan, GRID, TIME), "a field")


def test_the_users_pickle_may_miss_values(make: Callable[..., Config], tmp_path: Path) -> None:
    """As this project's first users make them: NaN over sea and over land, cosine and sine of the direction."""
    config = make("1", source="idealised")
    state = build_member(config, 1, tmp_path / "state.safetensors")
    content = {"date": TIME.replace(tzinfo=None), "fields": {name: state.variable(name) for name in state.variables}}
    path = tmp_path / "input_state_member_001.pkl"
    path.write_bytes(pickle.dumps(content))
    made = convert_pickle(config, path, 1, tmp_path / "converted.safetensors")
    np.testing.assert_array_equal(made.fields, state.fields)


def test_ice_may_cover_some_of_the_sea(make: Callable[..., Config], tmp_path: Path) -> None:
    state = read_state(idealised(make, tmp_path)[0])
    fields = state.fields.copy()
    fields[:, state.variables.index("swh"), -300:] = np.nan
    outcomes = run_checks(replace(state, fields=fields), frozenset(MODEL.constant), MODEL.missing)
    assert [outcome for outcome in outcomes if not outcome.ok] == []
