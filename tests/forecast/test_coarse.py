"""Coarse leads of a forecast: the same bytes after kills, and never a reason to compute."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from aifs_ensemble.common.manifest import MemberManifest, check_coarse
from aifs_ensemble.fields.grib_encoder import CoarseSpec
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.forecast.work_folder import WorkFolder

from forecast.cases import CYCLE, LEADS, content
from forecast.test_kill import KilledAt, processes, work  # noqa: F401 (a fixture)

NAME = "aifs_ens_forecast_20250819_0000_member001_h018_10x5deg"


@pytest.fixture
def spec(weights_cache: Path) -> CoarseSpec:
    return CoarseSpec("10x5", ("2t", "tp"), {"default": "linear", "tp": "grid-box-average"}, str(weights_cache))


def coarse_content(request: ForecastRequest) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(request.coarse_leads.iterdir())}


def grids(manifest: MemberManifest) -> list[str]:
    return [record.coarse.grid if record.coarse else "" for record in manifest.leads]


@pytest.mark.timeout(600)
def test_killed_and_resumed_the_bytes_are_the_same(
    processes: ForkServerContext,  # noqa: F811
    request_for: Callable[..., ForecastRequest],
    whole: tuple[ForecastRequest, dict[str, bytes]],
    spec: CoarseSpec,
    tmp_path: Path,
) -> None:
    once = request_for(tmp_path / "once", coarse=spec, encoders=2)
    manifest = run_forecast(once)
    assert content(once) == whole[1]
    assert grids(manifest) == ["10x5"] * len(LEADS)
    assert len(coarse_content(once)) == 2 * len(LEADS)

    killed = request_for(tmp_path / "killed", coarse=spec)
    last = killed.work / "leads" / NAME.replace("h018", "h030")
    for event, count in (("lead_published", 1), ("restart_written", 1), ("lead_published", 2)):
        process = processes.Process(target=work, args=(killed, KilledAt(event, count)))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if event == "lead_published" and count == 1:  # long before the last lead
            last.with_suffix(".grib2").write_bytes(b"named, and then its lead was not")
    again = run_forecast(killed)
    assert content(killed) == content(once)
    assert coarse_content(killed) == coarse_content(once)
    assert [record.coarse for record in again.leads] == [record.coarse for record in manifest.leads]
    assert check_coarse(killed.coarse_leads.joinpath, again.leads) == {}


def test_turned_on_later_nothing_is_computed(request_for: Callable[..., ForecastRequest], spec: CoarseSpec) -> None:
    """Members keep what they were made with; leads to come have what is asked for now."""
    request, other = request_for(), replace(spec, grid="15x15")
    run_forecast(replace(request, leads=LEADS[:1]))
    run_forecast(replace(request, leads=LEADS[:3], coarse=spec))
    manifest = run_forecast(replace(request, coarse=other))
    assert grids(manifest) == ["", "10x5", "10x5", "15x15", "15x15"]
    before = request.manifest.read_bytes()
    for asked in (None, spec, other):
        assert run_forecast(replace(request, coarse=asked)).leads == manifest.leads
        assert request.manifest.read_bytes() == before
    assert len(WorkFolder(request.work, CYCLE, 1).attempts()) == 3


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_a_lost_file_is_left_out(
    request_for: Callable[..., ForecastRequest], spec: CoarseSpec, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_for(coarse=spec)
    run_forecast(request)
    path = request.work / "leads" / f"{NAME}.grib2"
    data = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(data[:-5] + b"x" + data[-4:])
    manifest = run_forecast(request)
    assert grids(manifest) == ["10x5", "10x5", "", "10x5", "10x5"]
    assert NAME in caplog.text
    assert len(WorkFolder(request.work, CYCLE, 1).attempts()) == 1  # nothing was computed
    assert not path.exists() or how == "damaged"
    run_forecast(request)
    assert not path.exists()  # nothing names it any more


def test_without_weights_the_leads_are_made(
    request_for: Callable[..., ForecastRequest],
    whole: tuple[ForecastRequest, dict[str, bytes]],
    spec: CoarseSpec,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = request_for(coarse=replace(spec, methods={"default": "no-such-method"}))
    manifest = run_forecast(request)
    assert content(request) == whole[1]
    assert grids(manifest) == [""] * len(LEADS)
    assert "member001: no coarse leads: interpolation: MIR made no weights" in caplog.text
