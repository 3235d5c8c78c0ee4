"""Messages say what ECMWF's say, and hold the values they were given."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.errors import EncodingError, NotFiniteError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import lead_file
from aifs_ensemble.common.parameters import read_parameters
from aifs_ensemble.fields.ccsds import read_values
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_check import check_lead, check_messages, messages
from aifs_ensemble.fields.grib_encoder import FieldEncoder, OutputSpec, grib_parameter
from aifs_ensemble.fields.grib_index import index_entry, read_fields, read_index

from fields.members import CYCLE, make_fields, make_spec


def keys_of(message: bytes, names: tuple[str, ...]) -> dict:
    handle = eccodes.codes_new_from_message(bytes(message))
    try:
        return {name: eccodes.codes_get(handle, name) for name in names}
    finally:
        eccodes.codes_release(handle)


def all_keys(handle: int) -> dict:
    """Return every key of a message in its coded and computed form, arrays left out."""
    found = {}
    iterator = eccodes.codes_keys_iterator_new(handle)
    while eccodes.codes_keys_iterator_next(iterator):
        name = eccodes.codes_keys_iterator_get_name(iterator)
        try:
            if eccodes.codes_get_size(handle, name) == 1:
                found[name] = eccodes.codes_get(handle, name)
        except eccodes.CodesInternalError:
            found[name] = None
    eccodes.codes_keys_iterator_delete(iterator)
    return found


# What may differ from the real message, with the reason. All else is equal.
EXPECTED_DIFFERENCES = {
    "WMO's number for a control, not ECMWF's": {"typeOfProcessedData"},
    "another lead time": {
        "step",
        "stepRange",
        "startStep",
        "endStep",
        "forecastTime",
        "validityDate",
        "validityTime",
        "validityDateTime",
    },
    "the model's own grid, not 0.25 degrees": {
        "N",
        "Ni",
        "Nj",
        "PLPresent",
        "average",
        "gaussianGridName",
        "getNumberOfValues",
        "global",
        "gridDefinitionDescription",
        "gridDefinitionTemplateNumber",
        "gridType",
        "iDirectionIncrement",
        "iDirectionIncrementGiven",
        "iDirectionIncrementInDegrees",
        "ijDirectionIncrementGiven",
        "interpretationOfNumberOfPoints",
        "isOctahedral",
        "jDirectionIncrement",
        "jDirectionIncrementGiven",
        "jDirectionIncrementInDegrees",
        "latitudeOfFirstGridPoint",
        "latitudeOfFirstGridPointInDegrees",
        "latitudeOfLastGridPoint",
        "latitudeOfLastGridPointInDegrees",
        "legacyGaussSubarea",
        "lengthOfHeaders",
        "longitudeOfFirstGridPoint",
        "longitudeOfFirstGridPointInDegrees",
        "longitudeOfLastGridPoint",
        "longitudeOfLastGridPointInDegrees",
        "numberOfDataPoints",
        "numberOfDataPointsExpected",
        "numberOfOctectsForNumberOfPoints",
        "numberOfValues",
        "resolutionAndComponentFlags",
        "section3Length",
    },
    "other values": {
        "maximum",
        "minimum",
        "standardDeviation",
        "skewness",
        "kurtosis",
        "referenceValue",
        "referenceValueError",
        "unpackedError",
        "packingError",
        "binaryScaleFactor",
        "section7Length",
        "totalLength",
    },
    "digests of the above": {"md5Headers", "md5Section1", "md5Section3", "md5Section4", "md5Section5", "md5Section7"},
}


# beside these for a perturbed member, since the real message is the control
OF_A_MEMBER = {"type", "marsType", "perturbationNumber", "typeOfEnsembleForecast"}


@pytest.mark.parametrize(("member", "expected"), [(0, set()), (7, OF_A_MEMBER)])
def test_keys_equal_those_of_aifs_ens(shared_data: Path, member: int, expected: set[str]) -> None:
    spec = make_spec(
        ["t_500"], member, "aifs-ens-1.0", cycle="20260310_0000", ensemble_size=50, bits={"t_500": 12}
    )  # as the message there
    message = bytes(FieldEncoder(spec).encode("t_500", 6, make_fields(spec, 6)[0]))
    ours = eccodes.codes_new_from_message(message)
    with open(shared_data / "aifs-output" / "aifs-ens-cf-t500.grib2", "rb") as file:
        theirs = eccodes.codes_grib_new_from_file(file)
    mine, real = all_keys(ours), all_keys(theirs)
    assert len(real) > 150
    differing = {name for name in mine.keys() | real.keys() if mine.get(name) != real.get(name)}
    allowed = set().union(*EXPECTED_DIFFERENCES.values())
    assert differing - allowed == expected
    assert mine["numberOfForecastsInEnsemble"] == 51
    assert mine["typeOfEnsembleForecast"] == (6 if member else 5)
    assert mine["modelVersion"] == "aifs-ens-crps-v1"
    assert "gridType" in differing


def test_names_are_those_of_the_real_open_data(shared_data: Path) -> None:
    real = read_index(shared_data / "index" / "aifs_single_20250301_00z_6h.index")
    spec = make_spec()
    ours = [index_entry(spec, variable, 6, 0, 1) for variable in spec.variables]

    def names(entries: list[dict]) -> set:
        return {(e["param"], e["levtype"], e.get("levelist")) for e in entries}

    assert names(ours) <= names(real)
    # volumetric soil water is the one thing that AIFS Single delivers and AIFS ENS v1 does not make
    assert names(real) - names(ours) == {("vsw", "sol", "1"), ("vsw", "sol", "2")}
    assert all(set(ours[0]) >= set(entry) - {"levelist"} for entry in real)


MODEL = get_model("aifs-ens-1.0")
EVERY_ROW = [f"{name}_10" for name in read_parameters()["pressure"]]
EVERY_ROW += [f"{name}3" for name in read_parameters()["soil"]] + list(read_parameters()["surface"])
EVERY_ROW += [name for name, row in read_parameters()["waves"].items() if row.part is None]


@pytest.mark.parametrize("variable", dict.fromkeys([*MODEL.outputs, *MODEL.constant, *EVERY_ROW]))
def test_every_variable_reads_back_as_meant(variable: str) -> None:
    parameter = grib_parameter(variable)
    spec = make_spec([variable], model="aifs-ens-1.0", bits={variable: 16})
    message = FieldEncoder(spec).encode(variable, 24, make_fields(spec, 24)[0])
    accumulated = variable in spec.accumulated
    expected = {
        "shortName": parameter.short_name,
        "paramId": parameter.param_id,
        "units": parameter.units,
        "levtype": parameter.levtype,
        "stepRange": "0-24" if accumulated else "24",
        "stepType": "accum" if accumulated else "instant",
        "productDefinitionTemplateNumber": 11 if accumulated else parameter.template,
        "localTablesVersion": 0,
        "numberOfMissing": 0,
        "validityDate": 20250820,
        "validityTime": 0,
        "number": 3,
        "numberOfForecastsInEnsemble": 5,
        "typeOfEnsembleForecast": 6,
    }
    if parameter.level is not None:
        expected["level"] = parameter.level
    if "typeOfLevel" in parameter.keys:
        expected["typeOfLevel"] = parameter.keys["typeOfLevel"]
    assert keys_of(message, tuple(expected)) == expected


LEVELS = [
    ("2t", "heightAboveGround", 2),
    ("10v", "heightAboveGround", 10),
    ("100v", "heightAboveGround", 100),
    ("msl", "meanSea", 0),
    ("sp", "surface", 0),
    ("tcw", "entireAtmosphere", 0),
    ("lcc", "lowCloudLayer", 0),
    ("mcc", "mediumCloudLayer", 800),
    ("hcc", "highCloudLayer", 450),
    ("stl2", "soilLayer", 2),
    ("w_1000", "isobaricInhPa", 1000),
]


@pytest.mark.parametrize(("variable", "kind", "level"), LEVELS)
def test_levels(variable: str, kind: str, level: int) -> None:
    spec = make_spec([variable])
    message = FieldEncoder(spec).encode(variable, 6, make_fields(spec, 6)[0])
    assert keys_of(message, ("typeOfLevel", "level")) == {"typeOfLevel": kind, "level": level}


@pytest.mark.parametrize(
    ("accumulate", "lead", "start", "length"),
    [("from_start", 6, 0, 6), ("from_start", 792, 0, 792), ("per_step", 6, 0, 6), ("per_step", 792, 786, 6)],
)
def test_accumulations(accumulate: str, lead: int, start: int, length: int) -> None:
    spec = make_spec(["tp"], accumulate=accumulate)
    names = (
        "startStep", "endStep", "lengthOfTimeRange", "typeOfStatisticalProcessing", "typeOfTimeIncrement",
        "forecastTime", "hourOfEndOfOverallTimeInterval", "dayOfEndOfOverallTimeInterval",
    )  # fmt: skip
    found = keys_of(FieldEncoder(spec).encode("tp", lead, make_fields(spec, lead)[0]), names)
    day, hour = (19, 6) if lead == 6 else (21, 0)
    assert list(found.values()) == [start, lead, length, 1, 2, start, hour, day]


@pytest.mark.parametrize(("variable", "factor"), [("tp", 1000), ("ro", 1000), ("sf", 1000), ("tcc", 100), ("2t", 1)])
def test_values_are_converted_and_the_input_left_alone(variable: str, factor: int) -> None:
    spec = make_spec([variable], bits={variable: 24})
    values = make_fields(spec, 12)[0]
    given = values.copy()
    handle = eccodes.codes_new_from_message(bytes(FieldEncoder(spec).encode(variable, 12, values)))
    decoded = eccodes.codes_get_values(handle)
    np.testing.assert_array_equal(values, given)
    step = 2.0 ** eccodes.codes_get(handle, "binaryScaleFactor")
    np.testing.assert_allclose(decoded, given.astype(float) * factor, rtol=1e-6, atol=step)


FIELDS = {
    "smooth": lambda n, rng: 250 + 30 * np.sin(np.linspace(0, 9, n)),
    "noise": lambda n, rng: rng.standard_normal(n),
    "negative": lambda n, rng: -1e5 - rng.random(n),
    "mostly zero": lambda n, rng: np.maximum(rng.standard_normal(n) - 2, 0),
    "tiny": lambda n, rng: 3e-6 + 1e-7 * rng.random(n),
    "huge": lambda n, rng: 1e9 * rng.random(n),
    "constant": lambda n, rng: np.full(n, 273.15),
    "zero": lambda n, rng: np.zeros(n),
    "two values": lambda n, rng: rng.random(n) > 0.5,
    # a range just below a power of two: the largest value rounds up to one step more than the bits can hold
    "range of 1": lambda n, rng: np.linspace(0, 1, n),
    "range just below 1": lambda n, rng: np.linspace(0, 0.999995, n),
    "range one ulp below 1": lambda n, rng: np.linspace(0, 1 - 2**-24, n),
    "below the smallest float32": lambda n, rng: 1e-40 * rng.random(n),
    "span too small for the scale": lambda n, rng: 1e-36 * (1 + rng.random(n)),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16, 17, 20, 24])
@pytest.mark.parametrize("kind", FIELDS)
def test_own_packing_equals_that_of_eccodes_to_the_byte(kind: str, bits: int) -> None:
    spec = make_spec(["t_500"], bits={"t_500": bits})
    ours, theirs = FieldEncoder(spec, native=True), FieldEncoder(spec, native=False)
    assert (ours.native, theirs.native) == (True, False)
    for seed in range(3):
        values = FIELDS[kind](ours.points, np.random.default_rng(seed)).astype(np.float32)
        assert bytes(ours.encode("t_500", 6, values)) == bytes(theirs.encode("t_500", 6, values))


@pytest.mark.parametrize(("value", "count"), [(np.nan, 1), (np.inf, 2), (-np.inf, 6114)])
def test_not_finite_is_refused(value: float, count: int) -> None:
    spec = make_spec(["q_50"])
    values = make_fields(spec, 30)[0]
    values[:count] = value
    with pytest.raises(NotFiniteError, match=rf"member 3: q_50 at lead 30 h: {count} of 6114 values not finite"):
        FieldEncoder(spec).encode("q_50", 30, values)


WAVES = ["swh", "2t"]  # which the table lets miss values over land, and one which must have all


def waves(spec: OutputSpec, missing: slice | list[int]) -> np.ndarray:
    """Return fields of waves and temperature, some of the former missing."""
    fields = make_fields(dataclasses.replace(spec, missing=()), 12) - 270
    fields[0, missing] = np.nan
    return fields


@pytest.mark.parametrize("missing", [slice(100, 900), [0], slice(0, 6113), slice(None)], ids=str)
@pytest.mark.parametrize("native", [True, False])
def test_missing_values_of_a_parameter_that_may_miss_some(missing: slice, native: bool) -> None:
    spec = make_spec(WAVES, bits={"swh": 14, "2t": 14}, missing=("swh",))
    values = waves(spec, missing)[0]
    values[-1] = np.nan if missing == slice(None) else 9999  # what ecCodes takes for missing if not told otherwise
    given = values.copy()
    message = FieldEncoder(spec, native=native).encode("swh", 12, values)
    np.testing.assert_array_equal(values, given)
    absent = np.isnan(given)
    assert keys_of(message, ("numberOfMissing", "bitmapPresent", "packingType", "shortName")) == {
        "numberOfMissing": int(absent.sum()),
        "bitmapPresent": 1,
        "packingType": "grid_ccsds",
        "shortName": "swh",
    }
    handle = eccodes.codes_new_from_message(bytes(message))
    decoded = read_values(handle)
    np.testing.assert_array_equal(np.isnan(decoded), absent)
    np.testing.assert_allclose(decoded[~absent], given[~absent], atol=0.51 * 16384 / 2**14)


def test_missing_values_survive_file_index_and_check(tmp_path: Path) -> None:
    spec = make_spec(WAVES, bits={"swh": 14, "2t": 14}, missing=("swh",))
    with EncoderPool(spec, tmp_path, 1) as pool:
        slot = pool.acquire(120)
        slot.array[:] = waves(spec, slice(100, 900))
        pool.submit(slot, 12)
        pool.drain()
    path = tmp_path / lead_file(CYCLE, spec.member, 12)
    assert check_lead(path, spec, 12) == []
    read = read_fields(path, param="swh")[0]
    assert np.isnan(read[100:900]).all() and np.isnan(read).sum() == 800
    np.testing.assert_allclose(read[900:], waves(spec, slice(0))[0, 900:], atol=0.01)


def test_missing_values_elsewhere_are_wrong(tmp_path: Path) -> None:
    spec = make_spec(WAVES, bits={"swh": 14, "2t": 14}, missing=("swh",))
    values = waves(spec, slice(100, 900))[0]
    with pytest.raises(NotFiniteError, match=r"2t at lead 12 h: 800 of 6114 values not finite"):
        FieldEncoder(spec).encode("2t", 12, values)
    values[:3] = np.inf
    with pytest.raises(NotFiniteError, match=r"swh at lead 12 h: 3 of 6114 values not finite"):
        FieldEncoder(spec).encode("swh", 12, values)
    # a file in which a parameter misses values that it may not miss: waves, called temperature
    handle = eccodes.codes_new_from_message(bytes(FieldEncoder(spec).encode("swh", 12, waves(spec, [1, 2])[0])))
    eccodes.codes_set(handle, "paramId", 167)
    path = tmp_path / "wrong.grib2"
    path.write_bytes(eccodes.codes_get_message(handle))
    found = list(messages(path, values=True))
    assert check_messages(path, found, {}) == [f"{path}: 2t: 2 values missing or not finite"]


@pytest.mark.parametrize(
    ("model", "expver", "version"), [("demo", "test", "unknown"), ("aifs-ens-1.0", "0001", "aifs-ens-crps-v1")]
)
def test_untrained_models_are_labelled(model: str, expver: str, version: str) -> None:
    spec = make_spec(["100u"], model=model)
    message = FieldEncoder(spec).encode("100u", 6, make_fields(spec, 6)[0])
    expected = {"experimentVersionNumber": expver, "modelVersion": version, "model": "aifs-ens", "shortName": "100u"}
    assert keys_of(message, tuple(expected)) == expected


WRONG = [
    ({"variables": ["t_500"], "grid": "O96"}, "grid: 'O96' has no GRIB template, expected a classical grid"),
    ({"variables": ["t_500"], "grid": "N33"}, "grid: 'N33' has no GRIB template"),
    ({"variables": ["t_500"], "bits": {"2t": 16}}, "bits: none given for t_500"),
    ({"variables": ["tp"], "accumulate": "hourly"}, "accumulate: 'hourly', expected from_start or per_step"),
    ({"variables": ["t_500"], "ensemble_size": 70000}, "GRIB key numberOfForecastsInEnsemble cannot be 70001"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG, ids=[text for _, text in WRONG])
def test_wrong_specifications(changes: dict, text: str) -> None:
    with pytest.raises(EncodingError, match=text):
        spec = make_spec(**changes)
        FieldEncoder(spec).header(spec.variables[0], 6)


def test_specification_survives_json() -> None:
    spec = make_spec()
    assert OutputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
