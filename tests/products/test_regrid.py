"""A GRIB file on a regular grid: values, areas, both formats, and files that are none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cfgrib
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.cli import main
from aifs_ensemble.common.areas import PRESETS, Box
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.daily import LeadField
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.fields.area import cut_of
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_encoder import FieldEncoder
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.grib_reader import decode
from aifs_ensemble.fields.grids import grid_coordinates
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


def encoded(folder: Path, model: str, variables: list[str], box: Box | None) -> Path:
    """Return a lead on N32, of an area or of the globe, the same fields in both: waves miss values around 5 N."""
    encoder = FieldEncoder(make_spec(variables, model=model, area=box))
    grid = grid_coordinates("N32")
    path = folder / f"lead_{'globe' if box is None else 'area'}.grib2"
    rng, messages = np.random.default_rng(4), []
    for variable in variables:
        field = (280 + 20 * rng.standard_normal(grid.points)).astype(np.float32)
        if variable in ("swh", "mwd"):
            field[(np.abs(grid.latitudes - 5) < 6) & (grid.longitudes < 40)] = np.nan
        messages.append(bytes(encoder.encode(variable, 12, field)))
    path.write_bytes(b"".join(messages))
    return path


@pytest.mark.parametrize("method", ["linear", "grid-box-average", "nearest-neighbour"])
def test_a_lead_of_an_area_has_the_values_of_the_globes(ensemble: Config, tmp_path: Path, method: str) -> None:
    """To the bit where it needs the area alone, else missing; also beside waves that miss values of their own."""
    names, box = ["2t", "tp", "swh", "mwd"], PRESETS["east-africa"].box
    weights = interpolation_weights("N32", "2x2", ensemble.cache, method).matrix
    outside = np.ones(weights.shape[1], bool)
    outside[cut_of("N32", box).points] = ~cut_of("N32", box).inside
    known = (np.abs(weights) @ outside == 0).reshape(91, 180)
    assert 50 < known.sum() < 300
    found = {}
    for which in (None, box):
        path = encoded(tmp_path, "demo-v2", names, which)
        out = tmp_path / f"{path.stem}.nc"
        assert regrid(ensemble, path, "--grid", "2x2", "--method", method, "--variables", *names, "-o", out) == 0
        with xr.open_dataset(out) as data:
            found[path.stem] = data.load()
    for name in names:
        whole, part = (found[f"lead_{which}"][name].to_numpy()[0, 0] for which in ("globe", "area"))
        np.testing.assert_array_equal(part.view("i4")[known], whole.view("i4")[known])
        assert np.isnan(part[~known]).all()
    assert np.isnan(found["lead_area"]["swh"].to_numpy()[0, 0][known]).any()


@pytest.mark.parametrize("names", [["2t"], ["swh"]])
def test_a_part_of_an_area_is_the_message_of_the_globes(ensemble: Config, tmp_path: Path, names: list[str]) -> None:
    """GRIB2 within the area has the very bytes; beyond it, a bitmap; waves alone are missing where any point may be."""
    paths = [encoded(tmp_path, "demo-v2", names, box) for box in (None, PRESETS["east-africa"].box)]
    within = ["--grid", "2x2", "--area=-2/42/-8/50"]
    for path in paths:
        assert regrid(ensemble, path, *within, "-o", tmp_path / f"{path.stem}_regular.grib2") == 0
    whole, part = ((tmp_path / f"{path.stem}_regular.grib2").read_bytes() for path in paths)
    assert len(part) <= len(whole) and (part == whole or names == ["swh"])
    assert regrid(ensemble, paths[1], "--grid", "2x2", "--area", "40/20/-40/60", "-o", tmp_path / "wide.grib2") == 0
    with xr.open_dataset(tmp_path / "wide.grib2", engine="cfgrib") as data:
        (name,) = data.data_vars
        missing = np.isnan(data[name].to_numpy())
        assert missing.any() and not missing.all() and np.nanmax(np.abs(data[name].to_numpy())) < 1000


def test_where_an_area_has_nothing_the_line_names_it(ensemble: Config, tmp_path: Path, capsys) -> None:
    path = encoded(tmp_path, "demo", ["2t"], PRESETS["east-africa"].box)
    assert regrid(ensemble, path, "--area", "60/0/50/20", "-o", tmp_path / "a.nc") == InputError.exit_code
    said = capsys.readouterr().err
    assert "holds an area of the globe (forecast.output.area), rows from 1" in said and said.count("\n") == 1
    # what starts a forecast or judges one needs the globe, and says why this is none
    with pytest.raises(InputError, match=r"lead: rows from .* N of N32, as leads of forecast.output.area hold, exp"):
        decode(path.read_bytes(), "lead")
