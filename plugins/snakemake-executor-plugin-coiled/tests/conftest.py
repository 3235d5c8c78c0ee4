"""Coiled's service on loopback, for the real client in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from coiled_server import CoiledServer
from coordinators import Coordinator, coordinator
from snakemake_executor_plugin_coiled.records import Journal


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CoiledServer]:
    import coiled  # noqa: F401  (puts its defaults into dask's configuration, which are gone after `set` otherwise)
    import dask.config

    made = CoiledServer(tmp_path / "machines", {"PATH": "/usr/bin:/bin"})
    with dask.config.set({"coiled.server": made.url, "coiled.token": "loopback-token", "coiled.workspace": None}):
        yield made
    made.close()
    assert not made.unknown, made.unknown


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def run(journal: Journal) -> Coordinator:
    return coordinator(journal)
