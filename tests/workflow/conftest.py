"""One finished ensemble, which tests copy before they spoil it."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import browser  # noqa: F401 - a fixture

from workflow.project import Project

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two members of 18 hours, run once. Don't change it: copy it with `fresh`."""
    project = Project.copy(
        tmp_path_factory.mktemp("finished") / "project",
        members="1-2", lead_hours=18, forecast={"restart_hours": 6, "encoders": 1},
    )  # fmt: skip
    project.said = project.run()  # type: ignore[attr-defined]
    return project


@pytest.fixture
def fresh(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished ensemble with all times kept."""
    return Project.of(finished, tmp_path / "project")
