"""The stage of products killed at random points, over and over: the same bytes as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from waiting import wait_until

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
    wanted = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["products"]
    wanted["weekly"] |= {"hours": 6, "periods": [6, 12]}
    # an Icechunk repository names its files by chance, and the page lists them; tests/products compare what it holds
    wanted["cube"] = {"enabled": False}
    fresh.configure(products=wanted)
    fresh.run("products")
    expected = digests(fresh)
    assert len(expected) > 5

    # stamps are no outputs: what has none stays as it is. They are compared at the end.
    products = [fresh.results / name for name in expected if not name.startswith("products/stamps/")]

    def there() -> int:
        return sum(path.exists() for path in products)

    chance = random.Random(20261128)
    interrupted = 0
    for _ in range(KILLS):
        for path in chance.sample(products, k=len(products) // 2):
            path.unlink(missing_ok=True)
        # by what is there again, not by the clock, which a busy machine would make fall before or after the work
        enough = chance.randrange(there(), len(products))
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--profile", "local", "products"],
            cwd=fresh.folder, env=os.environ | {"PYTHONPATH": ""}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda enough=enough: there() >= enough, process)
        time.sleep(chance.uniform(0, 0.5))
        interrupted += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert interrupted > KILLS // 2
    fresh.run("products")
    assert digests(fresh) == expected
    left = [path.name for path in fresh.results.rglob(".*") if path.is_file()]
    assert not left, left
