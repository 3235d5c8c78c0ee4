"""Leads of AIFS ENS v2: names of all fields, missing values by bitmap, one direction for its cosine and sine."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray
from aifs_ensemble.common.errors import NotFiniteError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import coarse_file, lead_file
from aifs_ensemble.common.parameters import bits_for, parts_of
from aifs_ensemble.fields.coarse_encoder import coarse_output, coarse_weights
from aifs_ensemble.fields.directions import split, through_parts, whole
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_check import check_lead, check_messages, messages
from aifs_ensemble.fields.grib_encoder import CoarseSpec, FieldEncoder, OutputSpec
from aifs_ensemble.fields.grib_index import read_fields, read_index, read_messages
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import product

from fields.members import CYCLE, make_fields, make_spec

MODEL = get_model("demo-v2")
GRID = grid_coordinates("N32")
SEA = np.sin(np.deg2rad(GRID.longitudes * 2)) > 0.3  # where snow and soil water are missing
LAND = ~SEA & (np.cos(np.deg2rad(GRID.latitudes * 3)) > 0)  # where waves are: others than all that is not sea


def outputs(lead: int) -> dict[str, np.ndarray]:
    """Return the fields of a step by variable of the network, in the ranges of their parameters."""
    spec = make_spec(None, model="demo-v2", missing=())
    wave = 0.5 + 0.4 * np.cos(np.deg2rad(2 * GRID.latitudes)) * np.sin(np.deg2rad(3 * GRID.longitudes) + lead)
    known = dict(zip(spec.rows, make_fields(spec, lead), strict=True))
    sizes = {"swh": 8, "mwp": 12, "cdww": 0.003, "sd": 2, "snowc": 1, "swvl1": 0.4, "swvl2": 0.5}
    fields = {}
    for name in MODEL.outputs:
        if name in ("cos_mwd", "sin_mwd"):
            angle = np.deg2rad(GRID.longitudes + 10 * lead)
            fields[name] = 1.3 * (np.cos(angle) if name == "cos_mwd" else np.sin(angle))
        elif name in MODEL.missing and name != "ro":
            fields[name] = sizes.get(name, 3) * wave
        else:
            fields[name] = known[name]
        fields[name] = np.asarray(fields[name], np.float32).copy()
        if place := MODEL.missing.get(name):
            fields[name][SEA if place == "sea" else LAND] = np.nan
    return fields


def rows_of(fields: dict[str, np.ndarray], spec: OutputSpec) -> np.ndarray:
    return np.stack([fields[name] for name in spec.rows])


def write(spec: OutputSpec, folder: Path, lead: int = 12, processes: int = 1) -> Path:
    with EncoderPool(spec, folder, processes) as pool:
        slot = pool.acquire(120)
        assert slot.array.shape == (len(spec.rows), GRID.points)
        slot.array[:] = rows_of(outputs(lead), spec)
        pool.submit(slot, lead)
        (record,) = pool.drain()
    assert record.messages == len(spec.variables)
    return folder / record.grib.name


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One lead of all fields, of a member of the second version."""
    return write(make_spec(None, model="demo-v2"), tmp_path_factory.mktemp("lead"))


