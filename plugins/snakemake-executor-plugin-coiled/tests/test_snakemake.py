"""The executor as Snakemake meets it: its options, what a plan costs, what a run is refused for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_executor_plugin_coiled import ExecutorSettings, Hooks
from snakemake_executor_plugin_coiled.hooks import WorkflowError, load_hooks

RULE = 'rule make:\n    output: "made"\n    shell: "touch made"\n'


def snakemake(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run Snakemake with a Coiled client that must not be imported."""
    trap = folder / "trap" / "coiled"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise SystemExit('coiled was imported')\n")
    (folder / "Snakefile").write_text(RULE)
    done = subprocess.run(
        [Path(sys.executable).parent / "snakemake", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(trap.parent)}, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.workflow
def test_help_shows_every_option(tmp_path: Path) -> None:
    code, said = snakemake(tmp_path, "--help")
    assert code == 0
    for name in ExecutorSettings.__dataclass_fields__:
        assert f"--coiled-{name.replace('_', '-')} VALUE" in said


@pytest.mark.workflow
def test_a_plan_imports_no_client_and_needs_no_storage(tmp_path: Path) -> None:
    code, said = snakemake(tmp_path, "-n", "--executor", "coiled", "-j1", "--coiled-regions", "a", "b")
    assert code == 0 and "make" in said, said


@pytest.mark.workflow
def test_machines_that_were_to_share_files_are_refused(tmp_path: Path) -> None:
    code, said = snakemake(tmp_path, "--executor", "coiled", "-j1")
    assert code != 0 and "expected --shared-fs-usage none and a default storage" in said, said
    assert "Traceback" not in said


class Refusing(Hooks):
    def __init__(self, settings: ExecutorSettings):
        raise ValueError("no such\nmachine")


HOOKS = {
    "no module": ("nowhere:Mine", "'nowhere:Mine', expected module:Class"),
    "no class": ("json:Mine", "'json:Mine', expected module:Class"),
    "no name": ("json", "'json', expected module:Class"),
    "raises": (f"{__name__}:Refusing", "^no such machine$"),
}


@pytest.mark.parametrize("case", HOOKS)
def test_hooks_that_cannot_be_had(case: str) -> None:
    named, text = HOOKS[case]
    with pytest.raises(WorkflowError, match=text):
        load_hooks(ExecutorSettings(hooks=named))


def test_hooks_know_nothing_by_default() -> None:
    hooks = load_hooks(ExecutorSettings(regions=["a"]))
    targets = ["b:n=1", "a:n=1", "a:n=2"]
    assert (hooks.title(targets), list(hooks.regions()), hooks.work(), hooks.judge(targets)) == ("a+b", ["a"], None, {})
    asked = {"coiled_vm_type": "n2", "coiled_spot": "spot"}
    assert {k: v for k, v in hooks.machine(asked).items() if v is not None} == {"vm_type": "n2", "spot": True}
