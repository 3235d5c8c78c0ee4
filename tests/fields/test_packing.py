"""Bits per value: every parameter has some with a reason, and they cost what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import CATALOGUE, get_model
from aifs_ensemble.common.names import lead_file
from aifs_ensemble.common.parameters import bits_for, packing_table
from aifs_ensemble.fields.grib_encoder import FieldEncoder, grib_parameter
from aifs_ensemble.fields.packing_error import measure_error, packing_summary

from fields.members import CYCLE, make_fields, make_spec


@pytest.mark.parametrize("model", yaml.safe_load(CATALOGUE.read_text())["models"])
def test_every_output_has_bits_and_a_reason(model: str) -> None:
    outputs = get_model(model).outputs
    bits = bits_for(outputs)
    assert set(bits) == set(outputs)
    assert all(rule.reason for rule in packing_table().values())


def test_overrides_by_parameter_and_by_variable() -> None:
    bits = bits_for(get_model("demo").outputs, {"t": 16, "t_500": 12, "tp": 24})
    assert (bits["t_850"], bits["t_500"], bits["tp"], bits["2t"]) == (16, 12, 24, 14)


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
        bits_for(get_model("demo").outputs, overrides)
    assert text in str(raised.value)


BAD_TABLES = [
    ("parameters: {t: {bits: 30, reason: x}}", "t: 30 bits, expected 8 to 24"),
    ("parameters: {t: {bits: 12, reason: ''}}", "t: no reason given"),
    ("parameters: {2t: {bits: 12, reason: x}}", "t has no entry, expected its bits per value and a reason"),
]


@pytest.mark.parametrize(("text", "problem"), BAD_TABLES)
def test_bad_tables(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "packing.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"packing.yaml: {problem}"):
        bits_for(["t_500"], path=path)


@pytest.mark.parametrize("variable", ["t_500", "tp", "tcc", "q_50", "ssrd", "msl"])
def test_measured_error_is_within_half_a_step(tmp_path: Path, ensemble: Path, variable: str) -> None:
    spec = make_spec(member=1)
    values = make_fields(spec, 12)[spec.variables.index(variable)]
    measured = measure_error(FieldEncoder(spec), variable, 12, values)
    summary = packing_summary(ensemble / lead_file(CYCLE, 1, 12))[grib_parameter(variable).short_name]
    assert summary.bits == spec.bits[variable]
    # decoding to float64 and the conversion of units in float32 add their own rounding
    assert 0 < measured.rms <= measured.largest <= summary.error + 1e-7 * abs(measured.deviation + 1e3)
    assert measured.largest > 0.2 * summary.error / 4**2  # several fields share a summary, of one order of magnitude
    assert measured.rms < 0.01 * measured.deviation


def test_summary_counts_all_fields(ensemble: Path) -> None:
    path = ensemble / lead_file(CYCLE, 1, 6)
    summary = packing_summary(path)
    assert sum(item.fields for item in summary.values()) == 100
    assert sum(item.bytes for item in summary.values()) == path.stat().st_size
    assert summary["t"].fields == 13
    assert 0 < summary["t"].stored_bits <= 14
    assert summary["tp"].units == "kg m**-2"
