"""The stage of products in a real run: made with the ensemble, made again where a member was, and only there."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.fields.grib_check import messages
from aifs_ensemble.products.cube.open import open_virtual
from doubles.opendata_replica import encode
from PIL import Image

from workflow.dry_runs import dry_run, jobs
from workflow.project import Project

pytestmark = pytest.mark.workflow
ENSEMBLE = ("product_weekly", "product_cube", "product_pictures", "product_page")
KEY = "numberOfForecastsInEnsemble"
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


def says_short(project: Project) -> None:
    """Assert that every product says that the ensemble has members 1 and 3 alone, of three."""
    said, folder = "2 of 3 members, short: without members 2", project.results / "products"
    for path in (folder / "weekly/ensemble.nc", *folder.glob("ensemble/*.nc")):
        with xr.open_dataset(path, decode_timedelta=False) as data:
            assert (data.attrs["ensemble"], data.attrs["members"]) == (said, "1,3"), path
            assert data.attrs["title"].endswith("short: without members 2, untrained model"), path
            assert len(data.attrs["member_digests"].split()) == 2
    gribs = [path for path in sorted(folder.glob("ensemble/*.grib2")) if path.stat().st_size]
    assert gribs
    for path in gribs:
        lines = [json.loads(line) for line in path.with_suffix(".index").read_text().splitlines()]
        assert {line["_members"] for line in lines} == {"1,3"}, path
        # GRIB's templates of probabilities have no such key
        sizes = {message.keys[KEY] for message in messages(path, [KEY])}
        assert sizes == {None if "-ep" in path.name else 2}, path
    cube = json.loads((folder / "cube.json").read_text())
    assert (cube["ensemble"], cube["members"]) == (said, "1,3")
    data = open_virtual(str(project.results))
    assert data.attrs["ensemble"] == said and data["number"].to_numpy().tolist() == [1, 3]
    for path in folder.glob("m*/*.png"):
        with Image.open(path) as image:
            assert "Short ensemble: without member 2" in "".join(map(str, image.text.values())), path
    page = (project.results / "index.html").read_text()
    assert "2 of 3 members" in page and "Short ensemble: without member 2" in page
    manifests = {n: json.loads((project.results / f"manifests/member{n:03d}.json").read_text()) for n in (1, 3)}
    digests = {str(n): manifest["content_digest"] for n, manifest in manifests.items()}
    stamps = list(folder.glob("stamps/*.json"))
    assert {path.stem for path in stamps} == {*ENSEMBLE, "product_statistics_h006_012"}
    assert all(json.loads(path.read_text()) == {"members": digests} for path in stamps)


def test_products_follow_their_members(tmp_path: Path) -> None:
    project = Project.copy(
        tmp_path / "project", members="1-3", min_members=2, lead_hours=12, forecast={"encoders": 1}, products=PRODUCTS
    )
    said = project.run()
    assert "products.weekly: 600-606 h not made, the forecast ends at 12 h" in said
    first = made(project)
    members = [f"1p5deg_nc/aifs_ensemble_forecast_1p5deg_member{n:03d}.nc" for n in (1, 2, 3)]
    weekly = [f"products/weekly/member{n:03d}.nc" for n in (1, 2, 3)]
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
    assert "3 members, model demo" in page and "nothing was rented" in page and pictures[0].split("_")[2] in page
    manifest = json.loads((project.results / "manifests/member002.json").read_text())
    with xr.open_dataset(project.results / members[1]) as data:
        assert data.attrs["member_digest"] == manifest["content_digest"]

    # a member that fails: the run goes on with those that are delivered, says so, and fails all the same
    (project.results / "manifests/member002.json").unlink()
    (project.scratch / "manifests/member002.json").unlink()
    shutil.rmtree(project.scratch / "work/member002")
    state = project.scratch / "initial/member002.safetensors"
    sound = state.read_bytes()
    state.write_bytes(b"no state")
    said = project.snakemake()
    assert project.code == 1 and "member002.safetensors: not a readable state" in said
    assert "products of the ensemble are made now, short: without members 2" in said
    failed, second_pass = said.split("products of the ensemble are made now")
    jobs_of_ensemble = {*ENSEMBLE, "product_statistics_h006_012"}
    assert jobs(failed) == {"forecast_member": [2]}
    assert jobs(second_pass) == {rule: [] for rule in jobs_of_ensemble}
    short = made(project)
    assert {name for name in short if short[name] != first[name]} == {*ensemble, *pictures}
    says_short(project)

    # when it comes it makes its own products again, and those of the ensemble
    state.write_bytes(sound)
    said = project.run()
    found = jobs(said)
    assert {rule for rule, made_for in found.items() if not made_for} == {"ensemble_manifest", *jobs_of_ensemble}
    of_member = ("forecast_member", "sync_member", "product_member", "product_weekly_member")
    assert {rule: made_for for rule, made_for in found.items() if made_for} == {rule: [2] for rule in of_member}
    second = made(project)
    changed = {name for name in second if second[name] != short[name]}
    assert changed == {members[1], weekly[1], *ensemble, *pictures}
    assert set(second) == set(first)
    with xr.open_dataset(project.results / "products/weekly/ensemble.nc") as data:
        assert data.attrs["ensemble"] == "3 of 3 members" and data.attrs["members"] == "1-3"
    assert "Short ensemble" not in (project.results / "index.html").read_text()

    # products of a member that nobody asks for any more, and a data set that lacks a file, are made again
    fewer = jobs(dry_run(project.folder, "--config", "members=1-2", "min_members=2"))
    assert fewer == {rule: [] for rule in ("ensemble_manifest", *jobs_of_ensemble)}
    next((project.results / "products/ensemble.icechunk").rglob("manifests/*")).unlink()
    assert jobs(dry_run(project.folder)) == {"product_cube": [], "product_page": []}
    verified = project.command("verify")
    assert verified.returncode == 9 and "data sets of the ensemble: " in verified.stderr
    project.run(f"results/{project.results.name}/products/cube.json")
    assert project.command("verify").returncode == 0

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
