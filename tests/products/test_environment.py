"""What CPU machines need is in their lock, and ecCodes and pyproj stand each other in one process."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "scripts" / "aifs_ensemble"
ROOMS = ("common", "fields", "initial", "delivery", "planning", "products")
OF_GPUS = (": torch", ": pynvml")  # asked for only where there is a GPU
OF_PROJ = {"pyproj", "cartopy", "shapely"}


def imported(path: Path) -> set[str]:
    """Return the packages that a module imports, at its top or within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"aifs_ensemble"}


def modules() -> Iterator[tuple[str, set[str]]]:
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), imported(path)


def test_the_image_has_what_its_rooms_import() -> None:
    """The other way round, what nobody imports is in the lock for the sake of those that do."""
    lock = (ROOT / "envs" / "etl.lock").read_text().lower().replace("_", "-")
    pinned = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    distributions = packages_distributions()
    missing = {
        f"{module}: {package}"
        for module, packages in modules()
        if module.split(".")[1:2] and module.split(".")[1] in ROOMS
        for package in packages
        # `ecmwf` and the like are shared by several distributions: one of them is enough
        if not {name.lower().replace("_", "-") for name in distributions.get(package, [package])} & pinned
    }
    assert {line for line in missing if not line.endswith(OF_GPUS)} == set()
    users, tests = (
        set(re.findall(r"(?m)^([\w.-]+)==", (ROOT / "requirements" / lock).read_text()))
        for lock in ("install.txt", "test.txt")
    )
    assert not pinned & (tests - users)


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text], env=os.environ | {"PYTHONPATH": str(LIBRARY.parent)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


BOTH = "import pyproj; pyproj.CRS.from_epsg(4326).to_wkt(); import eccodes; eccodes.codes_get_api_version()"


def test_pyproj_goes_first() -> None:
    """ecCodes' wheel brings a libproj of its own. Should the second part fail, the order matters no more."""
    assert run(BOTH).returncode == 0
    reverse = "import eccodes; eccodes.codes_get_api_version(); " + BOTH
    assert run(reverse).returncode != 0


@pytest.mark.parametrize("module", [name for name, packages in modules() if packages & OF_PROJ] or [None])
def test_modules_that_use_proj_import_it_before_eccodes(module: str | None) -> None:
    """Also where they import it within a function: by then the rest of the module has been imported."""
    if module is None:
        pytest.skip("no module imports pyproj, cartopy or shapely")
    done = run(f"import {module}; {BOTH}")
    assert done.returncode == 0, f"{module}: import pyproj first of all, before eccodes\n{done.stderr[-500:]}"
