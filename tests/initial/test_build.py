"""States from each source: content, bytes on a rerun, kills in every phase, the ensemble's spread."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.sections import Idealised
from aifs_ensemble.common.errors import DownloadError, InputError
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import interpolation_weights
from aifs_ensemble.fields.state import State, read_state, write_state
from aifs_ensemble.forecast.settings import source_differences
from aifs_ensemble.initial.build import build_member, prepare_cycle
from aifs_ensemble.initial.checks import run_checks
from aifs_ensemble.initial.idealised import idealised_fields
from aifs_ensemble.initial.spread import ensemble_statistics
from aifs_ensemble.initial.summaries import check_members_differ, refuse_twin, write_summary
from doubles.opendata_replica import member_fields
from doubles.opendata_server import Fault, serve

CYCLE = parse_cycle("20250819_0000")


def open_data(make_config, server, weights_cache, tmp_path, **settings):
    """Return a configuration for `server`, with a cache of its own but for the weights."""
    cache = tmp_path / "cache"
    if not cache.exists():
        interpolation_weights("10x10", "N32", weights_cache)
        shutil.copytree(weights_cache, cache)
    service = {"sources": [server.url], "attempts": 1, "stall_seconds": 2, **settings}
    return make_config(source="ecmwf-open-data", cache=str(cache), ecmwf_open_data=service)


def test_idealised_state_has_every_input_and_reads_back(make_config, tmp_path):
    config = make_config()
    path = config.scratch.initial(1)
    state = build_member(config, 1, path)
    assert state.variables == config.model.inputs and state.grid == "N32"
    assert state.times == (CYCLE - timedelta(hours=6), CYCLE)
    assert state.fields.shape == (2, 92, 6114) and state.fields.dtype == np.float32
    assert np.isfinite(state.fields).all()
    assert state.provenance["checks"] == {"made": 197, "failed": []}
    again = read_state(path, variables=config.model.inputs, grid="N32")
    np.testing.assert_array_equal(again.fields, state.fields)
    for name in config.model.constant:
        np.testing.assert_array_equal(*state.variable(name))


def test_idealised_state_passes_every_check_on_the_real_grid(make_config, tmp_path):
    config, grid = make_config(), grid_coordinates("N80")
    names = config.model.inputs
    fields = [
        idealised_fields(
            grid, config.model.levels, time, cycle_time=CYCLE, member=7, settings=Idealised(seed=3, amplitude=2.0)
        )
        for time in (CYCLE - timedelta(hours=6), CYCLE)
    ]
    stacked = np.stack([np.stack([at[name] for name in names]) for at in fields]).astype(np.float32)
    times = (CYCLE - timedelta(hours=6), CYCLE)
    state = State(stacked, times, names, tuple(parameter_of(name).units for name in names), "N80", config.cycle, 7)
    assert [str(o) for o in run_checks(state, frozenset(config.model.constant), {}) if not o.ok] == []


def test_idealised_jet_is_in_balance():
    """Geostrophic wind from the geopotential is close to the wind in the jet; both come from other formulas."""
    fields = member_fields("2x2", CYCLE, CYCLE, 1)
    grid = grid_coordinates("2x2")
    u, z = (fields[name].reshape(grid.shape) for name in ("u_300", "z_300"))
    latitude = np.deg2rad(grid.latitudes.reshape(grid.shape))
    slope = np.gradient(z, axis=0) / np.gradient(latitude, axis=0) / 6.371229e6
    jet = (np.abs(np.rad2deg(latitude)) > 35) & (np.abs(np.rad2deg(latitude)) < 55)
    geostrophic = -slope[jet] / (2 * 7.29212e-5 * np.sin(latitude[jet]))
    error = geostrophic - u[jet]
    # the rest is the curvature of the flow (u**2 tan(latitude) / a), some 8 per cent here
    assert np.sqrt(np.mean(error**2)) < 0.12 * np.sqrt(np.mean(u[jet] ** 2))


def test_members_differ_and_are_reproducible(make_config, tmp_path):
    config = make_config()
    one, again, two = (build_member(config, m, tmp_path / n) for m, n in ((1, "a"), (1, "b"), (2, "c")))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    np.testing.assert_array_equal(one.fields, again.fields)
    assert not np.array_equal(one.variable("t_500"), two.variable("t_500"))
    seeded = build_member(make_config(idealised={"seed": 1}), 1, tmp_path / "d")
    assert not np.array_equal(one.variable("t_500"), seeded.variable("t_500"))


def test_open_data_state_is_the_interpolated_fields(make_config, replica, weights_cache, tmp_path):
    with serve(replica) as server:
        config = open_data(make_config, server, weights_cache, tmp_path)
        record = prepare_cycle(config, tmp_path / "cycle.json")
        assert json.loads((tmp_path / "cycle.json").read_text()) == record
        requested = len(server.log)
        state = build_member(config, 2, tmp_path / "m2")
        ranges = server.log[requested:]
    assert all(path.endswith(".grib2") for path, _ in ranges), "the index was fetched again for a member"
    assert len(ranges) == 176, "constants were fetched again for a member"
    weights = interpolation_weights("10x10", "N32", weights_cache)
    for index, time in enumerate(state.times):
        truth = member_fields("10x10", time, CYCLE, 2)
        expected = weights.apply(np.stack([truth[name] for name in state.variables]))
        for i, name in enumerate(state.variables):
            if name in config.model.constant:
                continue
            spread = np.ptp(truth[name])
            # packed into 16 bits
            np.testing.assert_allclose(
                state.fields[index, i], expected[i], atol=2e-5 * spread + 1e-6 * abs(expected[i]).max()
            )
    assert state.provenance["interpolation"]["from"]["10x10"]["sha256"] == weights.digest
    assert state.provenance["derived"] == {} and state.provenance["checks"]["failed"] == []


def test_rerun_from_the_cache_gives_the_same_bytes_without_network(make_config, replica, weights_cache, tmp_path):
    with serve(replica) as server:
        config = open_data(make_config, server, weights_cache, tmp_path)
        build_member(config, 1, tmp_path / "first")
    build_member(config, 1, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_no_source_leaves_no_file(make_config, replica, weights_cache, tmp_path):
    with serve(replica, Fault(r"\.grib2$", status=503)) as server:
        config = open_data(make_config, server, weights_cache, tmp_path)
        with pytest.raises(DownloadError, match="HTTP 503"):
            build_member(config, 1, tmp_path / "out" / "m1")
    assert not list(tmp_path.glob("out/*"))


BUILD = """
import json, sys
from pathlib import Path
from aifs_ensemble.common.config import Config
from aifs_ensemble.forecast.settings import source_differences
from aifs_ensemble.initial.build import build_member, prepare_cycle
config = Config(json.loads(sys.argv[1]))
{at}
prepare_cycle(config)
build_member(config, 1, Path(sys.argv[2]))
"""

# where the process kills itself, as kill -9 would: module, function, calls let through, text in the arguments
PHASES = {
    "index": "aifs_ensemble.initial.rangecache RangeCache.keep_index 0",
    "constants": "aifs_ensemble.initial.opendata write_state 0",
    "ranges": "aifs_ensemble.initial.rangecache RangeCache.keep_range 57",
    "range written but not named": "aifs_ensemble.common.files os.replace 40 ranges",
    "weights": "aifs_ensemble.fields.interpolation _store 0",
    "interpolation": "aifs_ensemble.fields.interpolation Weights.apply 4",
    "checks": "aifs_ensemble.initial.checks run_checks 0",
    "state": "aifs_ensemble.initial.build write_state 0",
    "state written but not named": "aifs_ensemble.common.files os.replace 0 out/.m1",
}
KILL = """
import importlib, os, signal
module, function, after, text = ({phase!r} + " ").split(" ")[:4]
owner, _, name = function.rpartition(".")
owner = getattr(importlib.import_module(module), owner) if owner else importlib.import_module(module)
original, calls = getattr(owner, name), [0]
def planted(*args, **kwargs):
    calls[0] += text in str(args)
    if calls[0] > int(after):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, name, planted)