# what v1 has not: shortName, paramId, units, kind of level, template of section 4, bits; by hand, from ECMWF's database
NEW = {
    "sd": ("sd", 228141, "kg m**-2", "surface", 1, 20),
    "snowc": ("snowc", 260038, "%", "surface", 1, 10),
    "swvl1": ("vsw", 260199, "m**3 m**-3", "soilLayer", 1, 14),
    "swvl2": ("vsw", 260199, "m**3 m**-3", "soilLayer", 1, 14),
    "swh": ("swh", 140229, "m", "meanSea", 1, 14),
    "mwp": ("mwp", 140232, "s", "meanSea", 1, 14),
    "mwd": ("mwd", 140230, "Degree true", "meanSea", 1, 12),
    "cdww": ("cdww", 140233, "dimensionless", "meanSea", 1, 14),
    "h1012": ("h1012", 140114, "m", "meanSea", 104, 14),
    "h1214": ("h1214", 140115, "m", "meanSea", 104, 14),
    "h1417": ("h1417", 140116, "m", "meanSea", 104, 14),
    "h1721": ("h1721", 140117, "m", "meanSea", 104, 14),
    "h2125": ("h2125", 140118, "m", "meanSea", 104, 14),
    "h2530": ("h2530", 140119, "m", "meanSea", 104, 14),
    **{f"{name}_10": (name, 129 + place, units, "isobaricInhPa", 1, 16 if name == "z" else 14)
       for name, place, units in (("z", 0, "m**2 s**-2"), ("t", 1, "K"), ("u", 2, "m s**-1"), ("v", 3, "m s**-1"),
                                  ("w", 6, "Pa s**-1"))},
}  # fmt: skip


def test_all_fields_have_their_names(lead: Path) -> None:
    spec = make_spec(None, model="demo-v2")
    assert len(spec.rows) == 120 and spec.rows == MODEL.outputs and len(spec.variables) == 119
    found = dict(zip(spec.variables, messages(lead, ("typeOfLevel", "bitmapPresent", "number")), strict=True))
    assert set(spec.variables) - set(get_model("demo").outputs) == set(NEW)
    for name, (short_name, param_id, units, kind, template, bits) in NEW.items():
        keys = found[name].keys
        told = [keys[key] for key in ("shortName", "paramId", "units", "typeOfLevel")]
        assert told == [short_name, param_id, units, kind], name
        assert (keys["productDefinitionTemplateNumber"], keys["bitsPerValue"]) == (template, bits), name
        assert (keys["number"], keys["type"], keys["stream"], keys["endStep"]) == (3, "pf", "enfo", 12), name
    masked = {name for name, message in found.items() if message.keys["bitmapPresent"]}
    assert (
        masked == set(MODEL.missing) & set(spec.variables) == {"ro", "mwd", *NEW} - {f"{name}_10" for name in "tuvwz"}
    )
    assert check_lead(lead, spec, 12) == [] and check_messages(lead, list(messages(lead, values=True)), {}) == []
    entries = read_index(lead.with_suffix(".index"))
    assert [entry["param"] for entry in entries if entry["param"].startswith("m")] == ["mcc", "msl", "mwd", "mwp"]
    assert len(entries) == 119 and not any("mwd" in entry["param"] and entry["param"] != "mwd" for entry in entries)


def test_values_come_back_and_are_missing_where_they_were(lead: Path) -> None:
    spec, fields = make_spec(None, model="demo-v2"), outputs(12)
    assert 0.1 < SEA.mean() < 0.5 and 0.1 < LAND.mean() < 0.5
    fields["mwd"] = (GRID.longitudes + 120) % 360  # the direction that cosine and sine are of
    fields["mwd"][LAND] = np.nan
    for name, (short_name, *_, bits) in NEW.items():
        levels = {"levelist": name[-1] if name[0] == "s" else name[2:]} if short_name == "vsw" or "_" in name else {}
        got = read_fields(lead, param=short_name, **levels)[0]
        expected = fields[name] * (1000 if name == "sd" else 100 if name == "snowc" else 1)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=name)
        step = 1.01 * float(np.nanmax(expected) - np.nanmin(expected)) / 2**bits
        away = got - expected if name != "mwd" else (got - expected + 180) % 360 - 180
        assert np.nanmax(np.abs(away)) <= step, name
    assert spec.missing == tuple(name for name in spec.variables if name in MODEL.missing)


def test_bytes_do_not_depend_on_the_processes(lead: Path, tmp_path: Path) -> None:
    again = write(make_spec(None, model="demo-v2"), tmp_path, processes=3)
    assert again.read_bytes() == lead.read_bytes()


