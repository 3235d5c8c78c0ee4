"""What open data calls the variables of a model, and the units in which fields come."""

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.parameters import FieldName, variable_name
from aifs_ensemble.fields.grib_reader import read_header
from aifs_ensemble.initial.opendata import by_level_type, opendata_name
from aifs_ensemble.initial.source import in_model_units

MODEL = get_model("aifs-ens-1.0")


@pytest.mark.parametrize("variable", MODEL.inputs)
def test_names_in_open_data(variable):
    expected = variable.replace("z_", "gh_") if variable.startswith("z_") else variable
    assert variable_name(opendata_name(variable)) == expected


def test_one_request_for_each_level_type():
    groups = by_level_type(MODEL.prognostic)
    assert {kind: len(names) for kind, names in groups.items()} == {"sfc": 8, "sol": 2, "pl": 78}
    assert groups["sol"] == [FieldName("sot", "sol", 1), FieldName("sot", "sol", 2)]
    assert opendata_name("z") == FieldName("z", "sfc") and opendata_name("z_500") == FieldName("gh", "pl", 500)


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
