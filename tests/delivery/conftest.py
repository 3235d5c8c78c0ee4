"""Destinations to test against: a folder, and a bucket of a server on loopback."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubles.gcs_fault_proxy import FaultProxy, fault_proxy
from doubles.gcs_server import gcs_server

_COUNT = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a storage server with the bucket ``ensembles``."""
    with gcs_server() as url:
        yield url


@pytest.fixture
def gcs(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The server behind a proxy, which breaks nothing until it gets a schedule; clients find it by themselves."""
    with fault_proxy(server) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@pytest.fixture(params=["folder", "gs"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty destination of each kind."""
    if request.param == "folder":
        return str(tmp_path / "destination")
    request.getfixturevalue("gcs")
    return f"gs://ensembles/{next(_COUNT)}"


@pytest.fixture
def bucket(gcs: FaultProxy) -> Callable[[], str]:
    """Return fresh destinations in the bucket."""
    return lambda: f"gs://ensembles/{next(_COUNT)}"
