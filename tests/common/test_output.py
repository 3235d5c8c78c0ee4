"""`forecast.output`: what of the model is delivered, and products that would look for the rest, refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.fields.grib_encoder import output_spec
from aifs_ensemble.forecast.request import ForecastRequest

MODEL = get_model("demo")
BASE: dict[str, Any] = {
    "model": "demo",
    "cycle": "20250819_0000",
    "members": "1-2",
    "lead_hours": 72,
    "scratch": "scratch",
    "initial_conditions": {"source": "idealised"},
}


def make(output: dict[str, Any], **over: Any) -> Config:
    raw: dict[str, Any] = {}
    for part in (BASE, {"forecast": {"output": output}}, over):
        merge(raw, part)
    return Config(raw)


def test_everything_by_default() -> None:
    config = make({})
    assert config.output_variables == MODEL.outputs
    assert config.leads == config.steps == tuple(range(6, 73, 6))


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ({"variables": ["tp", "2t"]}, {"2t", "tp"}),
        ({"variables": ["t"], "levels": [500, 850]}, {"t_500", "t_850"}),
        ({"variables": ["t", "z_1000"], "levels": [500]}, {"t_500", "z_1000"}),
        ({"variables": ["stl1", "q_50"]}, {"stl1", "q_50"}),
    ],
)
def test_variables_by_parameter_level_and_name(output: dict[str, Any], kept: set[str]) -> None:
    found = make(output).output_variables
    assert found == tuple(name for name in MODEL.outputs if name in kept) and len(found) == len(kept)


def test_a_direction_is_made_of_two_outputs(tmp_path: Path) -> None:
    """AIFS ENS v2 makes cosine and sine of the waves' direction: the rows of its encoders follow from what is kept."""
    model = get_model("demo-v2")
    [direction] = set(model.delivered) - set(model.outputs)
    config = make({"variables": [direction, "2t"]}, model="demo-v2", checkpoint=str(tmp_path / "a.ckpt"))
    request = ForecastRequest.from_config(config, 1)
    spec = output_spec(model, config.cycle, 1, ensemble_size=50, bits=request.bits, variables=request.output)
    assert set(spec.variables) == {direction, "2t"}
    assert request.rows == spec.rows and len(request.rows) == 3 and set(request.rows) <= set(model.outputs)


def test_levels_alone_leave_what_has_none() -> None:
    found = make({"levels": [500]}).output_variables
    on_levels = [name for name in found if name.split("_")[-1].isdigit()]
    assert sorted(on_levels) == ["q_500", "t_500", "u_500", "v_500", "w_500", "z_500"]
    assert set(MODEL.outputs) - set(found) == {
        name for name in MODEL.outputs if name.split("_")[-1].isdigit() and not name.endswith("_500")
    }


