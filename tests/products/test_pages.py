"""The recipes of the pages, run as they are printed, each in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.products.member_file import write_member_file

ROOT = Path(__file__).parents[2]
PAGES = ("reading", "coming-from-ea-aifs")
BLOCK = re.compile(r"^<!-- run -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> list:
    return [
        pytest.param(text, id=f"{page}-{number}")
        for page in PAGES
        for number, text in enumerate(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()))
    ]


@pytest.fixture(scope="module")
def folder(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds ``results`` as the demonstration does; readers leave files of their own there."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ensemble.destination or "", folder / "results")
    write_member_file(ensemble, 2, folder / "results" / ensemble.objects.member_netcdf(2, "1.5x1.5"))
    (folder / "aifs-ensemble").symlink_to(ensemble.cache)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "scripts"),
        "XDG_CACHE_HOME": str(folder),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("text", recipes())
def test_python(folder: Path, text: str) -> None:
    done = run(folder, sys.executable, "-c", text)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_python_block_runs() -> None:
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert text.count("```python") == len(BLOCK.findall(text)) > 0


cdo = pytest.mark.skipif(not shutil.which("cdo"), reason="no cdo on this machine")


@cdo
def test_cdo(folder: Path, ensemble: Config) -> None:
    """Lead by lead nothing is lost; the grid is the regular one."""
    for lead in (6, 24, 30):
        file = f"results/{ensemble.objects.lead(3, lead)}"
        done = run(
            folder,
            "cdo",
            "-s",
            "-remapbil,r240x121",
            "-setgridtype,regular",
            "-selname,2t",
            file,
            f"h{lead:03d}_1p5.grib2",
        )
        assert done.returncode == 0, done.stderr
        assert run(folder, "cdo", "-remapbil,r240x121", "-selname,2t", file, "fails.grib2").returncode != 0
    done = run(folder, "cdo", "-s", "mergetime", *(f"h{lead:03d}_1p5.grib2" for lead in (6, 24, 30)), "all.grib2")
    assert done.returncode == 0, done.stderr
    assert run(folder, "cdo", "-s", "ntime", "all.grib2").stdout.split() == ["3"]


@cdo
def test_cdo_reads_the_netcdf_products(folder: Path, ensemble: Config) -> None:
    file = f"results/{ensemble.objects.member_netcdf(2, '1.5x1.5')}"
    assert run(folder, "cdo", "-s", "ntime", file).stdout.split() == ["8"]
    said = run(folder, "cdo", "-s", "griddes", file).stdout
    assert "gridtype  = lonlat" in said and "xsize     = 240" in said