"""


@pytest.fixture(scope="module")
def undisturbed(replica, weights_cache, tmp_path_factory):
    """A server and the bytes that member 1 has when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    interpolation_weights("10x10", "N32", weights_cache)
    with serve(replica) as server:
        raw = {
            "model": "demo", "cycle": "20250819_0000", "members": "1-2", "lead_hours": 6, "scratch": str(folder),
            "initial_conditions": {"source": "ecmwf-open-data", "ecmwf_open_data": {"sources": [server.url]}},
        }  # fmt: skip
        shutil.copytree(weights_cache, folder / "cache")
        build_member(Config(raw), 1, folder / "m1")
        yield server, (folder / "m1").read_bytes()


@pytest.mark.parametrize("phase", PHASES)
def test_kill_in_any_phase_then_rerun_gives_the_same_bytes(
    phase, make_config, undisturbed, weights_cache, tmp_path, root
):
    server, expected = undisturbed
    config = open_data(make_config, server, weights_cache, tmp_path)
    if phase == "weights":
        shutil.rmtree(config.cache / "weights")
    path = tmp_path / "out" / "m1"

    def run(at):
        command = [sys.executable, "-c", BUILD.format(at=at), json.dumps(config.to_dict()), str(path)]
        environment = os.environ | {"PYTHONPATH": str(root / "scripts")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    killed = run(KILL.format(phase=PHASES[phase]))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not path.exists()
    done = run("")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == expected


def test_statistics_show_the_spread(make_config, tmp_path):
    config = make_config()
    paths = [tmp_path / f"m{member}" for member in (1, 2, 3)]
    states = [build_member(config, member, path) for member, path in enumerate(paths, 1)]
    table = ensemble_statistics(paths)
    assert list(table.index) == list(config.model.inputs) and set(table["members"]) == {3}
    values = np.stack([state.variable("t_500")[-1] for state in states]).astype(float)
    weights = grid_coordinates("N32").weights
    assert table.loc["t_500", "spread"] == pytest.approx(np.sqrt(weights @ values.var(axis=0, ddof=1)), rel=1e-5)
    assert table.loc["t_500", "mean"] == pytest.approx(weights @ values.mean(axis=0), rel=1e-6)
    assert table.loc["lsm", "spread"] == 0 and table.attrs["duplicates"] == []


def test_identical_members_are_an_error_and_duplicates_are_seen(make_config, tmp_path):
    config = make_config()
    paths = [tmp_path / f"m{member}" for member in range(1, 51)]
    first = build_member(config, 1, paths[0])
    for member, path in enumerate(paths[1:], 2):
        write_state(path, replace(first, member=member))
    with pytest.raises(InputError, match=r"all 50 members \(1-50\) are identical"):
        ensemble_statistics(paths)
    build_member(config, 50, paths[-1])
    assert ensemble_statistics(paths[-3:]).attrs["duplicates"] == [[48, 49]]


def test_statistics_refuse_states_of_different_cycles(make_config, tmp_path):
    build_member(make_config(), 1, tmp_path / "a")
    build_member(make_config(cycle="20250820_0000"), 2, tmp_path / "b")
    with pytest.raises(InputError, match="for 20250820_0000, expected 92 on N32 for 20250819_0000"):
        ensemble_statistics([tmp_path / "a", tmp_path / "b"])


def test_real_replica_gives_four_sound_members(make_config, shared_data, tmp_path):
    paths = [tmp_path / f"m{member}" for member in range(1, 5)]
    with serve(shared_data / "opendata-replica") as server:
        service = {"sources": [server.url]}
        config = make_config(source="ecmwf-open-data", members="1-4", ecmwf_open_data=service)
        prepare_cycle(config)
        states = [build_member(config, member, path) for member, path in enumerate(paths, 1)]
    assert all(state.provenance["checks"]["failed"] == [] for state in states)
    # README of the replica, member 2, area means
    member = dict(zip(states[1].variables, states[1].fields[-1] @ grid_coordinates("N32").weights, strict=True))
    expected = {"2t": 287.8, "msl": 101114, "t_850": 281.5, "z_500": 5664 * 9.80665, "stl2": 289.2, "q_1000": 0.009597}
    for name, value in expected.items():
        assert member[name] == pytest.approx(value, rel=2e-3), name
    spread = ensemble_statistics(paths)["spread"]
    assert 0.2 < spread["t_850"] < 1.5 and spread["z_500"] > 20


def test_nothing_here_imports_torch(root):
    code = (
        "import sys, aifs_ensemble.initial.build, aifs_ensemble.initial.opendata, "
        "aifs_ensemble.initial.file_source, aifs_ensemble.initial.pickles; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_members_share_a_state_where_that_is_asked_for(make_config, tmp_path):
    """Of four members with two a state, the third starts as the first does, and says so; another setting differs."""
    raw = make_config(members="1-4").to_dict() | {"ensemble_size": 4}
    raw["initial_conditions"]["members_per_state"] = 2
    config = Config(raw)
    states = {member: build_member(config, member, config.scratch.initial(member)) for member in config.members}
    for member, shared in {1: 1, 2: 2, 3: 1, 4: 2}.items():
        assert states[member].member == member
        assert np.array_equal(states[member].fields, states[shared].fields)
        assert states[member].provenance["source"].get("state_of_member", member) == shared
        write_summary(tmp_path / f"member{member:03d}.json", states[member])
        refuse_twin(tmp_path / f"member{member:03d}.json")
    assert not np.array_equal(states[1].fields, states[2].fields)
    found = check_members_differ(sorted(tmp_path.glob("member*.json")), tmp_path / "members.json")
    assert found == {"members": [1, 2, 3, 4], "distinct": 2}
    assert ensemble_statistics(map(config.scratch.initial, config.members)).attrs["duplicates"] == []
    raw["initial_conditions"]["members_per_state"] = 1
    alone = Config(raw)
    differ = {m: source_differences(alone, states[m].provenance, m) for m in config.members}
    said = "initial conditions' state_of_member"
    assert differ == {1: [], 2: [], 3: [f"{said} 1, not 3"], 4: [f"{said} 2, not 4"]}
    # a twin that nobody asked for is refused as ever
    states[3].provenance["source"].pop("state_of_member")
    write_summary(tmp_path / "member003.json", states[3])
    with pytest.raises(InputError, match="members 1,3 have identical fields"):
        refuse_twin(tmp_path / "member003.json")
