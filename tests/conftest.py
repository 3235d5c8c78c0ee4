"""Fixtures that several areas of tests share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aifs_ensemble.common.models import Model
from aifs_ensemble.planning.machines import Machines, load_machines
from aifs_ensemble.planning.throughput import Throughput, load_throughput
from doubles.gcs_fault_proxy import FaultProxy, fault_proxy
from doubles.gcs_server import gcs_server
from tested import MODEL  # before any test imports a model's packages

# Triton reads this when it is imported, which torch may do before any test: kernels run in its interpreter
os.environ.setdefault("TRITON_INTERPRET", "1")
_COUNT = itertools.count()
ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real runs of snakemake first: whichever process is free at the end then has short tests left.

    It takes `--no-loadscope-reorder`: xdist would start with the files of many tests.
    """
    items.sort(key=lambda item: "/workflow/" not in item.path.as_posix())


@pytest.fixture(scope="session")
def model() -> Model:
    """The model that is tested."""
    return MODEL


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real GRIB and index files; the test is skipped, saying so, where they are absent."""
    folder = Path(os.environ.get("AIFS_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set AIFS_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def machines() -> Machines:
    """The project's own table."""
    return load_machines()


@pytest.fixture(scope="session")
def throughput(machines: Machines) -> Throughput:
    """The project's own table."""
    return load_throughput(machines.gpu_specs)


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which interpolation weights, once made, serve all tests."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """URL of a storage server with the bucket ``ensembles``."""
    with gcs_server() as url:
        yield url


@pytest.fixture
def gcs(bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The server behind a proxy, which breaks nothing until it gets a schedule; clients find it by themselves."""
    with fault_proxy(bucket_server) as proxy:
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
