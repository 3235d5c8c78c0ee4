"""AIFS ENS v2 beside v1: a run of its demonstration from a replica of open data, through all stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.manifest import read_member_manifest
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import lead_file, parse_cycle
from aifs_ensemble.fields.grib_index import read_fields
from doubles.opendata_replica import build_replica
from doubles.opendata_server import serve

from workflow.project import Project
from workflow.realdata import settings

pytestmark = pytest.mark.workflow
MODEL = get_model("demo-v2")
CYCLE = "20260513_0000"
PRODUCTS = {
    "coarse": {"enabled": True, "variables": ["2t", "swh", "mwd"]},
    "members": {"enabled": True, "variables": ["2t", "swh", "mwd"]},
    "pictures": {"enabled": True, "variables": ["2t", "swh"]},
    "page": {"enabled": True},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A member of 12 h, with products."""
    replica = build_replica(
        tmp_path_factory.mktemp("replica"), parse_cycle(CYCLE), [1], "10x10", ("oper", "oper"), MODEL
    )
    with serve(replica) as server:
        folder = tmp_path_factory.mktemp("second") / "project"
        project = Project.copy(
            folder, **settings(server.url, "1", 12), model=MODEL.name, cycle=CYCLE, products=PRODUCTS
        )
        project.run()
        yield project


def results(project: Project) -> Path:
    return project.folder / "results" / CYCLE


def test_everything_is_delivered(project: Project) -> None:
    manifest = json.loads((results(project) / "manifest.json").read_text())
    assert manifest["state"] == "complete" and manifest["untrained"]
    member = read_member_manifest(results(project) / "manifests" / "member001.json")
    assert member.model == MODEL.name and member.fields == 2 * len(MODEL.delivered) == 238
    assert (member.versions["anemoi-models"], member.versions["torch-geometric"]) == ("0.11.2", "2.6.1")
    assert "Nothing to be done" in project.run()


def test_waves_are_missing_over_land_in_leads_and_products(project: Project) -> None:
    path = results(project) / "forecasts" / lead_file(CYCLE, 1, 12)
    (heights,), (direction,), (temperature,) = (read_fields(path, param=name) for name in ("swh", "mwd", "2t"))
    missing = np.isnan(heights)
    assert 0.1 < missing.mean() < 0.9 and not np.isnan(temperature).any()
    np.testing.assert_array_equal(np.isnan(direction), missing)
    assert np.nanmin(direction) >= 0 and np.nanmax(direction) < 360
    (file,) = results(project).rglob("*member001.nc")
    with xr.open_dataset(file) as product:
        assert 0.1 < np.isnan(product["swh"].values).mean() < 0.9
        assert not np.isnan(product["2t" if "2t" in product else "t2m"].values).any()


def test_a_deleted_lead_comes_back_with_the_same_bytes(project: Project) -> None:
    path = results(project) / "forecasts" / lead_file(CYCLE, 1, 12)
    before = path.read_bytes()
    path.unlink()
    project.run()
    assert path.read_bytes() == before


def test_jobs_without_the_packages_are_refused_in_one_line(project: Project, tmp_path: Path) -> None:
    elsewhere = ("members=1", f"scratch={tmp_path}/scratch", f"destination={tmp_path}/results")
    said = project.snakemake("--config", *elsewhere, environment={"AIFS_ENSEMBLE_OVERLAYS": str(tmp_path)})
    assert project.code
    (line,) = (line for line in said.splitlines() if "needs anemoi-models" in line)
    assert line.endswith("run `aifs-ensemble environments --overlays`, or take a machine's image that has them")
    assert not (tmp_path / "results").exists() and not list((tmp_path / "scratch").rglob("*.safetensors"))
