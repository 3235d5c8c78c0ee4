"""The control, member 0: the unperturbed analysis of each source."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.fields.interpolation import interpolation_weights
from aifs_ensemble.initial.build import build_member, prepare_cycle
from aifs_ensemble.initial.file_source import FileSource
from aifs_ensemble.initial.spread import ensemble_statistics
from aifs_ensemble.initial.summaries import refuse_twin, write_summary
from doubles.opendata_replica import CONTROL_FIELDS, build_replica, deterministic_stream, member_fields
from doubles.opendata_server import Fault, serve

GRID = "10x10"
BEFORE, AFTER = "20250819_0000", "20260601_0000"
WHERE = {
    "in the ensemble": (BEFORE, ("enfo", "enfo")),
    "deterministic": (BEFORE, ("oper", "oper")),
    "deterministic, one stream": (AFTER, ("oper", "oper")),
    "one of each": (BEFORE, ("enfo", "oper")),
    "nowhere": (BEFORE, ("", "")),
    "at T-6h alone": (BEFORE, ("enfo", "")),
}


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """Return a function that gives a replica with a control somewhere, and its cycle."""
    made: dict[str, Path] = {}

    def replica(where: str) -> tuple[Path, str]:
        cycle, control = WHERE[where]
        if where not in made:
            folder = tmp_path_factory.mktemp("replica")
            made[where] = build_replica(folder, parse_cycle(cycle), [1], GRID, control)
        return made[where], cycle

    return replica


@pytest.fixture
def cache(weights_cache: Path, tmp_path: Path) -> Path:
    """A cache of a test's own but for the weights."""
    interpolation_weights(GRID, "N32", weights_cache)
    return shutil.copytree(weights_cache, tmp_path / "cache")


def open_data(make_config: Callable[..., Config], cycle: str, cache: Path, *urls: str, members: str = "0-1") -> Config:
    service = {"sources": list(urls), "attempts": 1, "stall_seconds": 2}
    return make_config(cycle, members, source="ecmwf-open-data", cache=str(cache), ecmwf_open_data=service)


@pytest.mark.parametrize("where", ["in the ensemble", "deterministic", "deterministic, one stream", "one of each"])
def test_open_data_gives_the_control_from_where_it_is(
    make_config: Callable[..., Config], replicas: Callable[[str], tuple[Path, str]], cache: Path, where: str
) -> None:
    root, cycle = replicas(where)
    with serve(root) as server:
        config = open_data(make_config, cycle, cache, server.url)
        prepare_cycle(config)
        state = build_member(config, 0, path := config.scratch.initial(0))
    requests = [item["request"] for item in state.provenance["source"]["requests"]]
    last = parse_cycle(cycle)
    times = (last - timedelta(hours=6), last)
    for time, place in zip(times, WHERE[where][1], strict=True):
        kind = "enfo cf" if place == "enfo" else "oper fc"
        of_time = [request for request in requests if request.startswith(f"{time:%Y%m%d_%H%M} ")]
        assert of_time == [f"{time:%Y%m%d_%H%M} {kind} {levtype}" for levtype in ("sfc", "pl", "sol")]
        files = {file for item in state.provenance["source"]["requests"] for file in item["files"]}
        stream = "enfo" if place == "enfo" else deterministic_stream(time)
        assert any(f"{time:%Y%m%d%H}0000-0h-{stream}-" in file for file in files)
    weights = interpolation_weights(GRID, "N32", cache)
    for index, time in enumerate(times):
        truth = member_fields(GRID, time, last, CONTROL_FIELDS)
        for name in ("t_500", "v_200", "z_850", "msl", "stl1"):
            expected = weights.apply(truth[name][None])[0]
            assert np.abs(state.variable(name)[index] - expected).max() < 1e-3 * np.abs(truth[name]).max(), name
    assert build_member(config, 0, path.with_name("again")).fields.tobytes() == state.fields.tobytes(), "cached"
    assert path.with_name("again").read_bytes() == path.read_bytes()


