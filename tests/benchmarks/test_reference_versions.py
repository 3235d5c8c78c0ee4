"""The comparison of anemoi-inference's versions: it makes the steps, and says why a version makes none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "reference_versions.py"


def test_a_version_that_is_nowhere_fails_beside_the_installed_one() -> None:
    """Without a package index: nothing reaches the internet here."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "0.12.0"], check=False, capture_output=True, text=True, env=environment
    )
    installed, other = done.stdout.splitlines()
    said = re.escape(f"{version('anemoi-inference')} (installed): ")
    digests = re.fullmatch(said + r"(\S{12}) (\S{12}) (\S{12}) (\S{12})", installed)
    assert digests and len(set(digests.groups())) == 4, "each step is another state"
    assert other.startswith("0.12.0: ERROR: No matching distribution found") and done.returncode == 1
