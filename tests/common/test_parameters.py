"""The table of parameters: every model finds its variables in it, and a wrong row is one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import CATALOGUE, get_model
from aifs_ensemble.common.parameter_rows import Part
from aifs_ensemble.common.parameters import (
    TABLE,
    FieldName,
    accumulated,
    bits_for,
    check_variables,
    delivered,
    field_name,
    find_variable,
    parameter_of,
    parts_of,
    read_parameters,
    split_variable,
    variable_name,
)

ROWS = [row for rows in read_parameters().values() for row in rows.values()]
Table = dict[str, Any]


@pytest.fixture
def table(tmp_path: Path) -> Callable[[Callable[[Table], object]], Path]:
    """Write a changed copy of the table."""

    def write(change: Callable[[Table], object]) -> Path:
        content = yaml.safe_load(TABLE.read_text())
        change(content)
        path = tmp_path / "parameters.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize("model", yaml.safe_load(CATALOGUE.read_text())["models"])
def test_every_output_has_bits_and_a_reason(model: str) -> None:
    fields = get_model(model).delivered
    assert set(bits_for(fields)) == set(fields)
    assert all(parameter_of(name).reason for name in fields)


def test_overrides_by_parameter_and_by_variable() -> None:
    bits = bits_for(get_model("demo").delivered, {"t": 16, "t_500": 12, "tp": 24, "stl1": 9})
    assert (bits["t_850"], bits["t_500"], bits["tp"], bits["2t"]) == (16, 12, 24, 14)
    assert (bits["stl1"], bits["stl2"]) == (9, 14)


WRONG = [
    ({"tpp": 16}, "forecast.packing.tpp: not written by this model, did you mean 'tp'?"),
    ({"t_501": 16}, "forecast.packing.t_501: not written by this model, did you mean"),
    ({"lsm": 16}, "forecast.packing.lsm: not written by this model"),
    ({"t": 7}, "forecast.packing.t: 7 bits, expected 8 to 24"),
    ({"t": 32}, "forecast.packing.t: 32 bits, expected 8 to 24"),
    ({"t": 12.5}, "forecast.packing.t: 12.5 bits, expected 8 to 24"),
]


@pytest.mark.parametrize(("overrides", "text"), WRONG)
def test_wrong_overrides(overrides: dict, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bits_for(get_model("demo").delivered, overrides)
    assert text in str(raised.value)


def row(family: str, name: str, **changes: Any) -> Callable[[Table], object]:
    """Return what changes keys of a row; None takes a key away."""

    def change(content: Table) -> None:
        found = content[family].setdefault(name, {})
        found.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del found[key]

    return change


BAD_TABLES = [
    (row("pressure", "t", bits=30), "pressure: t: bits: 30 bits, expected 8 to 24"),
    (row("pressure", "t", bits="14"), "pressure: t: bits: '14', expected int"),
    (row("surface", "2t", bits=True), "surface: 2t: bits: True, expected int"),
    (row("pressure", "t", reason=""), "pressure: t: reason is missing, expected why 14 bits"),
    (row("pressure", "t", grib=None), "pressure: t: grib is missing"),
    (row("surface", "sd", grib={"shortName": "sd", "units": "m"}), "surface: sd: grib: paramId is missing"),
    (
        row("surface", "sd", grib={"shortName": "sd", "paramID": 228141, "units": "m", "paramId": 228141}),
        "surface: sd: grib: unknown key 'paramID', did you mean 'paramId'?",
    ),
    (row("surface", "tp", acumulates=True), "surface: tp: unknown key 'acumulates', did you mean 'accumulates'?"),
    (row("surface", "tp", factor=None), "surface: tp: units and factor, expected both or neither"),
    (row("waves", "swh", missing="lake"), "waves: swh: missing: 'lake', expected sea or land"),
    (row("waves", "swh", colors="rainbow"), "waves: swh: colors: 'rainbow', expected diverging or sequential"),
    (row("waves", "swh", range=[25, 0]), "waves: swh: range: 25 to 0, expected the smaller value first"),
    (row("waves", "swh", range=[0]), "waves: swh: range: [0], expected two numbers"),
    (row("waves", "swh", range={500: [0, 1]}), "waves: swh: range: level 500, expected two numbers and no levels"),
    (row("pressure", "q", statistics={10: [0, "1e-6"]}), "pressure: q: statistics: [0, '1e-6'], expected numbers"),
    (row("pressure", "q", range={"10 hPa": [0, 1]}), "pressure: q: range: level '10 hPa', expected a whole number"),
    (row("waves", "swh", thresholds=["high"]), "waves: swh: thresholds: ['high'], expected numbers"),
    (lambda content: content["waves"].update(swh=3), "waves: swh: 3, expected keys and values"),
    (
        row("waves", "sin_mwd", part={"of": "mwd", "is": "tangent"}),
        "sin_mwd: part.is: 'tangent', expected cosine or sine",
    ),
    (row("waves", "sin_mwd", part={"of": "mwdd", "is": "sine"}), "sin_mwd: part.of: 'mwdd', did you mean 'mwd'?"),
    (row("waves", "sin_mwd", part={"of": "cos_mwd", "is": "sine"}), "sin_mwd: part.of: 'cos_mwd', did you mean"),
    (row("waves", "sin_mwd", bits=12), "waves: sin_mwd: unknown key 'bits'"),
    (lambda content: content.pop("soil"), "parameters.yaml: soil is missing"),
    (lambda content: content.update(ocean={}), "parameters.yaml: unknown key 'ocean', known are pressure, soil"),
]


@pytest.mark.parametrize(("change", "problem"), BAD_TABLES, ids=[problem for _, problem in BAD_TABLES])
def test_bad_tables(table: Callable[..., Path], change: Callable[[Table], object], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_parameters(table(change))
    assert str(raised.value).startswith("parameters.yaml: ")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file, expected a table of parameters"):
        read_parameters(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("surface: {")
    with pytest.raises(ConfigError, match=r"bad\.yaml:1: not valid YAML"):
        read_parameters(tmp_path / "bad.yaml")


BAD_VARIABLES = [
    (["swlv1"], [], "variables: 'swlv1' has no row in parameters.yaml, did you mean 'swvl1'?"),
    (
        [],
        ["newvar"],
        "variables: 'newvar' has no row in parameters.yaml, expected one under pressure, soil, waves",
    ),
    (["msl_500"], [], "variables: 'msl_500' has no row in parameters.yaml"),
    ([], ["lsm"], "variables: 'lsm' is written, expected bits in its row of parameters.yaml"),
    ([], ["cos_mwd"], "variables: 'cos_mwd' without 'sin_mwd', expected both or neither"),
    ([], ["wmb"], "variables: 'wmb' is written, expected bits in its row of parameters.yaml"),
    (["tp"], [], "variables: 'tp' is read, expected a range in its row of parameters.yaml"),
    (["stl3"], [], "variables: 'stl3' is read, expected a range in its row of parameters.yaml"),
]


@pytest.mark.parametrize(("read", "written", "problem"), BAD_VARIABLES, ids=[line for *_, line in BAD_VARIABLES])
def test_a_row_must_suffice_for_what_a_model_does(read: list[str], written: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_variables("models.yaml: trial", read, written)
    assert f"models.yaml: trial: {problem}" in str(raised.value)


def test_variables_are_parameters_on_levels() -> None:
    assert split_variable("t_500") == ("t", 500) and split_variable("2t") == ("2t", 0)
    assert split_variable("cos_latitude") == ("cos_latitude", 0)
    for variable, levtype, level in (("z", "sfc", 0), ("z_500", "pl", 500), ("stl2", "sol", 2), ("10u", "sfc", 0)):
        parameter, found = find_variable(variable)
        assert (parameter.levtype, found) == (levtype, level)
    assert find_variable("z")[0] is not find_variable("z_500")[0]
    assert accumulated(["tp", "2t", "cp"]) == ("cp", "tp")


SECOND = get_model("demo-v2")


@pytest.mark.parametrize(
    "variable", sorted({*SECOND.inputs, *SECOND.delivered, *get_model("demo").inputs} - {"cos_mwd", "sin_mwd"})
)
def test_names_in_grib_lead_back_to_the_variable(variable: str) -> None:
    assert variable_name(field_name(variable)) == variable


def test_a_direction_is_one_field_in_grib_and_two_in_the_models() -> None:
    assert field_name("cos_mwd") == field_name("sin_mwd") == field_name("mwd") == FieldName("mwd", "sfc")
    assert parts_of("mwd") == ("cos_mwd", "sin_mwd") and parts_of("swh") == ("swh",)
    assert delivered(["swh", "sin_mwd", "2t", "cos_mwd"]) == ("2t", "mwd", "swh")
    cosine, direction = parameter_of("cos_mwd"), parameter_of("mwd")
    assert (cosine.part, direction.part) == (Part("mwd", "cosine"), None)
    assert (cosine.units, direction.units) == ("1", "Degree true")
    assert cosine.missing == direction.missing == "land"


def test_units() -> None:
    units = {name: parameter_of(name).units for name in ("z_500", "z", "2t", "stl1", "lsm", "tp", "tcc")}
    expected = {"z_500": "m2 s-2", "z": "m2 s-2", "2t": "K", "stl1": "K", "lsm": "1", "tp": "m", "tcc": "1"}
    assert units == expected
    assert parameter_of("tp").cf_units == "kg m-2" and parameter_of("q_50").cf_units == "kg kg-1"


@pytest.mark.parametrize("parameter", ROWS, ids=lambda row: f"{row.levtype} {row.name}")
def test_statistics_lie_within_the_range(parameter: Any) -> None:
    """Which catches a row whose numbers are in different units."""
    for level, (mean, deviation) in (parameter.statistics or {}).items():
        assert deviation > 0
        if parameter.ranges:
            low, high = parameter.plausible(level)
            assert low <= mean <= high


def test_reading_the_table_needs_neither_numpy_nor_eccodes() -> None:
    code = """
import sys
from aifs_ensemble.common.models import get_model
get_model("demo")
print([name for name in ("numpy", "eccodes", "torch") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"