LINES = {
    "nowhere": "open data 20250818_1800 enfo cf sfc: {url}: lacks 8 of 8 fields: 10u, 10v, 2d, 2t, msl, skt, sp, tcw; "
    "and open data 20250818_1800 oper fc sfc: {url}: HTTP 404",
    "at T-6h alone": "open data 20250819_0000 enfo cf sfc: {url}: lacks 8 of 8 fields: 10u, 10v, 2d, 2t, msl, skt, sp, "
    "tcw; and open data 20250819_0000 oper fc sfc: {url}: lacks 8 of 8 fields: 10u, 10v, 2d, 2t, msl, skt, sp, tcw",
}


@pytest.mark.parametrize("where", LINES)
def test_a_control_that_is_nowhere_is_one_line(
    make_config: Callable[..., Config], replicas: Callable[[str], tuple[Path, str]], cache: Path, where: str
) -> None:
    root, cycle = replicas(where)
    with serve(root) as server:
        config = open_data(make_config, cycle, cache, server.url)
        with pytest.raises((InputError, DownloadError)) as caught:
            build_member(config, 0, config.scratch.initial(0))
    assert str(caught.value) == LINES[where].format(url=server.url)
    assert not config.scratch.initial(0).exists()


def test_a_source_without_the_ensembles_file_is_no_reason_for_another_analysis(
    make_config: Callable[..., Config], replicas: Callable[[str], tuple[Path, str]], cache: Path
) -> None:
    """What a control starts from must not depend on how far a copy of the service has come."""
    root, cycle = replicas("deterministic")
    with serve(root, Fault("enfo", status=404)) as server:
        config = open_data(make_config, cycle, cache, server.url, members="0")
        with pytest.raises(DownloadError, match=r"enfo cf sfc: .*HTTP 404"):
            build_member(config, 0, config.scratch.initial(0))


def test_another_source_may_have_the_control_of_the_ensemble(
    make_config: Callable[..., Config], replicas: Callable[[str], tuple[Path, str]], cache: Path
) -> None:
    (without, cycle), (whole, _) = replicas("deterministic"), replicas("in the ensemble")
    with serve(without) as first, serve(whole) as second:
        config = open_data(make_config, cycle, cache, first.url, second.url, members="0")
        state = build_member(config, 0, config.scratch.initial(0))
    source = state.provenance["source"]
    assert {(item["source"], item["request"].split()[1]) for item in source["requests"]} == {(second.url, "enfo")}
    assert source["constants"]["requests"][0]["source"] == first.url


def test_a_members_message_is_not_taken_for_the_controls(
    make_config: Callable[..., Config], replicas: Callable[[str], tuple[Path, str]], cache: Path, tmp_path: Path
) -> None:
    root, cycle = replicas("nowhere")
    copy = shutil.copytree(root, tmp_path / "copy")
    for index in copy.rglob("*-enfo-ef.index"):
        index.write_text(index.read_text().replace('"pf"', '"cf"'))
    with serve(copy) as server:
        config = open_data(make_config, cycle, cache, server.url, members="0")
        with pytest.raises(DownloadError, match=r"member 1.*, expected .* enfo cf"):
            build_member(config, 0, config.scratch.initial(0))


def test_the_real_replica_has_a_control(
    make_config: Callable[..., Config], shared_data: Path, weights_cache: Path, tmp_path: Path
) -> None:
    with serve(shared_data / "opendata-replica") as server:
        cache = tmp_path / "cache"
        interpolation_weights("2.5x2.5", "N32", weights_cache)
        shutil.copytree(weights_cache, cache)
        config = open_data(make_config, BEFORE, cache, server.url)
        states = [build_member(config, member, config.scratch.initial(member)) for member in config.members]
    control, *others = (state.variable("t_850")[1] for state in states)
    apart = [float(np.sqrt(np.mean((control - other) ** 2))) for other in others]
    assert all(0.3 < one < 1.0 for one in apart), "its README says 0.6 K"
    assert states[0].provenance["checks"]["failed"] == []
    table = ensemble_statistics(map(config.scratch.initial, config.members))
    assert table.attrs["duplicates"] == [] and table.members.unique().tolist() == [2]


