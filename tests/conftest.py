"""Fixtures that several areas of tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Triton reads this when it is imported, which torch may do before any test: kernels run in its interpreter
os.environ.setdefault("TRITON_INTERPRET", "1")
ROOT = Path(__file__).parents[1]


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
def weights_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which interpolation weights, once made, serve all tests."""
    return tmp_path_factory.mktemp("weights")