@pytest.mark.parametrize(
    ("model", "variable", "value"), [("demo-v2", "2t", np.nan), ("demo", "ro", np.nan), ("demo-v2", "sd", np.inf)]
)
def test_what_may_not_be_missing_is_an_error(model: str, variable: str, value: float) -> None:
    spec = make_spec(None, model=model)
    field = np.ones(GRID.points, np.float32)
    field[:7] = value
    with pytest.raises(NotFiniteError, match=f"member 3: {variable} at lead 12 h: 7 of 6114 values not finite"):
        FieldEncoder(spec).encode(variable, 12, field)


def test_runoff_of_the_first_version_may_not_be_missing_in_a_file(tmp_path: Path) -> None:
    """The second may miss it over sea: a bitmap says nothing by itself."""
    field = np.linspace(0, 1, GRID.points, dtype=np.float32)
    field[SEA] = np.nan
    lenient = make_spec(["ro"], missing=("ro",))
    path = tmp_path / lead_file(CYCLE, 3, 6)
    path.write_bytes(bytes(FieldEncoder(lenient).encode("ro", 6, field)))
    assert check_messages(path, list(messages(path, values=True)), {}) == []
    index = (tmp_path / "none").with_suffix("")
    wrong = [line for line in check_lead(path, make_spec(["ro"]), 6, data=path.read_bytes()) if index.name not in line]
    assert any("bitmapPresent is 1, expected 0" in line for line in wrong)


# cosine, sine, degrees: on the circle and off it, as a network's are
DIRECTIONS = [(1, 0, 0), (0, 1, 90), (-1, 0, 180), (0, -1, 270), (0.6, 0.8, 53.130102), (-2.2, 2.2, 135),
              (0.3, -0.3, 315), (1, -1e-9, 360), (np.nan, 1, np.nan), (1, np.nan, np.nan), (np.inf, 1, np.inf),
              (0, -np.inf, np.inf)]  # fmt: skip


@pytest.mark.parametrize(("cosine", "sine", "degrees"), DIRECTIONS)
def test_degrees_of_cosine_and_sine(cosine: float, sine: float, degrees: float) -> None:
    made = whole([np.array([part], np.float32) for part in (cosine, sine)])
    np.testing.assert_allclose(made, [degrees], rtol=1e-6)
    assert made.dtype == np.float32 and not 360 <= made[0] < np.inf
    if np.isfinite(degrees):
        back = whole(split(made))
        assert abs((back - made + 180) % 360 - 180) < 1e-4


def test_an_infinite_part_is_an_error(tmp_path: Path) -> None:
    spec = make_spec(["mwd", "2t"], model="demo-v2")
    assert spec.rows == ("2t", "cos_mwd", "sin_mwd")
    with EncoderPool(spec, tmp_path, 1) as pool:
        slot = pool.acquire(120)
        slot.array[:] = 1
        slot.array[1, 5] = np.inf
        pool.submit(slot, 6)
        with pytest.raises(NotFiniteError, match="mwd at lead 6 h: 1 of 6114 values not finite"):
            pool.drain()


