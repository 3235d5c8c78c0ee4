"""`forecast.output`: the same messages, fewer of them; killed and resumed as ever, with the whole state in restarts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.parameters import FieldName, variable_name
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_encoder import CoarseSpec, output_spec
from aifs_ensemble.fields.state import read_state
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast

from forecast.cases import CYCLE, LEADS, content
from forecast.test_kill import KilledAt, processes, work  # noqa: F401 (a fixture)

SOME = {"2t", "t_500", "q_1000", "stl2", "tp", "sf"}  # two of several accumulated ones


@pytest.fixture
def kept(model: Model) -> tuple[str, ...]:
    return tuple(name for name in model.outputs if name in SOME)


def slices(files: dict[str, bytes], names: tuple[str, ...], lead: int) -> bytes:
    """Return the messages of some variables of a lead of all, cut out by its index."""
    stem = f"aifs_ens_forecast_{CYCLE}_member001_h{lead:03d}"
    cut = {}
    for line in map(json.loads, files[f"{stem}.index"].decode().splitlines()):
        name = variable_name(FieldName(line["param"], line["levtype"], int(line.get("levelist", 0))))
        cut[name] = files[f"{stem}.grib2"][line["_offset"] : line["_offset"] + line["_length"]]
    return b"".join(cut[name] for name in names)


@pytest.mark.timeout(600)
def test_kept_messages_are_those_of_the_whole_also_when_killed(
    processes: ForkServerContext,  # noqa: F811
    request_for: Callable[..., ForecastRequest],
    whole: tuple[ForecastRequest, dict[str, bytes]],
    kept: tuple[str, ...],
    model: Model,
    tmp_path: Path,
) -> None:
    asked = request_for(tmp_path / "once", output=kept, leads=(6, 18, 30))
    killed = replace(asked, work=tmp_path / "work", forecasts=tmp_path / "forecasts")
    manifest = run_forecast(asked)
    assert [(record.lead, record.messages) for record in manifest.leads] == [(6, 6), (18, 6), (30, 6)]
    assert manifest.settings["output"] == list(kept)
    spec = output_spec(model, CYCLE, 1, ensemble_size=50, bits=asked.bits, variables=kept)
    for record in manifest.leads:
        data = content(asked)[record.grib.name]
        assert data == slices(whole[1], kept, record.lead)
        assert check_lead(asked.forecasts / record.grib.name, spec, record.lead) == []
    process = processes.Process(target=work, args=(killed, KilledAt("restart_written", 2)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run_forecast(killed)
    assert content(killed) == content(asked)


def test_restart_states_hold_everything(
    request_for: Callable[..., ForecastRequest], whole: tuple[ForecastRequest, dict[str, bytes]], model: Model
) -> None:
    """A member made of one variable goes on to leads of one variable from a state of all, amounts included."""
    asked = request_for(output=("tp",), leads=(6, 12, 18))
    run_forecast(asked)
    path = sorted((asked.work / "restarts").glob("*.safetensors"))[-1]
    restart = read_state(path)
    assert restart.variables == model.prognostic
    assert restart.extra["accumulated"].shape[0] == len(model.accumulated)
    longer = replace(asked, leads=LEADS)
    manifest = run_forecast(longer)
    for record in manifest.leads:
        assert content(longer)[record.grib.name] == slices(whole[1], ("tp",), record.lead)


def test_the_manifest_of_everything_says_nothing_of_it(whole: tuple[ForecastRequest, dict[str, bytes]]) -> None:
    assert "output" not in json.loads(whole[0].manifest.read_text())["settings"]


def test_coarse_leads_of_what_is_kept_name_it(
    request_for: Callable[..., ForecastRequest], kept: tuple[str, ...], weights_cache: Path
) -> None:
    """`all` in a manifest stands for all that the model makes, which these are not."""
    coarse = CoarseSpec("10x5", kept, {"default": "linear"}, str(weights_cache))
    manifest = run_forecast(request_for(output=kept, leads=(6,), coarse=coarse))
    assert manifest.leads[0].coarse is not None
    assert manifest.leads[0].coarse.variables == kept
    assert not manifest.leads[0].coarse.holds("msl")


def test_another_output_is_made_anew(request_for: Callable[..., ForecastRequest], kept: tuple[str, ...]) -> None:
    """On scratch, leads of other variables never stand beside each other."""
    first = request_for(leads=(6,), output=("2t",))
    run_forecast(first)
    manifest = run_forecast(replace(first, output=kept, leads=(6, 12)))
    assert [record.messages for record in manifest.leads] == [6, 6]
