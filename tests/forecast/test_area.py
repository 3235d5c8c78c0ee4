"""`forecast.output.area`: a part of each lead, the same to the bit; coarse leads and restart states hold the globe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from aifs_ensemble.common.areas import PRESETS
from aifs_ensemble.common.daily import LeadField
from aifs_ensemble.fields.area import cut_of
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_encoder import CoarseSpec, output_spec
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.state import read_state
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast

from forecast.cases import CYCLE, content

KEPT = ("2t", "msl", "t_500")
DAILY = (LeadField("2t", "max"), LeadField("tp", "sum"))
BOX = PRESETS["europe"].box


def test_leads_of_an_area_are_those_of_the_globe(
    request_for: Callable[..., ForecastRequest], weights_cache: Path, tmp_path: Path
) -> None:
    coarse = CoarseSpec("10x5", KEPT, {"default": "linear"}, str(weights_cache))
    globe = request_for(tmp_path / "globe", leads=(6, 24), output=KEPT, daily=DAILY, coarse=coarse)
    part = replace(
        globe, work=tmp_path / "work", forecasts=tmp_path / "part", manifest=tmp_path / "m.json", area=BOX, encoders=3
    )
    whole, made = run_forecast(globe), run_forecast(part)
    assert made.settings["area"] == list(BOX) and "area" not in whole.settings
    assert [record.coarse for record in made.leads] == [record.coarse for record in whole.leads]
    spec = output_spec(part.model, CYCLE, 1, ensemble_size=50, bits=part.bits, variables=KEPT, daily=DAILY, area=BOX)
    cut = cut_of(part.model.grid, BOX)
    for record in made.leads:
        assert check_lead(part.forecasts / record.grib.name, spec, record.lead) == []
        found, expected = (read_fields(one.forecasts / record.grib.name) for one in (part, globe))
        assert found.shape == (record.messages, cut.grid.points)
        for rows, field in zip(found, expected, strict=True):
            np.testing.assert_array_equal(rows, cut.of(field))
        assert record.grib.size < 0.4 * (globe.forecasts / record.grib.name).stat().st_size
    states = [read_state(sorted((one.work / "restarts").glob("*.safetensors"))[-1]) for one in (part, globe)]
    np.testing.assert_array_equal(states[0].fields, states[1].fields)
    again = replace(part, work=tmp_path / "again", forecasts=tmp_path / "one", manifest=tmp_path / "n.json", encoders=1)
    run_forecast(again)
    assert content(again) == content(part)
