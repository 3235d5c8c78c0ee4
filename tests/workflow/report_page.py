"""`make report`, and Snakemake's report in a browser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from chromium import emulate, wait_until
from selenium import webdriver
from selenium.webdriver.common.by import By

from workflow.project import ROOT


def recipe() -> list[str]:
    """Return what `make report` runs, after the profile."""
    said = subprocess.run(["make", "-n", "report"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(r"/snakemake --profile local (.*)$", said.replace("\\\n", ""), re.M)
    assert found, said
    return found[1].split()


class Report:
    """Snakemake's report as a reader uses it."""

    def __init__(self, browser: webdriver.Chrome, path: Path, **like: Any):
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
