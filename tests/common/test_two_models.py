"""Two models of one run: how they are named, where each has its files, what differs between them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.config.compared import compared_variables
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import benchmark_file, benchmarks_folder, log_file, report_folder
from aifs_ensemble.common.units import each_unit, split_unit, unit_of, unit_patterns

CYCLE, OTHER = "20250819_0000", "20250826_0000"
BOTH = ("demo", "demo-v2")
RAW: dict[str, Any] = {
    "model": list(BOTH), "cycle": CYCLE, "members": "1-2", "lead_hours": 12, "scratch": "made", "destination": "there",
    "initial_conditions": {"source": "idealised"},
}  # fmt: skip


def config(**over: Any) -> Config:
    raw = json.loads(json.dumps(RAW))
    merge(raw, over)
    return Config(raw)


@pytest.mark.parametrize("given", [["demo", "demo-v2"], "demo,demo-v2", "demo, demo-v2"])
def test_what_names_two_models(given: Any) -> None:
    found = config(model=given)
    assert found.models == BOTH and [one.model.name for one in found.of_each_model] == list(BOTH)
    assert config(**found.to_dict()).units == found.units


@pytest.mark.parametrize("given", ["demo", ["demo"]])
def test_one_model_is_what_it_was(given: Any) -> None:
    found = config(model=given)
    kept = found.to_dict()
    assert (kept["model"], kept["by_model"]) == ("demo", {})
    plain = ("cycle", "members", "lead_hours", "scratch", "destination")
    assert {key: kept[key] for key in plain} == {key: RAW[key] for key in plain}
    assert found.initial_conditions.cache is None, "the cache is on scratch"
    assert (found.models, found.units, found.unit) == (("demo",), (CYCLE,), CYCLE)
    assert (str(found.scratch_root), found.destination, found.model_folder) == ("made", "there", "")


def test_each_has_what_a_run_of_it_alone_would_have() -> None:
    for name, one in zip(BOTH, config().of_each_model, strict=True):
        cache = {"source": "idealised", "cache": "made/cache"}  # shared: both download the same fields
        alone = config(model=name, scratch=f"made/{name}", destination=f"there/{name}", initial_conditions=cache)
        assert one.to_dict() == alone.to_dict()
        assert one.objects.lead(1, 6) == alone.objects.lead(1, 6) and one.scratch == alone.scratch
        assert one.output_variables == alone.output_variables and one.model == alone.model


def test_units_are_pairs_of_a_model_and_a_cycle() -> None:
    found = config(cycle=None, cycles=[CYCLE, OTHER])
    assert found.units == tuple(f"{model}/{cycle}" for model in BOTH for cycle in (CYCLE, OTHER))
    one = found.of_unit(f"demo-v2/{OTHER}")
    assert (one.model.name, one.cycle, one.destination, one.unit) == (
        "demo-v2", OTHER, "there/demo-v2", f"demo-v2/{OTHER}",
    )  # fmt: skip
    assert found.of_cycle(OTHER).units == (f"demo/{OTHER}", f"demo-v2/{OTHER}")
    assert found.of_model("demo").units == (f"demo/{CYCLE}", f"demo/{OTHER}")
    any_ = found.of_unit(each_unit(found.units))
    assert any_.scratch.base == Path("made/{model}/{cycle}") and any_.model.name == "{model}"


@pytest.mark.parametrize(
    ("wildcards", "unit"),
    [
        ({}, None), ({"member": "001"}, None), ({"cycle": CYCLE}, CYCLE), ({"model": "demo"}, None),
        ({"model": "demo", "cycle": CYCLE, "member": "001"}, f"demo/{CYCLE}"),
        ({"model": "demo", "date": "20250819", "time": "0000"}, f"demo/{CYCLE}"),
    ],
)  # fmt: skip
def test_the_unit_of_a_job(wildcards: dict[str, str], unit: str | None) -> None:
    assert unit_of(wildcards) == unit


def test_wildcards_stand_for_the_units_alone() -> None:
    found = unit_patterns([f"demo/{CYCLE}", f"demo-v2/{CYCLE}"])
    assert found["model"] == "demo-v2|demo" and found["cycle"] == CYCLE
    assert "model" not in unit_patterns([CYCLE, OTHER])
    assert split_unit(f"demo/{CYCLE}") == ("demo", CYCLE) and split_unit(CYCLE) == ("", CYCLE)
    assert each_unit([f"demo/{CYCLE}"], day=True) == "{model}/{date}_{time}" and each_unit([CYCLE]) == "{cycle}"


def test_logs_of_models_have_folders_of_their_own() -> None:
    assert log_file(CYCLE, "plan", model="demo") == f"logs/demo/plan/{CYCLE}/plan.log"
    assert benchmark_file(CYCLE, "forecast_member", "001", "demo").startswith(f"{benchmarks_folder('demo')}/")
    assert benchmarks_folder() == "logs/benchmarks" and report_folder(CYCLE, "demo") == f"logs/demo/report/{CYCLE}"
    assert log_file(CYCLE, "plan") == f"logs/plan/{CYCLE}/plan.log"


def test_what_differs_by_model() -> None:
    own = {"demo-v2": {"checkpoint": "/my/v2.ckpt", "trust_checkpoint": True, "gpu_mem_mb": 9000, "gpu_image": "a/b"}}
    first, second = config(by_model=own, forecast={"gpu_mem_mb": 4000}).of_each_model
    assert (first.checkpoint, first.trust_checkpoint, first.forecast.gpu_mem_mb) == (None, False, 4000)
    assert (second.checkpoint, second.trust_checkpoint, second.forecast.gpu_mem_mb) == ("/my/v2.ckpt", True, 9000)
    assert (first.cloud.gpu_image, second.cloud.gpu_image) == (None, "a/b")
    alone = config(model="demo-v2", by_model=own)
    assert alone.checkpoint == "/my/v2.ckpt" and config(model="demo", by_model=own).checkpoint is None
    files = {"demo": {"path": "one.grib2"}, "demo-v2": {"path": ["two.grib2", "waves.grib2"]}}
    found = config(by_model=files, initial_conditions={"source": "file"}).of_each_model
    assert [one.initial_conditions.file.path for one in found] == ["one.grib2", ["two.grib2", "waves.grib2"]]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"model": ["demo", "demo"]}, "config: model: "),
        ({"model": ["demo", "demo-v3"]}, "model: 'demo-v3' is not in models.yaml, did you mean 'demo-v2'"),
        ({"model": ["demo", "demo-v2", "aifs-ens-1.0"]}, "expected one or two models"),
        ({"model": []}, "expected one or two models"),
        ({"model": "demo,"}, "is not in models.yaml"),
        ({"checkpoint": "/my.ckpt"}, "config: checkpoint: '/my.ckpt', expected null: with several models by_model"),
        ({"model": ["demo", "demo"]}, "model: ['demo', 'demo'], expected string or array, of string, each once"),
        (
            {"initial_conditions": {"source": "file"}, "by_model": {"demo": {"path": "a.grib"}}},
            "initial_conditions.file.path is missing: source is file, and by_model.demo-v2 has no path",
        ),
        ({"products": {"compare": {"every_hours": 7}}}, "compare.every_hours: 7, expected integer, at least 6, a "),
        (
            {"products": {"evaluation": {"areas": {"a": [1.4, 1, 0.1, 2]}}}},
            "products.evaluation.areas.a: [1.4, 1, 0.1, 2], expected an area with a point of products.grid, 1.5x1.5",
        ),
        ({"by_model": {"demo-v3": {}}}, "config: by_model: 'demo-v3', expected one of demo and demo-v2"),
        ({"by_model": {"demo": {"seed": 1}}}, "config: unknown key 'by_model.demo.seed'"),
        ({"products": {"compare": {"variables": ["swh"]}}}, "compare.variables: 'swh', expected a variable that demo"),
        ({"products": {"coarse": {"enabled": True, "variables": ["swh"]}}}, "expected a variable that demo makes"),
    ],
)  # fmt: skip
def test_what_is_refused(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(**over)
    assert said in str(refused.value)


EUROPE = {"output": {"area": "europe"}}
COARSE = {"coarse": {"enabled": True}}


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"forecast": EUROPE}, "products.compare: needs 10u of the whole globe, of which forecast.output.area is a"),
        ({"forecast": EUROPE}, "in products.coarse, on 1.5x1.5 by linear interpolation, or products.compare.enabled: "),
        (
            {"forecast": EUROPE, "products": {"coarse": {"enabled": True, "grid": "3x3"}}},
            "products.compare: needs 100u of the whole globe",
        ),
        (
            {"forecast": EUROPE, "products": {**COARSE, "interpolation": {"2t": "nearest-neighbour"},
                                              "coarse": {"enabled": True, "method": {"default": "linear"}}}},
            "products.compare: needs 2t of the whole globe, of which forecast.output.area is a part; expected it in "
            "products.coarse, on 1.5x1.5 by nearest-neighbour interpolation",
        ),
        (
            {"forecast": EUROPE, "products": {"coarse": {"enabled": True, "variables": ["2t"]},
                                              "compare": {"variables": ["2t", "msl"]}}},
            "products.compare.variables: needs msl of the whole globe",
        ),
        (
            {"forecast": {"output": {"variables": ["2t"]}}, "products": {"compare": {"variables": ["msl"]}}},
            "products.compare.variables: needs msl, which forecast.output.variables leaves out",
        ),
        (
            {"forecast": {"output": {"variables": ["2t"]}}, "products": {"compare": {"variables": ["2t", "msl"]}}},
            "products.compare.variables: needs msl, which forecast.output.variables leaves out",
        ),
        (
            {"model": ["demo-v2", "aifs-ens-2-size"], "forecast": {"output": {"variables": ["mwd"]}}},
            "products.compare.enabled: true, expected false: the leads of both models hold no field alike that has a",
        ),
    ],
)  # fmt: skip
def test_a_comparison_of_what_the_leads_will_not_hold_is_refused(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(**over)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    merge(over, {"products": {"compare": {"enabled": False}}})
    assert config(**over).models


def test_what_is_compared() -> None:
    def compared(**over: Any) -> list[str]:
        return compared_variables(config(**over).of_each_model)

    assert compared() == ["10u", "10v", "2t", "msl", "tp"], "the variables of the pictures, in the model's order"
    assert compared(products={"coarse": {"enabled": True, "variables": ["t_500", "2t"]}}) == ["2t", "t_500"]
    assert compared(products={"compare": {"variables": ["tp", "2t"]}}) == ["2t", "tp"]
    assert compared(forecast={"output": {"variables": ["t"], "levels": [500]}}) == ["t_500"], "nothing of the pictures"
    some = {"forecast": EUROPE, "products": {**COARSE, "compare": {"variables": ["2t"]}}}
    assert compared(**some) == ["2t"] and config(**some).area == (72.0, -25.0, 33.0, 45.0)


def test_nothing_of_one_model_is_taken_for_both() -> None:
    """What a configuration of two models has besides that of each does not hang on which of them is the first."""
    over: dict[str, Any] = {"forecast": {"output": {"daily": {"t": ["max"], "2t": ["mean"]}}}, "products": COARSE}
    over["lead_hours"] = 24
    found, turned = config(**over), config(**over, model=list(reversed(BOTH)))
    one, other = found.of_each_model
    assert one.daily != other.daily and one.coarse_variables != other.coarse_variables
    apart = {"given", "_each_model"}
    assert {key: value for key, value in vars(found).items() if key not in apart} == {
        key: value for key, value in vars(turned).items() if key not in apart
    }


@pytest.mark.parametrize(
    "name",
    ["model", "output_variables", "daily", "coarse_variables", "lead_fields", "report_field", "steps", "scratch",
     "objects"],
)  # fmt: skip
def test_what_is_of_one_model_is_not_asked_of_two(name: str) -> None:
    """No command does half of the work unseen."""
    with pytest.raises(ConfigError, match="model: demo and demo-v2, expected one here: --model NAME"):
        getattr(config(products=COARSE), name)