def test_coarse_leads_go_through_cosine_and_sine(weights_cache: Path, tmp_path: Path) -> None:
    methods = {"default": "linear", "ro": "grid-box-average"}
    names = ("2t", "mwd", "ro", "swh", "swvl1")
    spec = make_spec(None, model="demo-v2", coarse=CoarseSpec("10x5", names, methods, str(weights_cache)))
    assert spec.coarse is not None
    weights = coarse_weights(spec.coarse, spec.grid)
    write(spec, tmp_path)
    path = tmp_path / coarse_file(CYCLE, 3, 12, "10x5")
    coarse = coarse_output(spec)
    assert check_lead(path, coarse, 12) == [] and coarse.variables == names
    fields, linear = outputs(12), weights["linear"].matrix
    for name in ("swh", "swvl1"):
        expected = product(linear, fields[name])
        got = read_fields(path, param={"swvl1": "vsw"}.get(name, name))[0]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        assert np.nanmax(np.abs(got - expected)) < 1e-3 and 0 < np.isnan(got).mean() < 1
    # longitude + 120 is the direction: so it is on any grid, across north as well, but beside missing values and poles
    target = grid_coordinates("10x5")
    got = read_fields(path, param="mwd")[0]
    away = (got - (target.longitudes + 120) + 180) % 360 - 180
    beside = (linear != 0) @ LAND.astype(int) > 0
    assert np.abs(away[~beside & (np.abs(target.latitudes) < 80)]).max() < 0.3
    assert np.abs(away[~np.isnan(got) & (np.abs(target.latitudes) < 80)]).max() < 6
    made = whole([product(linear, fields[part]) for part in parts_of("mwd")])
    np.testing.assert_array_equal(np.isnan(made), np.isnan(got))


def test_a_direction_on_another_grid_is_not_the_mean_of_degrees() -> None:
    field = np.array([350, 10, 90, np.nan], np.float32)
    halfway = through_parts("mwd", field, lambda part: (part[:1] + part[1:2]) / 2)
    assert abs((halfway[0] + 180) % 360 - 180) < 1e-4
    np.testing.assert_array_equal(through_parts("2t", field, lambda part: (part[:1] + part[1:2]) / 2), [180])


@pytest.mark.parametrize("short_name", ["swh", "mwd", "h1012", "sd", "snowc", "vsw", "rowe"])
def test_cfgrib_reads_them(lead: Path, tmp_path: Path, short_name: str) -> None:
    backend = {"indexpath": str(tmp_path / "idx"), "filter_by_keys": {"shortName": short_name}}
    data = xarray.open_dataset(lead, engine="cfgrib", backend_kwargs=backend)
    (variable,) = data.data_vars.values()
    first = variable.values[0] if short_name == "vsw" else variable.values
    np.testing.assert_array_equal(np.isnan(first), SEA if short_name in ("sd", "snowc", "vsw", "rowe") else LAND)
    assert int(data["number"]) == 3


def infon(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cdo", "-s", "infon", str(path)], check=False, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="CDO is not installed")
def test_cdo_reads_them(lead: Path, tmp_path: Path) -> None:
    """All but the waves by bands of periods, whose template ecCodes 2.28 (Debian 12) does not know: it stops there."""
    entries = read_index(lead.with_suffix(".index"))
    bands = [entry for entry in entries if entry["param"] in bands_of_periods()]
    path = tmp_path / "without.grib2"
    path.write_bytes(b"".join(read_messages(lead, [entry for entry in entries if entry not in bands])))
    shown = infon(path)
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if line.split() and line.split()[0].isdigit()]
    missing = sorted(int(line.split(" :")[1].split()[4]) for line in lines)
    counts = {None: 0, "sea": int(SEA.sum()), "land": int(LAND.sum())}
    variables = [name for name in make_spec(None, model="demo-v2").variables if name not in bands_of_periods()]
    assert missing == sorted(counts[MODEL.missing.get(name)] for name in variables) and len(missing) == 113
    whole_file = infon(lead)
    assert whole_file.returncode == 0 or "template.4.104.def" in whole_file.stderr


def bands_of_periods() -> set[str]:
    return {name for name in MODEL.waves if name.startswith("h")}


def test_the_released_entry_says_which_version_it_is() -> None:
    entry = dataclasses.replace(get_model("aifs-ens-2.0"), grid="N32")
    spec = make_spec(["swh"], model="aifs-ens-2.0", bits=bits_for(entry.delivered))
    message = FieldEncoder(spec).encode("swh", 6, np.linspace(0, 9, GRID.points, dtype=np.float32))
    handle = eccodes.codes_new_from_message(bytes(message))
    assert eccodes.codes_get(handle, "modelVersion") == "aifs-ens-crps-v2"
    eccodes.codes_release(handle)
