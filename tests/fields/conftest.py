"""Fixtures of the GRIB tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fields.members import make_spec, write_member


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with members 1 and 2, leads 6 and 12, of all variables."""
    folder = tmp_path_factory.mktemp("ensemble")
    for member in (1, 2):
        write_member(make_spec(member=member), folder, (6, 12))
    return folder
