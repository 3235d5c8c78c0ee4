"""A GRIB file on a regular grid: values, areas, both formats, and files that are none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cfgrib
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.daily import LeadField
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.interpolation import interpolation_weights
from aifs_ensemble.products.regrid import area_of, parse_area
from fields.members import make_spec


@pytest.fixture(scope="module")
def lead(ensemble: Config) -> Path:
    return Path(ensemble.destination or "") / ensemble.objects.lead(2, 24)


def regrid(ensemble: Config, *arguments: object) -> int:
    return main(["regrid", *map(str, arguments), "--cache", str(ensemble.cache)])


def test_values_of_an_area_are_those_of_the_whole(ensemble: Config, lead: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.nc"
    assert (
        regrid(ensemble, lead, "--grid", "2x2", "--variables", "2t", "t_500", "-o", out, "--area", "21/-30/-21/59") == 0
    )
    assert capsys.readouterr().out == f"{out}: 2 fields at 2x2 degrees\n"
    matrix = interpolation_weights("N32", "2x2", ensemble.cache).matrix
    whole = (matrix @ read_fields(lead, param="t", levelist=500)[0]).reshape(91, 180)
    with xr.open_dataset(out) as data:
        assert data["t_500"].dims == ("time", "number", "latitude", "longitude")
        assert data["latitude"].to_numpy().tolist() == list(range(20, -21, -2))
        assert data["longitude"].to_numpy().tolist() == list(range(-30, 59, 2))
        np.testing.assert_array_equal(data["t_500"][0, 0], np.roll(whole, 15, axis=1)[35:56, :45])
        assert data["time"].to_numpy().tolist() == [np.datetime64("2025-08-20T00", "ns").astype("i8")]
        assert (data["number"].item(), data["leadtime"].item()) == (2, 24)
        assert data["2t"].attrs["units"] == "K"


def test_grib_keeps_keys_and_values(ensemble: Config, lead: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.grib2"
    assert regrid(ensemble, lead, "--grid", "1.5x1.5", "-o", out) == 0
    found = {name: data[name] for data in cfgrib.open_datasets(str(out)) for name in data}
    total = sum(field.sizes.get("isobaricInhPa", 1) * field.sizes.get("soilLayer", 1) for field in found.values())
    assert total == len(ensemble.model.outputs) == 100
    matrix = interpolation_weights("N32", "1.5x1.5", ensemble.cache).matrix
    for name, asked in (("t2m", {"param": "2t"}), ("tp", {"param": "tp"})):
        expected = (matrix @ read_fields(lead, **asked)[0]).reshape(121, 240)
        assert np.abs(found[name] - expected).max() <= np.ptp(expected) / 2**13
        assert (found[name].attrs["GRIB_gridType"], int(found[name]["number"])) == ("regular_ll", 2)
    assert found["tp"].attrs["GRIB_stepType"] == "accum"


def test_several_leads_and_members_become_one_block(ensemble: Config, tmp_path: Path) -> None:
    folder = Path(ensemble.destination or "")
    keys = [ensemble.objects.lead(member, hour) for member in (1, 3) for hour in (6, 12)]
    (tmp_path / "all.grib2").write_bytes(b"".join((folder / key).read_bytes() for key in keys[:3]))
    assert regrid(ensemble, tmp_path / "all.grib2", "--variables", "msl", "-o", tmp_path / "all.nc") == 0
    with xr.open_dataset(tmp_path / "all.nc") as data:
        assert dict(data["msl"].sizes) == {"time": 2, "number": 2, "latitude": 181, "longitude": 360}
        # the last of the four leads is not in the file
        assert np.isnan(data["msl"]).mean(("latitude", "longitude")).to_numpy().tolist() == [[0, 0], [0, 1]]


def test_areas() -> None:
    whole = area_of("1.5x1.5")
    assert (whole.rows.size, whole.columns.size, whole.longitudes[-1]) == (121, 240, 358.5)
    around = area_of("1.5x1.5", parse_area("90/-180/-90/180"))
    assert around.columns.size == 240 and around.longitudes[0] == -180
    small = area_of("0.1x0.1", parse_area("0.3/359.7/0/360.2"))
    assert small.longitudes.tolist() == [359.7, 359.8, 359.9, 360.0, 360.1, 360.2]
    for text in ("1/2/3", "a/b/c/d", "0/0/10/20", "10/20/0/10", "95/0/0/10", "nan/0/0/1"):
        with pytest.raises(ConfigError, match=r"--area: .*expected N/W/S/E"):
            parse_area(text)
    with pytest.raises(ConfigError, match="no point of the grid 10x10"):
        area_of("10x10", parse_area("4/2/3/9"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["absent.grib2", "-o", "a.nc"], 3, "absent.grib2: no such GRIB file"),
        (["text.grib2", "-o", "a.nc"], 3, "text.grib2: no"),
        (["cut.grib2", "-o", "a.nc"], 3, "cut.grib2: "),
        (["lead.grib2", "-o", "a.txt"], 2, "-o: 'a.txt', expected a name that ends in .nc or .grib2"),
        (["lead.grib2", "-o", "lead.grib2"], 2, "is the file itself"),
        (["lead.grib2", "-o", "a.nc", "--grid", "N32"], 2, "--grid: 'N32', expected degrees"),
        (["lead.grib2", "-o", "a.nc", "--grid", "7x7"], 2, "7x7"),
        (["lead.grib2", "-o", "a.nc", "--variables", "tpp"], 3, "lead.grib2: no field 'tpp', did you mean 'tp'?"),
        (["lead.grib2", "-o", "a.nc", "--area", "1/2"], 2, "--area: '1/2'"),
        (["twice.grib2", "-o", "a.nc"], 3, "more than one field of"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    ensemble: Config, lead: Path, tmp_path: Path, monkeypatch, capsys, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = lead.read_bytes()
    files = {"text": b"no GRIB at all", "cut": data[:-100], "lead": data, "twice": data + data}
    for name, content in files.items():
        Path(f"{name}.grib2").write_bytes(content)
    assert regrid(ensemble, *arguments) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1, said
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.grib2" for name in files)
    assert Path("lead.grib2").read_bytes() == data


def test_a_statistic_of_the_day_says_so(ensemble: Config, tmp_path: Path) -> None:
    daily = (LeadField("2t", "max"), LeadField("swh", "mean"), LeadField("tp", "sum"))
    spec = dataclasses.replace(make_spec(["2t"], model="demo-v2"), daily=daily, missing=("swh",))
    with EncoderPool(spec, tmp_path, 1) as pool:
        slot = pool.acquire(120)
        for row, value in enumerate((280, 290, 3, 0.01)):
            slot.array[row] = value
        slot.array[2, :99] = np.nan
        pool.submit(slot, 48)
        [record] = pool.drain()
    assert regrid(ensemble, tmp_path / record.grib.name, "--grid", "10x5", "-o", tmp_path / "out.nc") == 0
    with xr.open_dataset(tmp_path / "out.nc") as data:
        said = {str(name): data[name].attrs["cell_methods"] for name in data.data_vars}
        assert float(data["mx2t24"].max()) == pytest.approx(290) and int(data["avg_swh"].isnull().sum()) > 0
    hours = "(comment: hours 24-48 and so on)"
    assert said == {
        "2t": "time: point",
        "mx2t24": f"time: maximum {hours}",
        "avg_swh": f"time: mean {hours}",
        "tp": f"time: sum {hours}",
    }
