"""What stands at the project's door: one version, its licence, and workflows and forms that speak of what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import aifs_ensemble
import pytest
import yaml
from aifs_ensemble.cli import build_parser, command_names

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def content(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_version_is_written_once_and_repeated_right() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "aifs_ensemble.__version__"}
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == aifs_ensemble.__version__ == content("CITATION.cff")["version"]


def test_the_licence_is_one() -> None:
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == {"text": "Apache-2.0"} and content("CITATION.cff")["license"] == "Apache-2.0"
    assert (ROOT / "NOTICE").read_text().count("CC-BY-4.0") == 2


def steps(workflow: Any) -> list[str]:
    """Return the commands of a workflow, those that a matrix names included."""
    commands = []
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            text = step.get("run", "")
            names = re.findall(r"\$\{\{ matrix\.(\w+) \}\}", text)
            values = matrix.get(names[0], [""]) if names else [""]
            commands += [text.replace(f"${{{{ matrix.{''.join(names)} }}}}", str(value)) for value in values]
    return commands


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = "\n".join(steps(workflow))
    assert set(re.findall(r"\bmake ([a-z-]+)", said)) <= targets
    for line in re.findall(r"\.venv/bin/aifs-ensemble (.+)", said):
        command, *rest = line.split()
        assert command in command_names()
        assert build_parser([command]).parse_args([command, *rest])
    for profile in re.findall(r"--profile (\S+)", said):
        assert (ROOT / profile / "config.yaml").exists()
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())


def test_checks_plan_every_profile_and_try_every_python() -> None:
    workflow = content(".github/workflows/checks.yml")
    profiles = {path.name for path in (ROOT / "profiles").iterdir()}
    assert set(re.findall(r"--profile (\S+)", "\n".join(steps(workflow)))) == profiles
    assert "3.11" in workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]


def test_images_are_built_of_every_environment() -> None:
    matrix = content(".github/workflows/images.yml")["jobs"]["image"]["strategy"]["matrix"]["include"]
    assert {row["name"] for row in matrix} == {path.stem for path in (ROOT / "envs").glob("*.lock")}
    assert all((ROOT / "envs" / f"{row['name']}.Dockerfile").exists() for row in matrix)


def test_the_form_asks_for_what_the_commands_print() -> None:
    form = content(".github/ISSUE_TEMPLATE/problem.yml")
    asked = {field.get("id"): field["attributes"].get("label", "") for field in form["body"]}
    assert asked["doctor"] == "aifs-ensemble doctor" and asked["checkpoint"] == "aifs-ensemble checkpoint check"
    (profiles,) = [field["attributes"]["options"] for field in form["body"] if field.get("id") == "profile"]
    assert {path.name for path in (ROOT / "profiles").iterdir()} <= set(profiles)


def test_hooks_are_commands_of_the_lock() -> None:
    pinned = (ROOT / "requirements" / "test.txt").read_text()
    hooks = [hook for repo in content(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks} - {"python"}
    assert tools == {"ruff", "snakefmt", "lint-imports"}
    assert all(f"\n{tool}==" in pinned for tool in ("ruff", "snakefmt", "import-linter"))


def test_the_catalogue_names_a_profile() -> None:
    usage = content(".snakemake-workflow-catalog.yml")["usage"]
    assert usage["mandatory-flags"]["flags"] == "--profile local" and (ROOT / "local").exists()
