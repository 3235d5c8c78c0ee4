"""The stage of products killed at random points, over and over: the same bytes as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from workflow.project import ROOT, Project

pytestmark = [pytest.mark.workflow, pytest.mark.long, pytest.mark.timeout(3600)]
KILLS = 20


def digests(project: Project) -> dict[str, str]:
    """Return the files of the stage by name with a digest of their bytes."""
    return {
        str(path.relative_to(project.results)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(project.results.rglob("*"))
        if path.is_file() and made_of_leads(path, project.results)
    }


def made_of_leads(path: Path, results: Path) -> bool:
    parts = path.relative_to(results).parts
    return parts[0] in ("1p5deg_nc", "products", "index.html")


def test_twenty_kills(fresh: Project) -> None:
    """Between kills some of what was made is lost, so that there is always work."""
    products = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["products"]
    products["weekly"] |= {"hours": 6, "periods": [6, 12]}
    # an Icechunk repository names its files by chance, and the page lists them; tests/products compare what it holds
    products["cube"] = {"enabled": False}
    fresh.configure(products=products)
    began = time.monotonic()
    fresh.run("products")
    whole, expected = time.monotonic() - began, digests(fresh)
    assert len(expected) > 5

    chance = random.Random(20261128)
    interrupted = 0
    for _ in range(KILLS):
        for name in chance.sample(sorted(digests(fresh)), k=len(digests(fresh)) // 2):
            (fresh.results / name).unlink()
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--profile", "local", "products"],
            cwd=fresh.folder, env=os.environ | {"PYTHONPATH": ""}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(chance.uniform(0.2, 1) * whole)
        except subprocess.TimeoutExpired:
            interrupted += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            fresh.run("--unlock")
    assert interrupted > KILLS // 2
    fresh.run("products")
    assert digests(fresh) == expected
    left = [path.name for path in fresh.results.rglob(".*") if path.is_file()]
    assert not left, left
