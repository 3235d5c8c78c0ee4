"""The stage of products in a real run: made with the ensemble, made again where a member was, and only there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from doubles.opendata_replica import encode

from workflow.project import Project

pytestmark = pytest.mark.workflow
PRODUCTS = {
    "members": {"enabled": True},
    "weekly": {"enabled": True, "hours": 6, "periods": [6, 600]},
    "statistics": {"enabled": True, "variables": ["2t", "tp"], "windows": [6]},
    "cube": {"enabled": True, "regular": []},
    "evaluation": {"source": "file", "path": "analyses.grib2", "variables": ["2t"], "every_hours": 12},
    "pictures": {"enabled": True, "variables": ["2t"], "areas": ["east-africa"], "places": {"Nairobi": [-1.29, 36.82]}},
    "page": {"enabled": True},
}


def made(project: Project) -> dict[str, int]:
    """Return the files of the stage with their times."""
    return {
        str(path.relative_to(project.results)): path.stat().st_mtime_ns
        for path in sorted(
            [
                *project.results.rglob("*.nc"),
                *project.results.glob("products/*/*.grib2"),
                *project.results.glob("products/*/*.index"),
                *project.results.glob("products/cube.json"),
                *project.results.glob("products/m*/*.png"),
            ]
        )
    }


def test_products_follow_their_members(tmp_path: Path) -> None:
    project = Project.copy(
        tmp_path / "project", members="1-2", lead_hours=12, forecast={"encoders": 1}, products=PRODUCTS
    )
    said = project.run()
    assert "products.weekly: 600-606 h not made, the forecast ends at 12 h" in said
    first = made(project)
    members = [f"1p5deg_nc/aifs_ensemble_forecast_1p5deg_member{n:03d}.nc" for n in (1, 2)]
    weekly = [f"products/weekly/member{n:03d}.nc" for n in (1, 2)]
    statistics = {name for name in first if name.startswith("products/ensemble/aifs_ens_20250819_0000_")}
    assert {name[41:] for name in statistics} >= {"h006-em.grib2", "h012-ep_006h.index", "h006-012-ens_006h.nc"}
    assert len(statistics) == 2 * 2 * (2 * 3) + 2  # leads, instants and amounts, kinds with indexes; NetCDF
    ensemble = {"products/weekly/ensemble.nc", "products/cube.json", *statistics}
    # of 12 h there is one map a kind and theme, of 2 m temperature, and of three variables over one period
    pictures = [name for name in first if name.endswith(".png")]
    assert "products/maps/2t_mean_east-africa_h012-light.png" in pictures and len(pictures) == 2 * (5 + 3 * 3) + 2
    assert set(first) == {*members, *weekly, *ensemble, *pictures}
    assert f"open results/{project.results.name}/index.html in a browser" in said
    page = (project.results / "index.html").read_text()
    assert "2 members, model demo" in page and "nothing was rented" in page and pictures[0].split("_")[2] in page
    manifest = json.loads((project.results / "manifests/member002.json").read_text())
    with xr.open_dataset(project.results / members[1]) as data:
        assert data.attrs["member_digest"] == manifest["content_digest"]

    # a member that is made again makes its own products again, and those of the ensemble
    (project.results / "manifests/member002.json").unlink()
    (project.scratch / "manifests/member002.json").unlink()
    project.run()
    second = made(project)
    changed = {name for name in second if second[name] != first.get(name)}
    assert changed == {members[1], weekly[1], *ensemble, *pictures}
    assert set(second) == set(first)

    # one that is lost is made alone, by its name too, and no forecast for it
    spread = "products/ensemble/aifs_ens_20250819_0000_h012-es.grib2"
    leads = project.leads()
    alone = (weekly[0], spread, pictures[0])
    for lost in alone:
        (project.results / lost).unlink()
    project.run(*(f"results/{project.results.name}/{lost}" for lost in alone))
    assert project.leads() == leads
    assert all((project.results / lost).exists() for lost in alone)

    # scores need analyses, which products do without
    analysis, valid = np.full(121 * 240, 280.0), datetime(2025, 8, 19, 12, tzinfo=UTC)
    (project.folder / "analyses.grib2").write_bytes(encode("2t", analysis, "1.5x1.5", valid))
    project.run("evaluation")
    scores = sorted(path.name for path in (project.results / "products/evaluation").iterdir())
    figures = [f"scores_2t-{theme}.{kind}" for theme in ("dark", "light") for kind in ("png", "svg")]
    assert scores == ["scores.csv", "scores.nc", *figures] and project.leads() == leads
