"""Fixtures of the initial-conditions tests: a small replica of the service, configurations, GRIB files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.names import parse_cycle
from doubles.opendata_replica import MODEL, build_replica, encode, member_fields

CYCLE = "20250819_0000"
GRID = "10x10"


@pytest.fixture(scope="session")
def replica(tmp_path_factory) -> Path:
    """The cycle's files with members 1 and 2 on a 10-degree grid."""
    return build_replica(tmp_path_factory.mktemp("replica"), parse_cycle(CYCLE), [1, 2], GRID)


@pytest.fixture
def make_config(tmp_path) -> Callable[..., Config]:
    """Return a function that makes a configuration; keywords go into ``initial_conditions``."""

    def make(cycle: str = CYCLE, members: str = "1-2", **initial) -> Config:
        raw = {
            "model": "demo",
            "cycle": cycle,
            "members": members,
            "lead_hours": 6,
            "scratch": str(tmp_path / "scratch"),
            "initial_conditions": {"source": "idealised"},
        }
        merge(raw["initial_conditions"], initial)
        return Config(raw)

    return make


@pytest.fixture(scope="session")
def fields() -> dict[int, dict]:
    """Idealised fields of member 1 on the 10-degree grid, by hours before the cycle: -24, -6 and 0."""
    time = parse_cycle(CYCLE)
    return {hours: member_fields(GRID, time + timedelta(hours=hours), time, 1) for hours in (-24, -6, 0)}


@pytest.fixture(scope="session")
def encoded() -> dict:
    """GRIB messages by what is in them: encoding all fields for every test takes most of its time."""
    return {}


@pytest.fixture
def write_grib(tmp_path, fields, encoded) -> Callable[..., Path]:
    """Return a function that writes both times of member 1 to one GRIB file.

    `change(fields, hours)` may alter the fields by variable before they are encoded; `hours` gives the
    times relative to the cycle, `label` the hours written into the headers instead; `keys` are GRIB keys.
    """

    def write(change=None, hours=(-6, 0), label=None, name="input.grib2", **keys) -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            for source, labelled in zip(hours, label or hours, strict=True):
                time = parse_cycle(CYCLE) + timedelta(hours=labelled)
                content = dict(fields[source])
                if change:
                    content = change(content, source) or content
                for variable, values in content.items():
                    if variable in MODEL.constant and labelled:
                        continue
                    known = variable, labelled, values.tobytes(), tuple(sorted(keys.items()))
                    if known not in encoded:
                        encoded[known] = encode(variable, values, GRID, time, **{"bitsPerValue": 24, **keys})
                    file.write(encoded[known])
        return path

    return write
