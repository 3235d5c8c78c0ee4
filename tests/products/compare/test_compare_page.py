"""The page of a comparison: it is HTML, nothing in it is dead; in a browser it shows maps, tables, and both themes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import html5lib
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.products.compare.fields import Ensemble
from aifs_ensemble.products.compare.page import comparison_page
from chromium import emulate, needs_chromium, wait_until
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from products.page.test_page import Elements, data_of


def test_it_is_html_and_nothing_in_it_is_foreign(compared: Path) -> None:
    text = (compared / "index.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)  # raises for what is no HTML
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", text)
    assert not re.search(r"\[\[[A-Z]+\]\]", text)
    ids = [attributes["id"] for _, attributes in Elements(text).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\bat\("([a-z]+)"\)', text)) <= set(ids)


def test_every_link_and_picture_is_there(compared: Path) -> None:
    text = (compared / "index.html").read_text()
    links = [link for link in Elements(text).links() if not link.startswith(("#", "data:"))]
    pages = [f"../../{model}/20250819_0000/index.html" for model in ("demo", "demo-v2")]
    assert set(pages) < set(links)  # the models' own pages are made by other jobs
    for link in set(links) - set(pages):
        assert (compared / unquote(link)).is_file(), link
    data = data_of(text)
    named = {
        f"maps/{series['name']}_{shown}_{area['name']}_{when['name']}-{theme}.png"
        for series in data["series"]
        for shown in (*data["models"], data["difference"])
        for area in data["areas"]
        for when in series["whens"]
        for theme in ("light", "dark")
    }
    assert named == {f"maps/{path.name}" for path in (compared / "maps").iterdir()}


def test_it_says_of_whom_it_is(compared: Path) -> None:
    text = " ".join(Elements((compared / "index.html").read_text()).text)
    for said in ("demo and demo-v2, 19 August 2025, 00 UTC", "demo: 3 members; demo-v2: 3 members",
                 "demo-v2: Untrained model: this is not a forecast", "A difference is demo-v2 less demo"):  # fmt: skip
        assert said in text


def test_a_name_ends_no_script(pair: Config, compared: Path) -> None:
    both = tuple(Ensemble.of(one.of_cycle(pair.cycle), (1,), ("2t",)) for one in pair.of_each_model)
    row = {"variable": "</script><b>", "area": "globe", "lead_hours": "6"}
    text = comparison_page((both[0], both[1]), compared, [row], [])
    assert text.count("</script>") == 2 and data_of(text)["differences"]["rows"][0][0] == "</script><b>"


@pytest.fixture
def page(browser: webdriver.Chrome, compared: Path) -> webdriver.Chrome:
    emulate(browser)
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get(f"file://{compared}/index.html")
    browser.execute_script("try { localStorage.clear(); } catch {}")
    return browser


def maps(page: webdriver.Chrome) -> list[str]:
    """Return the files of the maps, once the browser has them."""
    script = "return [...document.querySelectorAll('#three img')].every(i => i.complete && i.naturalWidth > 0)"
    wait_until(lambda: page.execute_script(script), "the maps are not shown")
    return [
        str(one.get_attribute("src")).rpartition("/")[2] for one in page.find_elements(By.CSS_SELECTOR, "#three img")
    ]


def cells(page: webdriver.Chrome, table: str) -> list[list[str]]:
    rows = page.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr")
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows]


def console(page: webdriver.Chrome) -> list[Any]:
    return [entry["message"] for entry in page.get_log("browser")]


@needs_chromium
def test_maps_of_both_and_their_difference_follow_the_choices(page: webdriver.Chrome) -> None:
    assert maps(page) == [f"2t_{shown}_globe_h024-light.png" for shown in ("demo", "demo-v2", "difference")]
    page.find_element(By.ID, "on").click()
    Select(page.find_element(By.ID, "series")).select_by_index(2)
    Select(page.find_element(By.ID, "area")).select_by_index(1)
    assert maps(page) == [f"10si_{shown}_east-africa_h048-light.png" for shown in ("demo", "demo-v2", "difference")]
    page.find_element(By.TAG_NAME, "body").send_keys("d")
    assert maps(page)[2] == "10si_difference_east-africa_h048-dark.png"
    assert page.find_element(By.ID, "theme").text == "Light" and console(page) == []


@needs_chromium
def test_tables_have_the_rows_of_the_choice(page: webdriver.Chrome, compared: Path) -> None:
    found = cells(page, "table")
    assert [row[0] for row in found] == ["12", "24", "36", "48"] and found[0][1].startswith("3.5")
    Select(page.find_element(By.ID, "variable")).select_by_visible_text("tp")
    Select(page.find_element(By.ID, "where")).select_by_visible_text("south")
    assert float(cells(page, "table")[0][1].replace("−", "-")) == pytest.approx(0, abs=1e-3)
    scores = cells(page, "scoretable")
    assert scores[0] == ["fair CRPS", "24", "1.25", "0.75", "−0.5"]
    best = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#scoretable td.best")]
    # the lower CRPS and the higher skill; equal errors, the bias and the spread have no better one
    assert best == ["0.75", "0.1"] and console(page) == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_maps_stand_below_each_other_and_nothing_is_cut_off(
    browser: webdriver.Chrome, page: webdriver.Chrome, dark: bool
) -> None:
    emulate(browser, width=390, dark=dark)
    page.refresh()
    maps(page)
    boxes = [one.rect for one in page.find_elements(By.CSS_SELECTOR, "#three img")]
    assert len({box["x"] for box in boxes}) == 1 and len({box["y"] for box in boxes}) == 3
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    assert page.execute_script("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    legends = page.find_elements(By.CSS_SELECTOR, "#three .legend")
    assert all(one.is_displayed() for one in legends) and console(page) == []
    emulate(browser, width=1440, dark=dark)
    boxes = [one.rect for one in page.find_elements(By.CSS_SELECTOR, "#three img")]
    assert len({box["y"] for box in boxes}) == 1, json.dumps(boxes)
