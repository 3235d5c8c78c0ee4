"""What open data calls the variables of a model, and the units in which fields come."""

import json
from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.parameters import FieldName, field_name, variable_name
from aifs_ensemble.fields.grib_reader import read_header
from aifs_ensemble.initial.opendata import by_request, opendata_name, stream_of
from aifs_ensemble.initial.source import in_model_units

MODEL = get_model("aifs-ens-1.0")


@pytest.mark.parametrize("variable", MODEL.inputs)
def test_names_in_open_data(variable):
    expected = variable.replace("z_", "gh_") if variable.startswith("z_") else variable
    assert variable_name(opendata_name(variable)) == expected


def test_one_request_for_each_level_type():
    groups = by_request(MODEL.prognostic)
    assert {kind: len(names) for kind, names in groups.items()} == {"sfc": 8, "sol": 2, "pl": 78}
    assert groups["sol"] == [FieldName("sot", "sol", 1), FieldName("sot", "sol", 2)]
    assert opendata_name("z") == FieldName("z", "sfc") and opendata_name("z_500") == FieldName("gh", "pl", 500)


def test_waves_are_asked_for_by_themselves():
    model = get_model("aifs-ens-2.0")
    groups = by_request(model.prognostic)
    assert {kind: len(names) for kind, names in groups.items()} == {"sfc": 9, "sol": 4, "waves": 10, "pl": 83}
    assert FieldName("mwd", "sfc") in groups["waves"] and FieldName("q", "pl", 10) not in groups["pl"]
    assert by_request(model.constant)["waves"] == [FieldName("wmb", "sfc")]
    assert [stream_of(stream, group) for stream in ("enfo", "oper") for group in ("sfc", "waves")] == [
        "enfo", "waef", "oper", "wave",
    ]  # fmt: skip


def test_names_are_those_of_real_indexes(shared_data: Path) -> None:
    """Of AIFS Single v1.1, the only index at hand with soil water; none has snow or waves."""
    lines = (shared_data / "index" / "aifs_single_20250301_00z_0h.index").read_text().splitlines()
    real = {
        FieldName(entry["param"], entry["levtype"], int(entry.get("levelist", 0))) for entry in map(json.loads, lines)
    }
    names = {field_name(name): name for name in get_model("aifs-ens-2.0").inputs}
    unknown = {name for field, name in names.items() if field not in real}
    model = get_model("aifs-ens-2.0")
    assert unknown - {"cos_mwd", "sin_mwd"} == {*model.waves, "sd", "wmb", *(f"{name}_10" for name in "tuvwz")} - {
        "cos_mwd", "sin_mwd",
    }  # fmt: skip


# paramId of a message, its value, and what the model is to get
UNITS = [(228141, "sd", 250.0, 0.25), (141, "sd", 0.25, 0.25), (167, "2t", 280.0, 280.0)]


@pytest.mark.parametrize(("param", "variable", "given", "expected"), UNITS)
def test_units_are_those_of_the_models(param, variable, given, expected):
    handle = eccodes.codes_new_from_samples("regular_ll_sfc_grib2", eccodes.CODES_PRODUCT_GRIB)
    eccodes.codes_set(handle, "paramId", param)
    eccodes.codes_set_values(handle, np.full(eccodes.codes_get_size(handle, "values"), given))
    header = read_header(message := eccodes.codes_get_message(handle), "message")
    eccodes.codes_release(handle)
    assert variable_name(header.field) == variable
    values = eccodes.codes_new_from_message(message)
    read = eccodes.codes_get_array(values, "values", ktype=np.float32)
    eccodes.codes_release(values)
    np.testing.assert_allclose(in_model_units(header, read), expected, rtol=1e-6)
