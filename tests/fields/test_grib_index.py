"""What others read: cfgrib and xarray on whole members and ensembles, single fields through the index."""

from __future__ import annotations

import warnings
from pathlib import Path

import cfgrib
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.fields.grib_encoder import grib_parameter
from aifs_ensemble.fields.grib_index import read_fields, read_index, read_messages, select

from fields.members import CYCLE, make_fields, make_spec

PRESSURE = ["q", "t", "u", "v", "w", "z"]
SURFACE = ["cp", "rowe", "sf", "skt", "sp", "ssrd", "strd", "tp"]
SINGLE = ["u10", "v10", "u100", "v100", "t2m", "d2m", "msl", "tcw", "tcc", "lcc", "mcc", "hcc", "sot"]


def concatenated(folder: Path, pattern: str, path: Path) -> Path:
    """GRIB messages concatenate: that is how users make one file of a member or an ensemble."""
    path.write_bytes(b"".join(part.read_bytes() for part in sorted(folder.glob(pattern))))
    return path


def open_datasets(path: Path) -> list[xr.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # cfgrib's use of xarray.merge
        # with its index file (the default): without, cfgrib scans all messages again for each of its trials
        return cfgrib.open_datasets(str(path))


@pytest.mark.parametrize(("pattern", "members"), [("*member002_h*.grib2", [2]), ("*.grib2", [1, 2])])
def test_cfgrib_opens_a_member_and_an_ensemble(
    ensemble: Path, tmp_path: Path, pattern: str, members: list[int]
) -> None:
    datasets = open_datasets(concatenated(ensemble, pattern, tmp_path / "all.grib2"))
    assert sorted(name for ds in datasets for name in ds.data_vars) == sorted(PRESSURE + SURFACE + SINGLE)
    for ds in datasets:
        assert np.atleast_1d(ds.number).tolist() == members
        assert ds.step.values.tolist() == [np.timedelta64(h, "h").astype("timedelta64[ns]") for h in (6, 12)]
        assert ds.time.values == np.datetime64("2025-08-19T00")
        assert (ds.valid_time.values == [np.datetime64("2025-08-19T06"), np.datetime64("2025-08-19T12")]).all()
        assert ds.sizes["values"] == 6114
    pressure = next(ds for ds in datasets if "t" in ds)
    assert pressure.isobaricInhPa.values.tolist() == [1000, 925, 850, 700, 600, 500, 400, 300, 250, 200, 150, 100, 50]
    soil = next(ds for ds in datasets if "sot" in ds)
    assert soil.soilLayer.values.tolist() == [1, 2]


def test_cfgrib_reads_the_values_of_the_right_member_step_and_level(ensemble: Path, tmp_path: Path) -> None:
    path = concatenated(ensemble, "*.grib2", tmp_path / "all.grib2")
    kwargs = {"indexpath": "", "filter_by_keys": {"typeOfLevel": "isobaricInhPa", "shortName": "t"}}
    temperature = xr.open_dataset(path, engine="cfgrib", backend_kwargs=kwargs).t
    for member in (1, 2):
        spec = make_spec(member=member)
        for lead in (6, 12):
            meant = make_fields(spec, lead)[spec.variables.index("t_850")]
            found = temperature.sel(number=member, step=np.timedelta64(lead, "h"), isobaricInhPa=850)
            assert np.abs(found.values - meant).max() < 0.01


def test_cfgrib_reads_accumulations_with_units(ensemble: Path) -> None:
    kwargs = {"indexpath": "", "filter_by_keys": {"typeOfLevel": "surface", "shortName": "tp"}}
    path = ensemble / lead_file(CYCLE, 1, 12)
    rain = xr.open_dataset(path, engine="cfgrib", backend_kwargs=kwargs).tp
    spec = make_spec(member=1)
    meant = 1000 * make_fields(spec, 12)[spec.variables.index("tp")]
    assert (rain.attrs["units"], rain.attrs["GRIB_stepType"]) == ("kg m**-2", "accum")
    assert np.abs(rain.values - meant).max() < 1e-4
    assert rain.step.values == np.timedelta64(12, "h")


@pytest.mark.parametrize("variable", ["t_500", "stl2", "tp", "2t", "hcc", "100v"])
def test_a_single_field_through_the_index(ensemble: Path, variable: str) -> None:
    spec, parameter = make_spec(member=2), grib_parameter(variable)
    path = ensemble / lead_file(CYCLE, 2, 6)
    request = {"param": parameter.short_name, "levtype": parameter.levtype}
    if parameter.level is not None:
        request["levelist"] = parameter.level
    (field,) = read_fields(path, **request)
    meant = parameter.factor * make_fields(spec, 6)[spec.variables.index(variable)]
    assert field.dtype == np.float32
    assert np.abs(field - meant).max() < 1e-3 * np.abs(meant).max()


def test_several_fields_through_the_index(ensemble: Path) -> None:
    fields = read_fields(str(ensemble / lead_file(CYCLE, 1, 12)), param=["u", "v"], levelist=[850, 200])
    assert fields.shape == (4, 6114)


def test_index_lines_are_those_of_the_open_data(ensemble: Path) -> None:
    text = (ensemble / index_file(lead_file(CYCLE, 2, 12))).read_text()
    first = next(line for line in text.splitlines() if '"param": "t"' in line and '"levelist": "500"' in line)
    start = (
        '{"domain": "g", "date": "20250819", "time": "0000", "expver": "test", "class": "ai", "type": "pf", '
        '"stream": "enfo", "step": "12", "levelist": "500", "levtype": "pl", "number": "2", "param": "t", '
        '"model": "aifs-ens", "_offset": '
    )
    assert first.startswith(start)


def test_the_real_index_is_read(shared_data: Path) -> None:
    entries = read_index(shared_data / "index" / "aifs_single_20250301_00z_6h.index")
    assert len(entries) == 102
    assert [e["_length"] for e in select(entries, param="t", levelist=500)] == [548444]


BAD_INDEXES = [
    ("", None),
    ("not json\n", "line 1: not an index entry"),
    ('{"param": "t", "_offset": 0, "_length": 9}\n[1]\n', "line 2: not an index entry"),
    ('{"param": "t"}\n', "line 1: not an index entry .no _offset, _length or param"),
]


@pytest.mark.parametrize(("text", "problem"), BAD_INDEXES)
def test_bad_indexes(tmp_path: Path, text: str, problem: str | None) -> None:
    path = tmp_path / "a.index"
    path.write_text(text)
    if problem is None:
        assert read_index(path) == []
        return
    with pytest.raises(InputError, match=f"{path}: {problem}"):
        read_index(path)


def test_a_field_that_is_not_where_the_index_says(ensemble: Path, tmp_path: Path) -> None:
    entry = {"param": "t", "_offset": 5, "_length": 400}
    with pytest.raises(InputError, match="no GRIB message of 400 bytes for t at byte 5"):
        read_messages(ensemble / lead_file(CYCLE, 1, 6), [entry])
    with pytest.raises(InputError, match=r"nothing matches {'param': 'vsw'}"):
        read_fields(ensemble / lead_file(CYCLE, 1, 6), param="vsw")
    with pytest.raises(InputError, match="no such file, expected an index"):
        read_fields(tmp_path / "absent.grib2", param="t")
