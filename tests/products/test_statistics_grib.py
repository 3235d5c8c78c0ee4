"""GRIB of the statistics as ECMWF's own, read by ecCodes, cfgrib and CDO; NetCDF read by CDO."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import cfgrib
import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.fields.grib_index import read_index, read_messages
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.statistics.messages import MessageMaker
from aifs_ensemble.products.statistics.named_thresholds import all_named

from products.conftest import true_fields
from products.test_statistics import changed, expected, written

EVERY_KIND = ("h048-em", "h048-es", "h048-ep", "h048-em_024h", "h048-es_024h", "h048-ep_024h", "h030-em_006h")

# the names in ecCodes 2.28, which CDO of Debian 12 has, for probabilities that it does not know
_OLD_NAMES = {"2tl273": "2t", "10spg10": "10si"}


@pytest.fixture(scope="module")
def day(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(changed(ensemble), "h030_048", tmp_path_factory.mktemp("grib"))


def keys(message: bytes, *names: str) -> list[Any]:
    handle = eccodes.codes_new_from_message(message)
    try:
        return [eccodes.codes_get(handle, name) for name in names]
    finally:
        eccodes.codes_release(handle)


def values(message: bytes) -> np.ndarray:
    handle = eccodes.codes_new_from_message(message)
    try:
        return eccodes.codes_get_values(handle).reshape(121, 240)
    finally:
        eccodes.codes_release(handle)


def messages(path: Path) -> dict[str, bytes]:
    """Return the messages of a file by the names that its index gives them."""
    entries = read_index(path.with_suffix(".index"))
    return {entry["param"]: message for entry, message in zip(entries, read_messages(path, entries), strict=True)}


@pytest.mark.parametrize(("variable", "threshold"), all_named(), ids=lambda item: getattr(item, "short_name", None))
def test_eccodes_has_a_name_for_every_threshold_of_the_table(ensemble: Config, variable: str, threshold: Any) -> None:
    maker = MessageMaker(ensemble, RegularGrid(ensemble), 50)
    window = 24 if variable == "tp" else 0
    # the demonstration has no waves: the level type is all that the variable itself gives
    message, entry = maker.probability(variable, threshold, 48, window, np.zeros((121, 240), np.float32))
    assert keys(message, "shortName", "units", "type") == [threshold.short_name, "%", "ep"]
    assert entry["param"] == threshold.short_name
    limit, kind = keys(message, "lowerLimit", "probabilityType")
    assert limit == threshold.value and kind == (3 if threshold.comparison == "at_least" else 0)
    maker.close()


@pytest.mark.parametrize(
    ("file", "template", "derived", "step"),
    [("em", 2, 0, "48"), ("es", 2, 4, "48"), ("em_024h", 12, 0, "24-48"), ("es_024h", 12, 4, "24-48")],
)
def test_means_and_spreads_have_ecmwfs_keys(
    day: dict[str, Path], file: str, template: int, derived: int, step: str
) -> None:
    for name, message in messages(day[f"h048-{file}.grib2"]).items():
        found = keys(
            message, "productDefinitionTemplateNumber", "derivedForecast", "numberOfForecastsInEnsemble", "type",
            "stream", "class", "experimentVersionNumber", "stepRange", "shortName", "generatingProcessIdentifier",
        )  # fmt: skip
        assert found == [template, derived, 3, file[:2], "enfo", "ai", "test", step, name, 255]
    kind = [entry["_source"] for entry in read_index(day[f"h048-{file}.index"])]
    assert set(kind) == {"demo, an untrained model: its values mean nothing"}


def test_probabilities_have_ecmwfs_keys(day: dict[str, Path]) -> None:
    instants, rain = messages(day["h048-ep.grib2"]), messages(day["h048-ep_024h.grib2"])
    assert set(instants) == {"2tl273", "10spg10"} and set(rain) == {"tpg5", "tpg10"}  # 17.5 and 280 have no name
    about = ("productDefinitionTemplateNumber", "probabilityType", "type", "stepRange", "units")
    assert keys(instants["10spg10"], *about) == [5, 3, "ep", "48", "%"]
    assert keys(instants["2tl273"], *about) == [5, 0, "ep", "48", "%"]
    assert keys(rain["tpg10"], *about) == [9, 3, "ep", "24-48", "%"]


def test_values_are_the_statistics(ensemble: Config, day: dict[str, Path]) -> None:
    means, spreads = (messages(day[f"h048-{kind}.grib2"]) for kind in ("em", "es"))
    for name, short in (("2t", "2t"), ("10si", "10si"), ("ws_850", "ws")):
        fields = expected(ensemble, name, 48)
        scale = float(np.ptp(fields)) / 2**12
        assert np.abs(values(means[short]) - fields.mean(0)).max() <= scale
        assert np.abs(values(spreads[short]) - fields.std(0)).max() <= scale
    rain = expected(ensemble, "tp", 48, 24)
    scale = float(np.ptp(true_fields(ensemble, 1, 48)["tp"])) / 2**14
    sure = (np.abs(rain - 10) > scale).all(0)
    found = values(messages(day["h048-ep_024h.grib2"])["tpg10"])
    assert np.abs(found - 100 * (rain >= 10).mean(0))[sure].max() <= 0.07
    assert keys(means["ws"], "typeOfLevel", "level") == ["isobaricInhPa", 850]


def test_a_short_ensemble_counts_its_members(ensemble: Config, tmp_path: Path) -> None:
    paths = written(changed(ensemble), "h006_024", tmp_path, members=[1, 3])
    message = messages(paths["h024-em.grib2"])["2t"]
    assert keys(message, "numberOfForecastsInEnsemble") == [2]
    assert np.abs(values(message) - expected(ensemble, "2t", 24, members=(1, 3)).mean(0)).max() < 0.05
    assert read_index(paths["h024-em.index"])[0]["_members"] == "1,3"


def test_missing_values_are_missing_in_grib(ensemble: Config) -> None:
    maker = MessageMaker(ensemble, RegularGrid(ensemble), 3)
    field = np.linspace(270, 280, 121 * 240, dtype=np.float32).reshape(121, 240)
    field[3, 4:9] = np.nan
    message, _ = maker.statistic("em", "2t", 24, 0, field)
    assert keys(message, "numberOfMissing", "bitmapPresent") == [5, 1]
    maker.close()


@pytest.mark.parametrize("file", EVERY_KIND)
def test_cfgrib_reads_every_message(day: dict[str, Path], file: str) -> None:
    path = day[f"{file}.grib2"]
    found = {
        variable.attrs["GRIB_shortName"]: variable.to_numpy()
        for data in cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""})
        for variable in data.data_vars.values()
    }
    there = messages(path)
    assert set(found) == set(there)
    for name, message in there.items():
        np.testing.assert_allclose(found[name], values(message), rtol=1e-6)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="CDO is not installed (Debian: cdo)")
@pytest.mark.parametrize("file", [*(f"{kind}.grib2" for kind in EVERY_KIND), "h030-048-ens.nc", "h030-048-ens_024h.nc"])
def test_cdo_reads_every_field(day: dict[str, Path], file: str) -> None:
    ran = subprocess.run(
        ["cdo", "-s", "outputtab,name,value", "-selindexbox,40,40,61,61", str(day[file])],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "skipped" not in ran.stderr and "nsupported" not in ran.stderr
    rows = [line.split() for line in ran.stdout.splitlines() if line and not line.startswith("#")]
    if file.endswith(".grib2"):
        there = messages(day[file])
        assert [float(row[1]) for row in rows] == pytest.approx([values(m)[60, 39] for m in there.values()], rel=1e-4)
        for name, row in zip(there, rows, strict=True):
            assert row[0] in (name, _OLD_NAMES.get(name))
    else:
        import netCDF4

        with netCDF4.Dataset(day[file]) as data:
            counts = {
                n: int(np.prod(v.shape[:-2])) for n, v in data.variables.items() if v.dimensions[-1] == "longitude"
            }
        counts.pop("longitude")
        assert {name: sum(row[0] == name for row in rows) for name in counts} == counts
