"""`forecast.output` in a real run: daily statistics and an area, delivered, verified, with products of coarse leads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble import open_ensemble
from aifs_ensemble.fields.grib_check import messages
from aifs_ensemble.fields.grib_index import read_fields

from workflow.project import CYCLE, Project, jobs_run

pytestmark = pytest.mark.workflow
OUTPUT = {
    "variables": ["2t", "msl", "10u", "10v"],
    "daily": {"2t": ["mean", "max", "min"], "tp": ["sum"]},
    "area": "east-africa",
}
PRODUCTS = {
    "coarse": {"enabled": True},
    "members": {"enabled": True, "variables": ["2t", "msl"]},
    "statistics": {"enabled": True, "variables": ["2t", "10si"], "at_least": {}, "windows": [6]},
    "page": {"enabled": True},
}


def lead(project: Project, member: int, hours: int) -> Path:
    return project.results / "forecasts" / f"aifs_ens_forecast_{CYCLE}_member{member:03d}_h{hours:03d}.grib2"


@pytest.mark.timeout(900)
def test_statistics_and_an_area_are_delivered_with_products_of_the_globe(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project")
    config = {"members": "1-2", "lead_hours": 24, "forecast": {"output": OUTPUT, "progress": False}}
    project.configure(**config, products=PRODUCTS)
    refused = project.snakemake("-n", "--config", "products={cube: {enabled: true}}")
    assert project.code != 0 and "products.cube: needs leads of the whole globe" in refused
    planned = project.command("plan", "--profile", "local")
    assert (
        "4 of 100 fields at 4 of 4 leads and 4 daily statistics, of a part of the globe, which saves" in planned.stdout
    )
    project.run()
    assert json.loads((project.results / "manifest.json").read_text())["state"] == "complete"
    assert [len(list(messages(lead(project, 1, hours)))) for hours in (6, 12, 18, 24)] == [4, 4, 4, 8]
    verified = project.command("verify", "--profile", "local", "--deep")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    checked = project.command("inspect", str(project.results / "forecasts"), "--quiet")
    assert checked.returncode == 0, checked.stdout

    instants = np.stack([read_fields(lead(project, 1, hours), param="2t")[0] for hours in (6, 12, 18, 24)])
    days = {name: read_fields(lead(project, 1, 24), param=name)[0] for name in ("avg_2t", "mx2t24", "mn2t24")}
    for name, statistic in (("avg_2t", np.mean), ("mx2t24", np.max), ("mn2t24", np.min)):
        np.testing.assert_allclose(days[name], statistic(instants, axis=0), atol=0.02)  # of the packing
    assert 0 < np.isfinite(instants[0]).sum() < instants[0].size

    with xr.open_dataset(project.results / "1p5deg_nc" / "aifs_ensemble_forecast_1p5deg_member001.nc") as file:
        assert np.isfinite(file["2t"]).all() and file["2t"].sizes["longitude"] == 240
    assert list((project.results / "products" / "ensemble").glob("*.nc"))
    data = open_ensemble(str(project.results), variables=["msl"])
    there = data["msl"].isel(time=0, number=0).load()
    assert data.attrs["members"] == "1-2" and there.notnull().sum() == np.isfinite(instants[0]).sum()
    assert float(data["latitude"].where(there.notnull()).max()) <= 19

    again = project.run("--config", "forecast={output: {every_hours: 12}}")
    assert jobs_run(again, "forecast_member") == []
    other = project.snakemake("-n", "--config", "forecast={output: {area: null}}")
    assert project.code != 0 and "leads of 19/21/-12/53, not of the globe (forecast.output.area)" in other
