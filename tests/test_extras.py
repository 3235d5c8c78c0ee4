"""What needs which extra of pyproject.toml: a coordinator's commands need none, and the others say which they lack."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from aifs_ensemble.common import extras
from aifs_ensemble.common.pins import canonical
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"aifs_ensemble", "snakemake_logger_plugin_aifs", "snakemake_executor_plugin_coiled"}
# as if they were not there: their finder comes first in every Python of the command
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def pins(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {canonical(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}


@pytest.fixture(scope="module")
def providers() -> Mapping[str, set[str]]:
    """The distributions that have a module, by its name."""
    return {name: {canonical(each) for each in found} for name, found in packages_distributions().items()}


@pytest.fixture(scope="module")
def coordinator(providers: Mapping[str, set[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables with which Python finds what the coordinator's lock names, and no more."""
    there = set(pins("coordinator"))
    names = {name for name, found in providers.items() if not found & there} - OURS - {"pip"}
    # Snakemake finds plugins by the names of files: another one, installed by hand, stays
    names = {name for name in names if not name.startswith("snakemake_")}
    assert {"torch", "xarray", "scipy", "pytest"} <= names
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=names))
    paths = [folder, ROOT / "scripts", ROOT / "plugins" / "snakemake-executor-plugin-coiled" / "src"]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


def run(command: str, env: dict[str, str], cwd: Path = ROOT) -> tuple[int, str]:
    program, *rest = command.split()
    done = subprocess.run(
        [sys.executable, "-m", program, *rest],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "aifs_ensemble --help",
        "aifs_ensemble plan --profile coiled-gpu",
        "aifs_ensemble status --profile local",
        "aifs_ensemble gc --profile local",
        "aifs_ensemble prices",
        "snakemake --profile coiled-gpu -n",
    ],
)
def test_a_coordinator_needs_no_extra(command: str, coordinator: dict[str, str]) -> None:
    code, said = run(command, coordinator)
    assert code == 0, said[-2000:]


def test_what_doctor_looks_at_needs_no_extra(coordinator: dict[str, str], tmp_path: Path) -> None:
    _, said = run(f"aifs_ensemble doctor --config scratch={tmp_path}", coordinator)
    assert "source" in said and "No module named" not in said and "not installed" not in said


def test_the_modules_of_a_coordinator_need_no_extra(coordinator: dict[str, str]) -> None:
    modules = [
        "planning.account_report", "planning.figures", "workflow.run_report", "workflow.coiled.hooks",
        "workflow.googlebatch.jobs", "workflow.images", "model.checkpoint.remote",
        "model.checkpoint.fetch", "model.checkpoint.register", "delivery.verify", "delivery.mend", "initial.published",
        "fields.grib_check", "common.storage.gcs",
    ]  # fmt: skip
    text = "; ".join(f"import aifs_ensemble.{module}" for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", text], env=coordinator, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_command_says_which_extra_it_lacks(coordinator: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "made.ckpt"
    code, said = run(f"aifs_ensemble checkpoint build demo --output {out}", coordinator)
    assert code == 1 and said.startswith("error: ") and said.count("\n") == 1, said
    assert re.search(r"not installed here.*`make install`.*'\.\[(run|grids)\]'", said)
    assert not list(tmp_path.iterdir())


def test_a_rule_says_which_extra_it_lacks(coordinator: dict[str, str]) -> None:
    text = "import sys; sys.path.insert(0, 'scripts'); import _adapter; import torch"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=coordinator, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "torch: not installed here" in done.stderr and "'.[run]'" in done.stderr


def test_modules_are_of_the_extra_that_is_told(providers: Mapping[str, set[str]]) -> None:
    """And no module of the library is imported that neither the base nor that table knows."""
    named = {
        extra: {canonical(Requirement(line).name) for line in lines}
        for extra, lines in PROJECT["optional-dependencies"].items()
    }
    of_hub = {"omegaconf": "anemoi-models", "triton": "torch"}  # what these bring
    for module, extra in extras._EXTRAS.items():
        package = of_hub.get(module, module)
        assert (providers.get(package, set()) | {canonical(package)}) & named[extra], module
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "scripts").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        )
    } - sys.stdlib_module_names - OURS - {"_adapter"}  # fmt: skip
    base = set(pins("coordinator"))
    assert {name for name in imported if not providers.get(name, set()) & base} <= set(extras._EXTRAS)


def test_locks_have_digests_and_agree() -> None:
    """Every package of a lock has digests, none an address; a version is the same in every lock."""
    locks = {path.stem: pins(path.stem) for path in (ROOT / "requirements").glob("*.txt")}
    assert set(locks) == {"coordinator", "install", "test", "torch"}
    for name in locks:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text and "--index" not in text and "--find-links" not in text
        blocks = re.findall(r"(?m)^[\w.-]+==.*(?:\n    .*)*", text)
        assert len(blocks) == text.count("==") - len(
            re.findall(r"(platform_\w+|sys_platform|python_\w+|implementation_name) ==", text)
        )
        assert all("--hash=sha256:" in block for block in blocks)
    assert locks["coordinator"].items() <= locks["install"].items() <= locks["test"].items()
    shared = set(locks["torch"]) & set(locks["test"])
    assert {name: locks["torch"][name] for name in shared} == {name: locks["test"][name] for name in shared}
    assert f"torch=={locks['torch']['torch']}" in PROJECT["optional-dependencies"]["run"]
    assert "torch" not in locks["test"] and not [name for name in locks["test"] if name.startswith("nvidia-c")]


def test_locks_have_what_the_project_asks_for() -> None:
    """After a change of pyproject.toml, `make lock`."""
    asked = {"coordinator": PROJECT["dependencies"]}
    more = PROJECT["optional-dependencies"]
    asked["install"] = [*more["grids"], *more["run"], *more["products"]]
    asked["test"] = [*more["docs"], *more["test"]]
    for lock, lines in asked.items():
        found = pins(lock) | pins("torch")
        for requirement in map(Requirement, lines):
            if requirement.name != PROJECT["name"]:
                assert requirement.specifier.contains(found[canonical(requirement.name)]), requirement