def test_the_idealised_control_has_no_perturbation(make_config: Callable[..., Config], tmp_path: Path) -> None:
    states = [build_member(make_config(members="0-2"), m, tmp_path / f"{m}") for m in (0, 1, 2)]
    control = states[0]
    assert not control.variable("v_300").any() and states[1].variable("v_300").any()
    seeded = build_member(make_config(idealised={"seed": 5, "amplitude": 3}), 0, tmp_path / "seeded")
    np.testing.assert_array_equal(seeded.fields, control.fields)
    assert control.provenance["checks"] == {"made": 197, "failed": []}
    t_850 = [state.variable("t_850")[1] for state in states]
    assert all(not np.array_equal(a, b) for a, b in pairwise(t_850))
    # the members lie around it
    assert np.abs(t_850[0] - np.mean(t_850[1:], axis=0)).mean() < 1.0


def file_config(make_config: Callable[..., Config], cache: Path, members: str = "0-2", **file: object) -> Config:
    return make_config(members=members, source="file", file=file, cache=str(cache), derive=["z"])


def warmer(kelvin: float) -> Callable[..., dict]:
    """One field is enough: what a state lacks is asked only later."""
    return lambda fields, hours: {"t_500": fields["t_500"] + kelvin}


def test_the_controls_file(
    make_config: Callable[..., Config], write_grib: Callable[..., Path], weights_cache: Path, tmp_path: Path
) -> None:
    """By number in one file, without one beside numbered members, by its own name, and in a pattern."""
    plain = write_grib(warmer(0), name="plain.grib2")
    numbered = {n: write_grib(warmer(n), name=f"member_{n:03d}.grib2", number=n) for n in (0, 1, 2)}
    (tmp_path / "all.grib2").write_bytes(b"".join(path.read_bytes() for path in numbered.values()))
    (tmp_path / "beside.grib2").write_bytes(b"".join(p.read_bytes() for p in (plain, numbered[1], numbered[2])))
    ways = {
        "number": {"path": str(tmp_path / "all.grib2")},
        "no number": {"path": str(tmp_path / "beside.grib2")},
        "pattern": {"path": str(tmp_path / "member_{member:03d}.grib2")},
        "named": {"path": str(tmp_path / "member_{member:03d}.grib2"), "control": str(plain)},
        "named list": {"path": str(tmp_path / "all.grib2"), "control": [str(plain)]},
    }
    for way, file in ways.items():
        config = file_config(make_config, weights_cache, **file)
        control, first = (FileSource(config).read(m).fields[config.cycle_time]["t_500"] for m in (0, 1))
        np.testing.assert_allclose(first - control, 1, atol=2e-3, err_msg=way)


def test_a_control_that_no_file_has_is_one_line(
    make_config: Callable[..., Config], write_grib: Callable[..., Path], weights_cache: Path, tmp_path: Path
) -> None:
    one, two = (write_grib(warmer(n), name=f"{n}.grib2", number=n) for n in (1, 2))
    (both := tmp_path / "both.grib2").write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(InputError, match=f"^{both}: no member 0, found 1-2$"):
        build_member(file_config(make_config, weights_cache, path=str(both)), 0, tmp_path / "m0")
    config = file_config(make_config, weights_cache, path=str(both), control=str(tmp_path / "absent.grib2"))
    with pytest.raises(InputError, match=r"absent\.grib2: no such GRIB file"):
        build_member(config, 0, tmp_path / "m0")
    config = file_config(make_config, weights_cache, path=str(both), control="{date}.grib2")
    with pytest.raises(ConfigError, match=r"initial_conditions.file.control: \['{date}.grib2'\]: 'date', expected"):
        build_member(config, 0, tmp_path / "m0")


def test_a_control_with_a_members_fields_is_refused(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config(idealised={"amplitude": 0}, members="0-1")
    for member in (0, 1):
        path = config.scratch.initial(member)
        write_summary(path.with_suffix(".json"), build_member(config, member, path))
    with pytest.raises(InputError, match="members 0-1 have identical fields"):
        refuse_twin(config.scratch.initial(1).with_suffix(".json"))


def test_the_controls_pickle(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.chdir(root)
    state = build_member(make_config(), 0, tmp_path / "state")
    content = {"date": parse_cycle(BEFORE), "fields": {name: state.variable(name) for name in state.variables}}
    (tmp_path / "input_state_member_000.pkl").write_bytes(pickle.dumps(content))
    states = tmp_path / "states"
    assert main(["convert-pickle", str(tmp_path / "input_state_member_000.pkl"), "--folder", str(states)]) == 0
    assert (states / "member000.safetensors").exists()
