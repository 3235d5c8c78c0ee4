"""The engine benchmark runs, at a size that says nothing of speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
@pytest.mark.long
def test_it_runs_side_by_side_and_compares_the_bytes(tmp_path: Path, root: Path) -> None:
    modes = ("forward-eager", "engine", "engine-2")
    command = [
        sys.executable, str(root / "benchmarks" / "forecast_engine.py"), "--model", "demo", "--scratch", str(tmp_path),
        "--steps", "12", "--reference-steps", "1", "--repeats", "1", "--encoders", "1", "--out", str(tmp_path / "out"),
        "--modes", *modes,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out").read_text())["modes"]
    assert set(found) == set(modes)
    assert all(result["step_seconds"] > 0 for result in found.values())
    assert found["engine-2"]["fields"] == 2 * found["engine"]["fields"] == 2 * 12 * 100
    assert "member 1 is the same to the byte in engine, engine-2" in done.stdout
    assert sum(found["engine"]["steps"]) < found["engine"]["timings"]["total"] < found["engine"]["wall_seconds"]
