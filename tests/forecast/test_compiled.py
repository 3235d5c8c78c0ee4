"""A compiled forecast takes what another machine compiled, and makes the same bytes. Minutes: `pytest -m long`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

# says what inductor found in its cache and what it compiled
RUN = """
import json, sys
from pathlib import Path
from aifs_ensemble.common.config import Config
from aifs_ensemble.workflow.member_job import run_member
config = Config(json.loads(sys.argv[1]))
manifest = run_member(config, 1, initial_state=Path(sys.argv[2]), checkpoint=Path(sys.argv[3]),
                      manifest=config.scratch.manifest(1))
from torch._dynamo.utils import counters
seen = counters["inductor"]
print(json.dumps({"hits": seen["fxgraph_cache_hit"], "misses": seen["fxgraph_cache_miss"],
                  "digest": manifest.content_digest}))
"""


def test_the_second_machine_compiles_nothing(tmp_path: Path, root: Path) -> None:
    raw = read_files(root / "config" / "config.yaml")
    settings = {"members": "1", "lead_hours": 24, "forecast": {"compile": True, "encoders": 1, "progress": False}}
    merge(raw, settings | {"delivery": {"streaming": True}})
    initial, checkpoint = tmp_path / "initial.safetensors", tmp_path / "demo.ckpt"
    found = []
    for machine in ("first", "second"):
        paths = {"scratch": str(tmp_path / machine), "destination": str(tmp_path / "destination")}
        config = Config(raw | paths)
        if not checkpoint.exists():
            provide_checkpoint(config.model, checkpoint)
            build_member(config, 1, initial)
        # the second machine makes the member again
        (tmp_path / "destination" / config.cycle).rename(tmp_path / "kept") if machine == "second" else None
        command = [sys.executable, "-c", RUN, json.dumps(config.to_dict()), str(initial), str(checkpoint)]
        environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = found
    assert first["misses"] > 0 and first["hits"] == 0
    assert second["misses"] == 0 and second["hits"] == first["misses"]
    assert second["digest"] == first["digest"]
