"""`make report`: its pages, and the report in a browser, after a run here and after one on rented machines."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.workflow.run_report import _picture, write_report
from chromium import browser, emulate, needs_chromium, wait_until  # noqa: F401 - a fixture
from delivery.members import make_config, make_member, make_real_member
from selenium import webdriver
from selenium.webdriver.common.by import By

from workflow.project import CYCLE, ROOT, Project, jobs_run
from workflow.rented.conftest import BUCKET, gcs, project, whole  # noqa: F401 - fixtures
from workflow.rented.conftest import Project as Rented

RAN_ON = {"type": "a2-ultragpu-1g", "region": "us-central1", "zone": "us-central1-a", "spot": False, "instance": "vm-1"}


def recipe() -> list[str]:
    """Return what `make report` runs, after the profile."""
    said = subprocess.run(["make", "-n", "report"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(r"/snakemake --profile local (.*)$", said.replace("\\\n", ""), re.M)
    assert found, said
    return found[1].split()


class Report:
    """Snakemake's report as a reader uses it."""

    def __init__(self, browser: webdriver.Chrome, path: Path, **like: Any):  # noqa: F811
        self.browser = browser
        emulate(browser, **like)
        browser.get_log("browser")  # what other pages said
        browser.get("about:blank")
        browser.get(path.as_uri())

    def first_page(self) -> dict[str, str]:
        """Return what the first page says, by name."""
        names, texts = (self.browser.find_elements(By.CSS_SELECTOR, f".prose {tag}") for tag in ("dt", "dd"))
        return dict(zip((one.text for one in names), (one.text for one in texts), strict=True))

    def menu(self) -> list[str]:
        return [one.text for one in self.browser.find_elements(By.CSS_SELECTOR, "nav li a")]

    def rows(self, category: str) -> dict[str, Any]:
        """Open a category from anywhere; return what opens its pages, by label."""
        self.browser.execute_script("app.showCategory(arguments[0])", category)
        found = self.browser.find_elements(By.CSS_SELECTOR, "nav tbody tr")
        return {row.find_element(By.TAG_NAME, "td").text: row.find_element(By.TAG_NAME, "a") for row in found}

    def pictures(self, opener: Any) -> list[str]:
        """Open a page; return which theme each of its pictures is shown in, once they are loaded."""
        opener.click()
        self.browser.switch_to.frame(self.browser.find_element(By.TAG_NAME, "iframe"))
        loaded = "return document.body && [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        wait_until(lambda: self.browser.execute_script(loaded), "a picture is not shown")
        shown = self.browser.execute_script(
            "return [...document.images].map(i => i.currentSrc === i.src ? 'light' : 'dark')"
        )
        self.browser.switch_to.default_content()
        return list(shown)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def reported(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run here, by the command of the Makefile."""
    copy = Project.of(finished, tmp_path_factory.mktemp("reported") / "project")
    said = copy.run(*recipe())
    assert jobs_run(said, "report_pages") == [] and "rule report_pages" in said
    assert not any(jobs_run(said, rule) for rule in ("forecast_member", "initial_member", "sync_member"))
    return copy.folder / "report.html"


@pytest.mark.workflow
def test_it_has_contents_by_label(reported: Path) -> None:
    page = reported.read_text()
    found = re.search(r"var categories = (\{.*\});?$", page, re.M)
    assert found
    named = {
        category: [Path(path).stem for paths in parts.values() for path in paths]
        for category, parts in json.loads(found[1]).items()
    }
    assert named["Ensemble"] == ["Members", "Summary"]
    assert named["Initial conditions"] == ["Spread over the members"]
    assert named["Fields"] == ["East Africa", "Globe"], "not every configured area"
    assert {"Members over machines", "Plan against actual"} <= set(named["Account"])
    results = re.search(r"var results = (\{.*\});?$", page, re.M)
    assert results
    for path, content in json.loads(results[1]).items():
        assert content["labels"] == {"page": Path(path).stem}
    assert f"logs/report/{CYCLE}/Fields/Globe.html" in page and str(reported.parent) not in page


@pytest.mark.workflow
@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_in_a_browser(browser: webdriver.Chrome, reported: Path, dark: bool) -> None:  # noqa: F811
    report = Report(browser, reported, dark=dark)
    said = report.first_page()
    assert said["Cycle"] == f"19 August 2025, 00 UTC ({CYCLE})"
    assert said["Model"].startswith("demo: untrained") and "not a forecast" in said["Warning"]
    assert said["State"] == "Complete: 2 of 2 members" and said["Cost"] == "nothing was rented"
    assert {"Account", "Ensemble", "Fields", "Initial conditions"} <= set(report.menu())
    paper, ink = browser.execute_script(
        "return [document.body, document.querySelector('.prose dd')].map((e, i) => "
        "getComputedStyle(e)[i ? 'color' : 'backgroundColor'])"
    )
    assert (paper, ink) == (("rgb(20, 24, 29)", "rgb(230, 234, 238)") if dark else ("rgb(255, 255, 255)", "rgb(31, 41, 51)"))
    shown = []
    for category in ("Account", "Ensemble", "Fields", "Initial conditions"):
        for label in report.rows(category):
            shown += report.pictures(report.rows(category)[label])
    assert len(shown) >= 5 and set(shown) == {"dark" if dark else "light"}
    assert report.errors() == []


@pytest.mark.workflow
@needs_chromium
def test_it_fits_a_phone(browser: webdriver.Chrome, reported: Path) -> None:  # noqa: F811
    report = Report(browser, reported, width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    state = next(one for one in browser.find_elements(By.CSS_SELECTOR, ".prose dd") if "of 2 members" in one.text)
    assert state.rect["x"] >= 0 and state.rect["x"] + state.rect["width"] <= 390, "the menu lies over it"
    report.pictures(report.rows("Fields")["Globe"])
    frame = browser.find_element(By.TAG_NAME, "iframe").rect
    assert frame["width"] >= 360 and frame["y"] + 200 <= 900


@pytest.fixture
def rented(whole: Rented, gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rented]:  # noqa: F811
    """A coordinator whose machines have delivered member 1 of 1-2 to the bucket."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    whole.env = {"STORAGE_EMULATOR_HOST": gcs, "DASK_COILED__SERVER": "http://127.0.0.1:9", "COILED_ANALYTICS": "false"}
    over: dict[str, Any] = {"members": "1-2", "lead_hours": 6, "destination": f"gs://{BUCKET}/reported"}
    config = whole.configure(min_members=1, delivery={"streaming": True}, **over)
    elsewhere = Config(config.to_dict() | {"scratch": str(tmp_path / "machine")})
    attempt = {"began": "2026-11-28T00:00:00+00:00", "ended": "2026-11-28T01:00:00+00:00", "outcome": "finished",
               "timings": {"total": 3600.0}, "machine": RAN_ON}  # fmt: skip
    made = replace(make_real_member(elsewhere, 1), machine=RAN_ON, attempts=(attempt,))
    write_member_manifest(elsewhere.scratch.manifest(1), made)
    deliver_member(elsewhere, 1)
    write_ensemble_manifest(elsewhere)
    yield whole


@pytest.mark.cloud
def test_a_rented_run_has_one(rented: Rented, request: pytest.FixtureRequest) -> None:
    """From the bucket alone, on the coordinator: nothing is rented for it, and member 2 is not made."""
    code, output = rented.run("--profile", "coiled-gpu", *recipe())
    assert code == 0, output
    folder = rented.folder / "logs" / "report" / CYCLE
    summary = (folder / "Ensemble" / "Summary.html").read_text()
    assert "Short: 1 of 2 members, without member 2" in summary and f"gs://{BUCKET}/reported" in summary
    cost = re.search(r"<dt>Cost</dt><dd><strong>\$([0-9.]+), .*; of members 1<", summary)
    hour = load_machines().machine("a2-ultragpu-1g").prices["us-central1"].on_demand
    assert cost and hour < float(cost[1]) < 1.6 * hour, "an hour of that machine, its start and Coiled's fee"
    assert {path.stem for path in (folder / "Fields").iterdir()} == {"Globe", "East Africa"}
    assert not (folder / "Initial conditions").exists()
    if needs_chromium.args[0]:
        pytest.skip("no chromium: the report was made, not looked at")
    report = Report(request.getfixturevalue("browser"), rented.folder / "report.html")
    assert report.first_page()["State"] == "Short: 1 of 2 members, without member 2"
    assert report.first_page()["Cost"].startswith(f"${cost[1]}")
    assert report.pictures(report.rows("Fields")["Globe"]) == ["light"] and report.errors() == []


def said_in(folder: Path) -> str:
    return (folder / "Ensemble" / "Summary.html").read_text()


def test_before_anything_is_made_it_has_the_planned_price(tmp_path: Path) -> None:
    config = make_config(tmp_path / "s", str(tmp_path / "there"))
    assert write_report(config, tmp_path / "pages", profile="coiled-gpu").state == "failed"
    usd = plan(plan_case(config, load_machines(), profile="coiled-gpu", work=everything(config), runs=())).chosen.usd
    assert "Failed: 0 of 2 members, without members 1-2" in said_in(tmp_path / "pages")
    assert f"${usd:.2f} on demand" in said_in(tmp_path / "pages")
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["Ensemble"]


def test_without_a_destination_it_is_of_scratch_and_old_pages_go(tmp_path: Path) -> None:
    named = make_config(tmp_path / "s", str(tmp_path / "there"), min_members=1)
    config = Config(named.to_dict() | {"destination": None})
    make_member(config, 2)
    (tmp_path / "pages" / "Fields").mkdir(parents=True)
    (tmp_path / "pages" / "Fields" / "Old.html").touch()
    write_report(config, tmp_path / "pages", profile="local")
    assert "Short: 1 of 2 members, without member 1" in said_in(tmp_path / "pages")
    assert not (tmp_path / "pages" / "Fields").exists()


def test_a_figure_too_large_for_a_frame_is_shown_in_one_theme(caplog: pytest.LogCaptureFixture) -> None:
    assert "prefers-color-scheme" in _picture("Globe", b"1" * 500_000, b"2" * 500_000)
    both = _picture("Globe", b"1" * 700_000, b"2" * 700_000)
    assert "prefers-color-scheme" not in both and len(both) * 4 / 3 < 2 << 20
    assert "shown in the light one alone" in caplog.text
