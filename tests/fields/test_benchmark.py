"""The benchmark runs, at a size that says nothing of speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.parameters import split_variable


def test_the_encoding_benchmark_runs(tmp_path: Path, root: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, str(root / "benchmarks" / "encoding.py"), "--tiny", "--processes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    shown = subprocess.run(
        [*command, "--json", str(result)], env=environment, check=True, capture_output=True, text=True
    )
    content = json.loads(result.read_text())
    outputs = get_model("demo").outputs
    assert content["variables"] == len(outputs)
    assert {row["parameter"] for row in content["errors"]} == {split_variable(name)[0] for name in outputs}
    assert all(row["seconds"] > 0 for row in content["fields"].values())
    assert "x naive" in shown.stdout
