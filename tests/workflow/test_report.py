"""`make report` after a run here: its pages, and the report in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.workflow.run_report import _picture, write_report
from chromium import needs_chromium
from delivery.members import make_config, make_member
from selenium import webdriver
from selenium.webdriver.common.by import By

from workflow.project import CYCLE, Project, jobs_run
from workflow.report_page import Report, recipe


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
def test_it_opens_in_a_browser(browser: webdriver.Chrome, reported: Path, dark: bool) -> None:
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
    assert (paper, ink) == (
        ("rgb(20, 24, 29)", "rgb(230, 234, 238)") if dark else ("rgb(255, 255, 255)", "rgb(31, 41, 51)")
    )
    shown = []
    for category in ("Account", "Ensemble", "Fields", "Initial conditions"):
        for label in report.rows(category):
            shown += report.pictures(report.rows(category)[label])
    assert len(shown) >= 5 and set(shown) == {"dark" if dark else "light"}
    assert report.errors() == []


@pytest.mark.workflow
@needs_chromium
def test_it_fits_a_phone(browser: webdriver.Chrome, reported: Path) -> None:
    report = Report(browser, reported, width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    state = next(one for one in browser.find_elements(By.CSS_SELECTOR, ".prose dd") if "of 2 members" in one.text)
    assert state.rect["x"] >= 0 and state.rect["x"] + state.rect["width"] <= 390, "the menu lies over it"
    report.pictures(report.rows("Fields")["Globe"])
    frame = browser.find_element(By.TAG_NAME, "iframe").rect
    assert frame["width"] >= 360 and frame["y"] + 200 <= 900


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
