"""Destinations to test against: a folder, and a bucket of a server on loopback."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubles.gcs_server import gcs_server

_COUNT = itertools.count()


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """URL of a storage server; its bucket is ``ensembles``."""
    with gcs_server() as url:
        yield url


@pytest.fixture(params=["folder", "gs"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty destination of each kind."""
    if request.param == "folder":
        return str(tmp_path / "destination")
    request.getfixturevalue("gcs")
    return f"gs://ensembles/{next(_COUNT)}"


@pytest.fixture
def bucket(gcs: str) -> Callable[[], str]:
    """Return fresh destinations in the bucket."""
    return lambda: f"gs://ensembles/{next(_COUNT)}"
