"""Real weather through the whole workflow: the replica of open data on loopback, the real client, snakemake.

The leads go to 12 h here to save time; AIFS_REAL_DATA_HOURS sets another end, and benchmarks/real_data.py
does 72 h and prints the figures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.names import lead_file, lead_hours
from aifs_ensemble.fields.grids import grid_coordinates
from doubles.opendata_server import OpenDataServer, serve

from workflow.project import CYCLE, Project
from workflow.realdata import (
    correlation,
    manifest,
    requests_by_kind,
    settings,
    t500,
    t500_with_cfgrib,
    t500_with_eccodes,
)

pytestmark = pytest.mark.workflow
HOURS = int(os.environ.get("AIFS_REAL_DATA_HOURS", "12"))
MEMBERS = (1, 2, 3)
INPUTS_PER_TIME = 88  # 8 at the surface, 2 of the soil, 6 on 13 pressure levels


@pytest.fixture(scope="module")
def replica(shared_data: Path) -> Path:
    return shared_data / "opendata-replica"


@pytest.fixture(scope="module")
def run(replica: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, OpenDataServer]]:
    """Members 1 to 3, run once, and the server that they came from."""
    with serve(replica) as server:
        folder = tmp_path_factory.mktemp("real") / "project"
        project = Project.copy(folder, **settings(server.url, "1-3", HOURS))
        project.run()
        yield project, server


def test_every_lead_is_delivered(run: tuple[Project, OpenDataServer]) -> None:
    project, _ = run
    wanted = {lead_file(CYCLE, member, lead) for member in MEMBERS for lead in lead_hours(HOURS)}
    assert {name for name in project.leads() if name.endswith(".grib2")} == wanted
    assert manifest(project)["state"] == "complete"


def test_cfgrib_reads_what_eccodes_reads(run: tuple[Project, OpenDataServer]) -> None:
    project, _ = run
    for member in MEMBERS:
        path = project.results / "forecasts" / lead_file(CYCLE, member, 6)
        field = t500_with_cfgrib(path)
        assert int(field.number) == member
        assert field.step.values == np.timedelta64(6, "h")
        assert field.valid_time.values == np.datetime64("2025-08-19T06:00")
        assert field.attrs["units"] == "K"
        np.testing.assert_allclose(field.values, t500_with_eccodes(path), rtol=1e-6)


def test_the_input_is_the_weather_that_was_served(run: tuple[Project, OpenDataServer], replica: Path) -> None:
    project, _ = run
    grib = replica / "20250819" / "00z" / "ifs" / "0p25" / "enfo" / "20250819000000-0h-enfo-ef.grib2"
    source, model = grid_coordinates("2.5x2.5"), grid_coordinates("N32")
    for member in MEMBERS:
        served = t500_with_eccodes(grib, perturbationNumber=member)
        assert np.average(t500(project, member).before, weights=model.weights) == pytest.approx(
            np.average(served, weights=source.weights), abs=0.05
        )


def test_t500_of_step_6_is_plausible_and_close_to_the_input(run: tuple[Project, OpenDataServer]) -> None:
    project, _ = run
    for member in MEMBERS:
        field = t500(project, member)
        assert field.after.min() > 190
        assert field.after.max() < 310
        assert correlation(field.before, field.after) > 0.9
        # the change is the model's, not that of 16 bits, which is 0.0004 K
        assert np.sqrt(np.mean((field.after - field.before) ** 2)) > 0.01


def test_members_differ_as_their_own_inputs_do(run: tuple[Project, OpenDataServer]) -> None:
    project, _ = run
    fields = [t500(project, member) for member in MEMBERS]
    before = np.stack([field.before for field in fields])
    after = np.stack([field.after for field in fields])
    before, after = before - before.mean(axis=0), after - after.mean(axis=0)
    assert (after.std(axis=1) > 0.05).all()
    # a member that started from another one's input would be closest to that one
    found = np.array([[correlation(b, a) for b in before] for a in after])
    assert (found.argmax(axis=1) == np.arange(len(MEMBERS))).all()
    assert np.diag(found).min() > 0.8


def test_index_and_constants_are_fetched_once_for_all_members(run: tuple[Project, OpenDataServer]) -> None:
    _, server = run
    asked = requests_by_kind(server.log)
    assert sorted(path.rsplit("/", 1)[1] for path, _ in asked["index"]) == [
        "20250818180000-0h-enfo-ef.index",
        "20250819000000-0h-enfo-ef.index",
        "20250819000000-0h-oper-fc.index",
    ]
    assert len(asked["constants"]) == 4
    assert len(asked["members"]) == len(MEMBERS) * 2 * INPUTS_PER_TIME
    assert {count for kind in asked.values() for count in kind.values()} == {1}


@pytest.fixture(scope="module")
def lacking(replica: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Members 4 and 5 of a service that has no member 5, run once."""
    with serve(replica) as server:
        project = Project.copy(tmp_path_factory.mktemp("lacking") / "project", **settings(server.url, "4-5", 6))
        project.said = project.snakemake()  # type: ignore[attr-defined]
        yield project


def test_a_member_that_the_service_lacks_fails_alone_in_one_line(lacking: Project) -> None:
    said = lacking.said  # type: ignore[attr-defined]
    assert lacking.code != 0
    log = lacking.folder / "logs" / "initial_member" / CYCLE / "member005.log"
    lines = [line for line in log.read_text().splitlines() if " ERROR " in line or " CRITICAL " in line]
    assert len(lines) == 1
    assert "member 5" in lines[0]
    assert "lacks" in lines[0]
    assert "127.0.0.1" in lines[0]
    assert "Traceback" not in log.read_text()
    assert lines[0].split(" ERROR ")[1] in said
    assert not list(lacking.folder.rglob("*member005*.grib2"))
    assert not list(lacking.folder.rglob("*member005.safetensors"))


def test_the_other_member_is_delivered_and_the_ensemble_says_what_is_missing(lacking: Project) -> None:
    said = lacking.said  # type: ignore[attr-defined]
    assert lead_file(CYCLE, 4, 6) in lacking.leads(4)
    found = manifest(lacking)
    assert (found["state"], found["delivered"], found["missing"]) == ("failed", "4", "5")
    assert "failed, 1 of 2 members, missing 5" in said
    assert not (lacking.results / "_SUCCESS").exists()


def test_min_members_makes_it_short_and_it_still_says_so(lacking: Project) -> None:
    lacking.configure(min_members=1)
    said = lacking.snakemake()
    assert lacking.code != 0
    assert "short, 1 of 2 members, missing 5" in said
    assert manifest(lacking)["state"] == "short"
    assert "missing 5" in (lacking.results / "_SUCCESS").read_text()