def test_leads_and_the_steps_before_them() -> None:
    assert make({"every_hours": 24}).leads == (24, 48, 72)
    config = make({"leads": [48, 12]})
    assert (config.leads, len(config.steps), config.lead_hours) == ((12, 48), 8, 72)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ({"variables": "some"}, r"output\.variables: 'some', expected all or a list"),
        ({"variables": ["2tt"]}, r"output\.variables: '2tt', expected parameters or variables .* mean '2t'\?"),
        ({"variables": []}, r"output\.variables: \[\], expected at least one"),
        ({"variables": ["t"], "levels": [501]}, r"output\.levels: 501, expected some of 50, 100"),
        ({"leads": [9]}, r"output\.leads: 9, expected multiples of 6 up to lead_hours, 72"),
        ({"leads": [78]}, r"output\.leads: 78, expected"),
        ({"every_hours": 9}, r"output\.every_hours: 9, expected a multiple of 6"),
        ({"leads": [6], "every_hours": 6}, r"output: leads and every_hours, expected one of them"),
        ({"daily": {"2tt": ["mean"]}}, r"output\.daily: '2tt', expected parameters or .* mean '2t'\?"),
        ({"daily": {"2t": []}}, r"output\.daily\.2t: \[\], expected some of mean, max, min, sum"),
        ({"daily": {"2t": ["median"]}}, r"output\.daily\.2t: \['median'\], expected .* one of mean, max"),
        ({"daily": {"2t": ["max", "max"]}}, r"output\.daily\.2t.*max.*max.*, expected"),
        ({"daily": {"2t": ["sum"]}}, r"output\.daily\.2t: sum: 2t is no amount, expected mean, max or min"),
        ({"daily": {"tp": ["mean"]}}, r"output\.daily\.tp: mean: tp is an amount, expected sum"),
        (
            {"daily": {"tp": ["sum"]}},
            r"output\.daily\.tp: sum: it has the GRIB name of tp in the same lead.* without tp",
        ),
        ({"daily": {"tcc": ["mean"]}}, r"output\.daily\.tcc: mean: it has the GRIB name of tcc in the same lead"),
        ({"daily": {"2t": ["mean"]}, "leads": [6, 30]}, r"output\.daily: no lead ends a day, expected some of 24 h"),
        ({"daily": {"2t": ["mean"]}, "variables": []}, r"output: nothing is left of h006, expected every_hours: 24"),
        ({"area": [20, 20, 54]}, r"output\.area: \[20, 20, 54\], expected \[north, west, south, east\]"),
        ({"area": [-12, 20, 20, 54]}, r"output\.area: \[-12.*\], expected \[north, west, south, east\] in degrees"),
        ({"area": "atlantis"}, r"output\.area: 'atlantis', expected an area, known are globe, east-africa"),
        ({"area": [3, 20, 1, 54]}, r"output\.area: \[3.*\], expected at least 5\.6 degrees from south to north and 5"),
    ],
)
def test_what_cannot_be_kept_is_told(output: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        make(output)


@pytest.mark.parametrize(
    ("output", "daily"),
    [
        ({"daily": {"2t": ["min", "mean"], "10u": ["max"]}}, "10u max, 2t mean, 2t min"),
        ({"variables": ["2t"], "daily": {"tp": ["sum"], "tcc": ["max", "mean"]}}, "tcc mean, tcc max, tp sum"),
        ({"daily": {"t": ["max"]}, "levels": [850, 500]}, "t_500 max, t_850 max"),
        ({"daily": {"t": ["max"], "t_500": ["min"]}, "levels": [500]}, "t_500 max, t_500 min"),
        ({"variables": [], "daily": {"tp": ["sum"], "msl": ["mean"]}, "every_hours": 24}, "msl mean, tp sum"),
    ],
)
def test_daily_statistics_in_the_models_order(output: dict[str, Any], daily: str) -> None:
    config = make(output)
    assert ", ".join(f"{one.variable} {one.statistic}" for one in config.daily) == daily
    days = len(config.daily) * sum(lead % 24 == 0 for lead in config.leads) / len(config.leads)
    assert config.lead_fields == len(config.output_variables) + days


def test_statistics_that_grib_does_not_have(tmp_path: Path) -> None:
    def of(variable: str) -> None:
        make({"daily": {variable: ["max"]}}, model="demo-v2", checkpoint=str(tmp_path / "a.ckpt"))

    with pytest.raises(ConfigError, match=r"daily\.mwd: max: mwd is a direction"):
        of("mwd")
    with pytest.raises(ConfigError, match=r"daily\.h1214: max: GRIB2 has no statistics of waves of some periods"):
        of("h1214")
    with pytest.raises(ConfigError, match=r"daily\.snowc: max: it has the GRIB name of snowc"):
        of("snowc")
    of("swh")


def test_an_area_by_name_and_by_its_edges() -> None:
    assert make({"area": "east-africa"}).area == make({"area": [19, 21, -12, 53]}).area == (19.0, 21.0, -12.0, 53.0)
    assert make({"area": "globe"}).area is make({"area": None}).area is None


COARSE = {"coarse": {"enabled": True}}


@pytest.mark.parametrize(
    ("products", "line"),
    [
        ({"cube": {"enabled": True}, **COARSE}, "cube: needs leads of the whole globe"),
        ({"pictures": {"enabled": True}, **COARSE}, "pictures.places: needs leads of the whole globe"),
        (
            {"members": {"enabled": True}},
            "members.variables: 2t: needs 2t of the whole globe, of which forecast.output",
        ),
        (
            {"members": {"enabled": True}, "coarse": {"enabled": True, "variables": ["2t", "msl"]}},
            "members.variables: tp: needs tp of the whole globe",
        ),
        (
            {"statistics": {"enabled": True}, "coarse": {"enabled": True, "grid": "3x3"}},
            "expected it in products.coarse, on 1.5x1.5 by linear interpolation",
        ),
        (
            {
                "members": {"enabled": True},
                "coarse": {"enabled": True, "method": {"default": "linear"}},
                "interpolation": {"tp": "grid-box-average"},
            },
            "members.variables: tp: needs tp of the whole globe, .* by grid-box-average interpolation",
        ),
    ],
)
def test_products_of_the_globe_need_coarse_leads(products: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line.replace(".", r"\.").replace(r"\.*", ".*")):
        make({"area": "europe"}, products=products)


def test_products_of_coarse_leads_are_none_of_an_areas_business() -> None:
    products = {name: {"enabled": True} for name in ("coarse", "members", "statistics", "evaluation")}
    products["pictures"] = {"enabled": True, "places": {}}
    config = make({"area": "europe"}, products={**products, "interpolation": {"tp": "grid-box-average"}})
    assert config.coarse_variables == config.output_variables and config.area is not None


def test_products_find_nothing_in_statistics_alone() -> None:
    alone = {"variables": [], "daily": {"2t": ["mean"]}, "every_hours": 24}
    for name in ("coarse", "cube", "members", "statistics", "evaluation"):
        with pytest.raises(ConfigError, match=rf"products\.{name}.*, which forecast\.output\.variables leaves out"):
            make(alone, products={name: {"enabled": True}})
    config = make(alone)
    assert config.output_variables == () and config.report_field == "t_500"


ON = {"enabled": True}
DAILY = {"every_hours": 24}
RAIN = {"variable": "tp", "statistic": "sum"}


@pytest.mark.parametrize(
    ("output", "products", "line"),
    [
        ({"variables": ["2t"]}, {"members": ON}, "members.variables: msl: needs msl, which forecast.output.variables"),
        (DAILY, {"weekly": {**ON, "hours": 24, "periods": [24]}}, "weekly.variables.tas: needs 2t at h030, which"),
        (
            {"leads": [24, 72]},
            {
                "weekly": {
                    **ON,
                    "hours": 24,
                    "periods": [24],
                    "variables": {"pr": {"variable": "tp", "statistic": "sum"}},
                }
            },
            "weekly.variables.pr: needs tp at h048",
        ),
        (
            {"variables": ["10u"]},
            {"statistics": {**ON, "variables": ["10si"], "at_least": {}}},
            "statistics.variables: 10si: needs 10v, which",
        ),
        (
            {"leads": [24, 72]},
            {"statistics": {**ON, "variables": ["tp"], "windows": [24]}},
            "statistics.variables: tp: needs tp at h048",
        ),
        ({"variables": ["2t"]}, {"cube": {**ON, "regular": ["tp"]}}, "cube.regular: tp: needs tp, which"),
        ({"leads": [6, 24]}, {"evaluation": ON}, "evaluation.variables: 2t: needs 2t at h048"),
        ({"variables": ["2t"]}, {"pictures": {**ON, "places": {}}}, "pictures.variables: msl: needs msl, which"),
        (DAILY, {"pictures": ON}, "pictures.places: needs every variable at h006"),
        ({"variables": ["2t"]}, {"coarse": {**ON, "variables": ["2t", "tp"]}}, "coarse.variables: tp: needs tp, which"),
    ],
)
def test_a_product_that_needs_more_is_refused(output: dict[str, Any], products: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line.replace(".", r"\.")):
        make(output, products=products)


@pytest.mark.parametrize(
    ("output", "products"),
    [
        ({"variables": ["2t", "msl", "tp"]}, {"members": ON, "weekly": {**ON, "hours": 24, "periods": [24]}}),
        # amounts since the start need both ends of a period alone
        (DAILY, {"statistics": {**ON, "variables": ["2t", "tp"], "windows": [24, 72]}}),
        (DAILY, {"cube": ON, "members": ON, "evaluation": {**ON, "variables": ["2t"]}}),
        ({"variables": ["2t", "tp"]}, {"pictures": {**ON, "variables": ["2t", "tp"]}}),
        ({"variables": ["10u", "10v"]}, {"statistics": {**ON, "variables": ["10si"]}}),
        ({"variables": ["2t"]}, {"coarse": ON}),
    ],
)
def test_a_product_of_what_is_kept_is_not(output: dict[str, Any], products: dict[str, Any]) -> None:
    config = make(output, products=products)
    assert not config.coarse_variables or config.coarse_variables == ("2t",)


def test_amounts_of_each_step_need_every_step() -> None:
    statistics = {"statistics": {**ON, "variables": ["tp"], "windows": [24]}}
    with pytest.raises(ConfigError, match=r"statistics\.variables: tp: needs tp at h006"):
        make(DAILY, products=statistics, forecast={"accumulate": "per_step"})


def test_the_report_shows_what_there_is() -> None:
    assert make({}).report_field == "t_500"
    assert make({"variables": ["msl", "2t"]}).report_field == make({"variables": ["msl", "2t"]}).output_variables[0]
