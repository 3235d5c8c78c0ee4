"""The stage of products in a real run: made with the ensemble, made again where a member was, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr

from workflow.project import Project

pytestmark = pytest.mark.workflow
PRODUCTS = {
    "members": {"enabled": True},
    "weekly": {"enabled": True, "hours": 6, "periods": [6, 600]},
    "pictures": {"enabled": True, "variables": ["2t"], "areas": ["east-africa"], "places": {"Nairobi": [-1.29, 36.82]}},
    "page": {"enabled": True},
}


def made(project: Project) -> dict[str, int]:
    """Return the files of the stage with their times."""
    return {
        str(path.relative_to(project.results)): path.stat().st_mtime_ns
        for path in sorted([*project.results.rglob("*.nc"), *project.results.glob("products/*/*.png")])
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
    # of 12 h there is one map a kind and theme, of 2 m temperature, and of three variables over one period
    pictures = [name for name in first if name.endswith(".png")]
    assert "products/maps/2t_mean_east-africa_h012-light.png" in pictures and len(pictures) == 2 * (5 + 3 * 3) + 2
    assert sorted(first) == sorted([*members, "products/weekly/ensemble.nc", *weekly, *pictures])
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
    assert changed == {members[1], weekly[1], "products/weekly/ensemble.nc", *pictures}
    assert set(second) == set(first)

    # one that is lost is made alone, by its name too, and no forecast for it
    (project.results / weekly[0]).unlink()
    leads = project.leads()
    project.run(f"results/{project.results.name}/{weekly[0]}")
    assert (project.results / weekly[0]).exists() and project.leads() == leads
    (project.results / pictures[0]).unlink()
    project.run(f"results/{project.results.name}/{pictures[0]}")
    assert (project.results / pictures[0]).exists() and project.leads() == leads
