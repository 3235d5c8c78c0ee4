"""Whole runs through the coiled-gpu profile: the real snakemake, adapters, client and storage plugin."""

import pytest

pytestmark = pytest.mark.cloud


def test_run(project, coiled):
    code, output = project.run("--profile", "coiled-gpu")
    assert code == 0, output
