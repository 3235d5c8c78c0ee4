"""The notebook runs from beginning to end, and draws what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from aifs_ensemble.common.config import Config
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "ensemble.ipynb"


def test_the_notebook_runs(ensemble: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ensemble.destination or "", tmp_path / "results")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1] / "scripts"))
    (tmp_path / "aifs-ensemble").symlink_to(ensemble.cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("6114 points" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"], "it warns"
