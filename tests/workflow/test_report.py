"""`make report` after a run: one page with everything in it."""

from __future__ import annotations

import json
import re

import pytest
from aifs_ensemble.common.config import read_files

from workflow.project import CYCLE, ROOT, Project

pytestmark = pytest.mark.workflow


def test_the_report_has_its_contents(fresh: Project) -> None:
    """By the command of the Makefile: categories, what is in them by label, in one theme, and the first page."""
    recipe = re.search(
        r"^report:.*\n\t\$\(BIN\)/snakemake --profile local (.*)$", (ROOT / "Makefile").read_text(), re.M
    )
    assert recipe, "make report runs something else"
    fresh.run(*recipe[1].split())
    page = (fresh.folder / "report.html").read_text()
    found = re.search(r"var categories = (\{.*\});?$", page, re.M)
    assert found
    categories = {
        name: [path for paths in parts.values() for path in paths] for name, parts in json.loads(found[1]).items()
    }
    base = f"scratch/{CYCLE}/report"
    assert categories["Ensemble"] == [f"{base}/members.html"]
    assert categories["Initial conditions"] == [f"{base}/initial_spread.html"]
    assert categories["Fields"] == [f"{base}/fields/fields-light.png"]
    assert len(categories["Account"]) == 4 and all(path.endswith("-light.png") for path in categories["Account"])
    results = re.search(r"var results = (\{.*\});?$", page, re.M)
    assert results
    for path, content in json.loads(results[1]).items():
        assert content["labels"]["what"] not in ("", path)
    assert f"AIFS ENS ensemble of {CYCLE}, model {read_files(ROOT / 'config' / 'config.yaml')['model']}" in page
