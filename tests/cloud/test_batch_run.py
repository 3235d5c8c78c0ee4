"""Whole runs through the googlebatch profile: the real snakemake, plugin, clients and storage plugin."""

import pytest

pytestmark = pytest.mark.cloud


def test_run(project, batch):
    code, output = project.run("--profile", "googlebatch")
    assert code == 0, output
