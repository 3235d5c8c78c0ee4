"""The recipes of the pages, run as they are printed."""

from __future__ import annotations

import json
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


# runs blocks one after the other, each with names of its own; a traceback names the block
RUN = "import json, sys\nfor name, text in json.load(sys.stdin).items(): exec(compile(text, name, 'exec'), {})"


def recipes() -> list:
    """Return the blocks of each page, to be run in one process: importing takes most of their time.

    Those of earthkit have a process of their own, since it may bring pyproj after ecCodes.
    """
    found = []
    for page in PAGES:
        texts = enumerate(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()))
        blocks = {f"{page}-{number}": text for number, text in texts}
        alone = {name: text for name, text in blocks.items() if "earthkit" in text}
        found += [pytest.param({name: text}, id=name) for name, text in alone.items()]
        found.append(pytest.param({name: blocks[name] for name in blocks if name not in alone}, id=page))
    return found


@pytest.fixture(scope="module")
def folder(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds ``results`` as the demonstration does; readers leave files of their own there."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ensemble.destination or "", folder / "results")
    write_member_file(ensemble, 2, folder / "results" / ensemble.objects.member_netcdf(2, "1.5x1.5"))
    (folder / "aifs-ensemble").symlink_to(ensemble.cache)
    return folder


def run(folder: Path, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "scripts"),
        "XDG_CACHE_HOME": str(folder),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("blocks", recipes())
def test_python(folder: Path, blocks: dict[str, str]) -> None:
    done = run(folder, sys.executable, "-c", RUN, given=json.dumps(blocks))
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
