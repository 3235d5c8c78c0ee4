"""The page in a headless Chromium: clicks, slider, keyboard, light and dark, a phone; and no error in its console."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from chromium import emulate, needs_chromium, wait_until
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

pytestmark = needs_chromium


class Page:
    """The page as a reader uses it."""

    def __init__(self, browser: webdriver.Chrome, address: str):
        self.browser = browser
        browser.get_log("browser")  # what other pages said
        browser.get("about:blank")
        browser.get(address)
        self.shown("map")

    def at(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def shown(self, name: str) -> str:
        """Return the file of a picture, once the browser has it."""
        script = f"const i = document.getElementById('{name}'); return i.complete && i.naturalWidth > 0"
        wait_until(
            lambda: self.browser.execute_script(script), f"{name} is not shown: {self.at(name).get_attribute('src')}"
        )
        return str(self.at(name).get_attribute("src")).rpartition("/")[2]

    def press(self, *keys: str) -> str:
        body = self.browser.find_element(By.TAG_NAME, "body")
        for key in keys:
            body.send_keys(key)
        return self.shown("map")

    def choose(self, name: str, text: str) -> str:
        Select(self.at(name)).select_by_visible_text(text)
        return self.shown("map")

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def lost(self) -> list[str]:
        """Return the pictures of all choices, in both themes, that the browser cannot show, and dead links."""
        return self.browser.execute_async_script(
            """
            const done = arguments[0], tried = [];
            const tries = path => tried.push(new Promise(good => {
              const image = new Image();
              image.onload = () => good(null);
              image.onerror = () => good(path);
              image.src = path;
            }));
            for (const theme of ["light", "dark"]) {
              for (const series of data.series) for (const kind of series.kinds) for (const area of data.areas)
                for (const when of series.whens)
                  tries(`products/maps/${series.name}_${kind.name}_${area.name}_${when.name}-${theme}.png`);
              for (const place of data.places) tries(`products/meteograms/${place.name}-${theme}.png`);
              for (const figure of data.figures) tries(figure.replace("THEME", theme));
            }
            Promise.all(tried).then(all => done([tried.length, all.filter(Boolean)]));
            """
        )


@pytest.fixture
def address(site: Config) -> str:
    return (Path(str(site.destination)) / site.cycle / "index.html").as_uri()


@pytest.fixture
def open_page(browser: webdriver.Chrome, address: str) -> Page:
    emulate(browser)
    Page(browser, address)
    browser.execute_script("localStorage.clear()")
    browser.get("about:blank")
    return Page(browser, address)


def test_keyboard_slider_and_choices(open_page: Page) -> None:
    page = open_page
    assert page.shown("map") == "2t_mean_globe_h012-light.png"
    assert page.press(Keys.ARROW_RIGHT) == "2t_mean_globe_h024-light.png"
    assert page.at("valid").text == "Wednesday 20 August 2025, 00 UTC, 1 day after the start"
    assert (
        page.press(Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        == "2t_mean_globe_h012-light.png"
    )
    assert page.press(Keys.END) == "2t_mean_globe_h048-light.png" and not page.at("on").is_enabled()
    # another parameter keeps the time, area and what is shown
    assert page.press("a", "s", "p") == "tp_spread_east-africa_h048-light.png"
    assert Select(page.at("series")).first_selected_option.text == "Precipitation in 24 hours"
    # which it has no map of before a day has passed
    assert page.press(Keys.HOME) == "tp_spread_east-africa_h024-light.png"
    assert page.choose("series", "2 m temperature") == "2t_spread_east-africa_h024-light.png"
    assert page.choose("kind", "Probability of at least 30 °C") == "2t_over-30_east-africa_h024-light.png"
    # what the next parameter does not have gives way to the mean
    assert page.choose("series", "Precipitation in 24 hours") == "tp_mean_east-africa_h024-light.png"
    page.at("on").click()
    assert page.shown("map") == "tp_mean_east-africa_h036-light.png"
    page.at("time").send_keys(Keys.ARROW_RIGHT)
    assert page.shown("map") == "tp_mean_east-africa_h048-light.png"
    page.browser.execute_script(
        "const t = arguments[0]; t.value = 0; t.dispatchEvent(new Event('input'))", page.at("time")
    )
    assert page.shown("map") == "tp_mean_east-africa_h024-light.png"
    assert page.choose("series", "2 m temperature, mean of 1 day") == "tas-24h_mean_east-africa_p1-light.png"
    assert page.at("maplink").get_attribute("href").endswith("tas-24h_mean_east-africa_p1-light.png")
    assert "Ensemble mean" in page.at("map").get_attribute("alt")
    assert page.console() == []


def test_it_plays_and_stops(open_page: Page) -> None:
    first = open_page.shown("map")
    open_page.at("play").click()
    wait_until(lambda: open_page.shown("map") != first, "it does not play")
    open_page.at("play").click()
    assert open_page.at("play").text == "Play"


def test_places(open_page: Page) -> None:
    assert open_page.shown("meteogram") == "nairobi-light.png"
    buttons = open_page.at("placenames").find_elements(By.TAG_NAME, "button")
    buttons[1].click()
    assert open_page.shown("meteogram") == "zurich-light.png"
    assert open_page.at("placedata").get_attribute("href").endswith("products/meteograms/zurich.json")
    assert open_page.console() == []


def test_light_and_dark(browser: webdriver.Chrome, open_page: Page, address: str) -> None:
    paper = lambda page: page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    assert paper(open_page) == "rgb(255, 255, 255)"
    emulate(browser, dark=True)  # the reader's system turns dark
    wait_until(lambda: open_page.shown("map").endswith("-dark.png"), "it stays light")
    assert paper(open_page) == "rgb(20, 24, 29)" and open_page.shown("meteogram") == "nairobi-dark.png"
    open_page.at("theme").click()  # the reader wants light all the same, and the next time too
    assert open_page.shown("map").endswith("-light.png")
    # the browser hands what a page has stored to the next one in its own time
    wait_until(lambda: Page(browser, address).shown("map").endswith("-light.png"), "it forgets")
    assert open_page.press("d").endswith("-dark.png")
    assert open_page.console() == []


def test_an_address_names_a_picture(browser: webdriver.Chrome, open_page: Page, address: str) -> None:
    assert (
        Page(browser, f"{address}#tp/over-10/east-africa/h036").shown("map") == "tp_over-10_east-africa_h036-light.png"
    )
    for nonsense in ("#nothing", "#tp/over-10/nowhere/h999", "#%00/a/b/c"):
        assert Page(browser, address + nonsense).console() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_desk(browser: webdriver.Chrome, address: str, width: int, dark: bool) -> None:
    emulate(browser, width=width, dark=dark)
    page = Page(browser, address)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert "Untrained model: this is not a forecast" in browser.find_element(By.CLASS_NAME, "warned").text
    assert page.at("legend").is_displayed() == (width == 390)
    if width == 390:
        # what a finger must meet
        for control in browser.find_elements(By.CSS_SELECTOR, "main select, .time button, .places button"):
            assert control.size["height"] >= 40
    assert page.console() == []


def test_every_picture_of_every_choice_can_be_shown(open_page: Page) -> None:
    count, lost = open_page.lost()
    assert count > 100 and lost == []
    assert open_page.console() == []


def test_a_dead_link_is_seen(browser: webdriver.Chrome, site: Config, tmp_path: Path) -> None:
    """What the other tests rely on: a lost picture is an error in the console, and is named."""
    folder = tmp_path / "results"
    shutil.copytree(Path(str(site.destination)) / site.cycle, folder)
    (folder / "products/maps/tp_mean_globe_h036-dark.png").unlink()
    page = Page(browser, (folder / "index.html").as_uri())
    assert page.lost()[1] == ["products/maps/tp_mean_globe_h036-dark.png"]
    assert any("tp_mean_globe_h036-dark.png" in message for message in page.console())


def test_it_works_from_a_server_too(browser: webdriver.Chrome, site: Config) -> None:
    """As from a bucket: relative links below a prefix."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site.destination)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        emulate(browser)
        page = Page(browser, f"http://127.0.0.1:{server.server_port}/{site.cycle}/index.html")
        assert page.press(Keys.END).startswith("2t_mean_globe_h048-")
        assert page.lost()[1] == [] and page.console() == []
    finally:
        server.shutdown()
        server.server_close()
