"""`forecast.output.daily`: means, extremes and amounts of days, against numpy; the same bits however made."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

import eccodes
import numpy as np
import pytest
import torch
from aifs_ensemble.common.daily import LeadField
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.fields.ccsds import pack_with_eccodes
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_encoder import CoarseSpec, OutputSpec, output_spec
from aifs_ensemble.fields.grib_index import read_index, read_messages
from aifs_ensemble.forecast import engine
from aifs_ensemble.forecast.daily_fields import DailyFields
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.model.stepper import TensorPlaces

from forecast.cases import CYCLE, content
from forecast.test_kill import KilledAt, processes, work  # noqa: F401 (a fixture)
from forecast.test_output import slices
from forecast.test_rollout import ours

CPU = torch.device("cpu")
LEADS = tuple(range(6, 55, 6))  # two days, and one step of the third
KEPT = ("2t", "msl", "t_500")
DAILY = tuple(
    LeadField(*pair)
    for pair in (("2t", "mean"), ("2t", "max"), ("2t", "min"), ("sf", "sum"), ("t_850", "max"), ("tp", "sum"))
)
NAMES = ("avg_2t", "mx2t24", "mn2t24", "sf", "max_t", "tp")  # of ECMWF, as ecCodes tells them
UNITS = {"tp": 1000, "sf": 1000}  # metres to kg m-2


def spec_of(request: ForecastRequest) -> OutputSpec:
    return output_spec(
        request.model, CYCLE, 1, ensemble_size=50, bits=request.bits, variables=request.output, daily=request.daily
    )


@pytest.fixture(scope="module")
def made(
    checkpoint: Path, initial: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ForecastRequest, dict[str, bytes]]:
    """A member of two days with statistics of both, made at once by one encoder."""
    from forecast.cases import make_request

    request = make_request(checkpoint, initial, tmp_path_factory.mktemp("daily"), leads=LEADS, output=KEPT, daily=DAILY)
    run_forecast(request)
    return request, content(request)


def messages_of(request: ForecastRequest, lead: int) -> list[tuple[dict, bytes]]:
    """Return the index entries of a lead, each with its message."""
    grib = request.forecasts / f"aifs_ens_forecast_{CYCLE}_member001_h{lead:03d}.grib2"
    entries = read_index(grib.with_suffix(".index"))
    return list(zip(entries, read_messages(grib, entries), strict=True))


def test_values_are_those_of_the_steps_of_the_day(
    made: tuple[ForecastRequest, dict[str, bytes]], loaded: engine.Loaded, model: Model
) -> None:
    """Of the model's own float32 values, step by step: numpy makes the statistic, and ecCodes packs it."""
    per_step = replace(made[0], settings=replace(made[0].settings, accumulate="per_step"), output=None, daily=())
    steps = ours(per_step, loaded, 8)
    for lead in (24, 48):
        day = [steps[step] for step in range(lead // 6 - 3, lead // 6 + 1)]
        found = messages_of(made[0], lead)[len(KEPT) :]
        assert len(found) == len(DAILY)
        for (variable, statistic), (_, message) in zip(DAILY, found, strict=True):
            one, two, three, four = (fields[model.outputs.index(variable)] for fields in day)
            if statistic == "sum":
                amounts = [np.maximum(field, 0) for field in (one, two, three, four)]
                expected = ((amounts[0] + amounts[1]) + amounts[2]) + amounts[3]
            elif statistic == "mean":
                expected = (((one + two) + three) + four) / np.float32(4)
            else:
                expected = {"max": np.max, "min": np.min}[statistic]([one, two, three, four], axis=0)
            expected = expected * np.float32(UNITS.get(variable, 1))
            assert expected.dtype == np.float32
            assert message == pack_with_eccodes(message, expected, made[0].bits[variable]), (lead, variable, statistic)


def test_keys_are_those_of_a_statistic_over_the_day(made: tuple[ForecastRequest, dict[str, bytes]]) -> None:
    for lead, step in ((24, "0-24"), (48, "24-48")):
        for (entry, message), field, name in zip(messages_of(made[0], lead)[len(KEPT) :], DAILY, NAMES, strict=True):
            handle = eccodes.codes_new_from_message(message)
            kind = {"mean": (0, 6), "sum": (1, 0), "max": (2, 6), "min": (3, 6)}[field.statistic]
            for key, value in {
                "shortName": name,
                "productDefinitionTemplateNumber": 11,
                "number": 1,
                "typeOfStatisticalProcessing": kind[0],
                "timeIncrement": kind[1],
                "typeOfTimeIncrement": 2,
                "lengthOfTimeRange": 24,
                "indicatorOfUnitForTimeRange": 1,
                "forecastTime": lead - 24,
                "stepRange": step,
                "endStep": lead,
                "hourOfEndOfOverallTimeInterval": 0,
                "dayOfEndOfOverallTimeInterval": 19 + lead // 24,
            }.items():
                assert eccodes.codes_get(handle, key) == value, (field, key)
            eccodes.codes_release(handle)
            assert (entry["param"], entry["step"]) == (name, step)


def test_a_lead_is_right_by_its_check_and_holds_the_same_instants(
    made: tuple[ForecastRequest, dict[str, bytes]], whole: tuple[ForecastRequest, dict[str, bytes]]
) -> None:
    """The first day's amount is the amount since the start, to the bit; other leads have no statistic."""
    request, files = made
    manifest = json.loads(request.manifest.read_text())
    assert [record["messages"] for record in manifest["leads"]] == [3, 3, 3, 9, 3, 3, 3, 9, 3]
    assert manifest["settings"]["daily"] == [list(field) for field in DAILY]
    spec = spec_of(request)
    for lead in LEADS:
        grib = request.forecasts / f"aifs_ens_forecast_{CYCLE}_member001_h{lead:03d}.grib2"
        assert check_lead(grib, spec, lead) == []
        if lead in (24, 30):  # of both requests
            assert files[grib.name].startswith(slices(whole[1], KEPT, lead))
    rain = next(message for entry, message in messages_of(request, 24) if entry["param"] == "tp")
    assert rain == slices(whole[1], ("tp",), 24)


def test_the_check_finds_a_statistic_that_is_another(made: tuple[ForecastRequest, dict[str, bytes]]) -> None:
    request = made[0]
    grib = request.forecasts / f"aifs_ens_forecast_{CYCLE}_member001_h048.grib2"
    swapped = replace(spec_of(request), daily=(DAILY[1], DAILY[0], *DAILY[2:]))
    wrong = check_lead(grib, swapped, 48)
    assert any("daily max of 2t: shortName is 'avg_2t', expected 'mx2t24'" in line for line in wrong)
    fewer = replace(spec_of(request), daily=DAILY[:-1])
    assert check_lead(grib, fewer, 48) == [f"{grib}: 9 messages, expected 8"]
    index = grib.with_suffix(".index").read_bytes()
    assert check_lead(grib, spec_of(request), 48, data=grib.read_bytes(), index=index) == []
    wrong = check_lead(grib, spec_of(request), 48, data=grib.read_bytes(), index=index.replace(b'"24-48"', b'"48"'))
    assert any("step is '48', expected '24-48'" in line for line in wrong)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("event", "count", "every"), [("restart_written", 2, 6), ("restart_written", 3, 12)])
def test_killed_in_the_middle_of_a_day_and_with_more_encoders(
    processes: ForkServerContext,  # noqa: F811
    request_for: Callable[..., ForecastRequest],
    made: tuple[ForecastRequest, dict[str, bytes]],
    event: str,
    count: int,
    every: int,
) -> None:
    asked = request_for(leads=LEADS, output=KEPT, daily=DAILY, encoders=3, restart_hours=every)
    process = processes.Process(target=work, args=(asked, KilledAt(event, count)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run_forecast(asked)
    assert content(asked) == made[1]


def test_a_lost_lead_is_made_again_from_the_middle_of_its_day(
    request_for: Callable[..., ForecastRequest], made: tuple[ForecastRequest, dict[str, bytes]]
) -> None:
    asked = request_for(leads=LEADS, output=KEPT, daily=DAILY, restart_hours=18, restarts_kept=9)
    run_forecast(asked)
    assert (asked.work / "restarts" / "h036.safetensors").exists()
    for folder in (asked.work / "leads", asked.forecasts):
        (folder / f"aifs_ens_forecast_{CYCLE}_member001_h048.grib2").unlink()
    asked.manifest.unlink()
    manifest = run_forecast(asked)
    assert manifest.attempts[-1]["steps"] == 2
    assert content(asked) == made[1]


def test_statistics_alone(
    request_for: Callable[..., ForecastRequest], made: tuple[ForecastRequest, dict[str, bytes]]
) -> None:
    asked = request_for(leads=(24, 48), output=(), daily=DAILY)
    manifest = run_forecast(asked)
    assert [(record.lead, record.messages) for record in manifest.leads] == [(24, 6), (48, 6)]
    assert manifest.settings["output"] == []
    for lead in (24, 48):
        name = f"aifs_ens_forecast_{CYCLE}_member001_h{lead:03d}.grib2"
        assert made[1][name].endswith(content(asked)[name])
        assert check_lead(asked.forecasts / name, spec_of(asked), lead) == []


def test_coarse_leads_are_what_they_are_without_statistics(
    request_for: Callable[..., ForecastRequest], weights_cache: Path, tmp_path: Path
) -> None:
    coarse = CoarseSpec("10x5", KEPT, {"default": "linear"}, str(weights_cache))
    both = [
        request_for(tmp_path / name, leads=(18, 24), output=KEPT, coarse=coarse, daily=daily)
        for name, daily in (("with", DAILY), ("without", ()))
    ]
    made, plain = (run_forecast(one) for one in both)
    assert [record.coarse for record in made.leads] == [record.coarse for record in plain.leads]
    assert made.leads[1].messages == plain.leads[1].messages + len(DAILY)


def test_cfgrib_tells_statistics_from_instants(made: tuple[ForecastRequest, dict[str, bytes]]) -> None:
    cfgrib = pytest.importorskip("cfgrib")
    grib = made[0].forecasts / f"aifs_ens_forecast_{CYCLE}_member001_h048.grib2"
    found: dict[str, list[str]] = {}
    for data in cfgrib.open_datasets(str(grib), backend_kwargs={"indexpath": ""}):
        for name, variable in data.data_vars.items():
            assert int(variable["step"] / np.timedelta64(1, "h")) == 48
            found.setdefault(variable.attrs["GRIB_stepType"], []).append(str(name))
    assert {kind: sorted(names) for kind, names in found.items()} == {
        "instant": ["msl", "t", "t2m"],
        "avg": ["avg_2t"],
        "max": ["max_t", "mx2t24"],
        "min": ["mn2t24"],
        "accum": ["sf", "tp"],
    }


def test_what_is_missing_at_one_step_is_missing_in_the_day() -> None:
    """Waves are missing over land: of a day they are missing where they are at any of its steps, and day by day."""
    model = get_model("demo-v2")
    order = tuple(range(len(model.outputs)))
    places = TensorPlaces(
        times=2, points=3, inputs=0, step=timedelta(hours=6), state_index=(), prognostic_in=(),
        prognostic_out=(), output_index=order, accumulated_out=(), accumulated_row=(),
    )  # fmt: skip
    fields = [LeadField("swh", kind) for kind in ("min", "mean", "max")] + [LeadField("ro", "sum")]
    daily = DailyFields(fields, model, places, CPU)
    day = np.array([[1, 2, 3], [3, np.nan, 5], [8, 2, 7], [4, 2, 9]], np.float32)
    out = torch.empty(4, 3)
    for number in range(2):  # the second day is that of other values
        for step, waves in enumerate(day + number, 4 * number + 1):
            output = torch.zeros(3, len(order))
            output[:, model.outputs.index("swh")] = torch.from_numpy(waves)
            output[:, model.outputs.index("ro")] = torch.tensor([-1.0, 0.25, torch.nan])
            daily.update(output, step)
        daily.gather(out)
        nan = np.nan
        expected = np.array([[1, nan, 3], [4, nan, 6], [8, nan, 9]]) + number
        np.testing.assert_array_equal(out.numpy(), np.array([*expected, [0, 1, nan]], np.float32))
