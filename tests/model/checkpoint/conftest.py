"""Checkpoints built once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.checkpoint.build import build_demo
from tested import MODEL


@pytest.fixture(scope="session")
def demo() -> Model:
    """The catalogue's demonstration model that is tested."""
    return MODEL


@pytest.fixture(scope="session")
def demo_path(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint, with the record of its building beside it. Not to be changed."""
    path = tmp_path_factory.mktemp("built") / "demo.ckpt"
    build_demo(demo, path)
    return path
