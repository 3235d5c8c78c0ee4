"""What is said of clocks that differ."""

from __future__ import annotations

import os
import time
from pathlib import Path

from aifs_ensemble.workflow.preflight import inputs_from_the_future
from delivery.members import make_config


def test_inputs_from_the_future_are_named(tmp_path: Path) -> None:
    checkpoint, fields = tmp_path / "c.ckpt", tmp_path / "f.grib2"
    config = make_config(
        tmp_path / "scratch",
        str(tmp_path / "out"),
        checkpoint=str(checkpoint),
        initial_conditions={"source": "file", "file": {"path": [str(fields), str(tmp_path / "{member}.grib2")]}},
    )
    assert list(inputs_from_the_future(config)) == []  # nothing there
    for path in (checkpoint, fields):
        path.touch()
    assert list(inputs_from_the_future(config)) == []
    os.utime(fields, (time.time() + 7200,) * 2)
    (line,) = inputs_from_the_future(config)
    assert line.startswith(f"{fields}: ") and "ahead of this machine's clock: set the clock, or touch the file" in line
