"""Bits per value cost what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common.names import lead_file
from aifs_ensemble.fields.grib_encoder import FieldEncoder, grib_parameter
from packing_error import main, measure_error, packing_summary

from fields.members import CYCLE, make_fields, make_spec


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


def test_summary_counts_all_fields(
    ensemble: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ensemble / lead_file(CYCLE, 1, 6)
    summary = packing_summary(path)
    assert sum(item.fields for item in summary.values()) == 100
    assert sum(item.bytes for item in summary.values()) == path.stat().st_size
    assert summary["t"].fields == 13
    assert 0 < summary["t"].stored_bits <= 14
    assert summary["tp"].units == "kg m**-2"
    monkeypatch.setattr("sys.argv", ["packing_error.py", str(path)])
    main()
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(summary)
