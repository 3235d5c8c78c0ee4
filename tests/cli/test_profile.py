"""``--profile`` of our commands against what snakemake makes of it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import build_parser, command_names, load, main
from aifs_ensemble.cli._common import config_files, config_from, plan_profile
from workflow.project import Project

PLAIN = ["config/config.yaml"]
OPERATIONAL = ["config/config.yaml", "config/operational.yaml"]


def parsed(*arguments: str, command: str = "plan") -> argparse.Namespace:
    return build_parser([command]).parse_args([command, *arguments])


@pytest.mark.parametrize(
    ("arguments", "files", "machines"),
    [
        ([], PLAIN, None),
        (["--profile", "local"], PLAIN, "local"),
        (["--profile", "coiled-gpu"], OPERATIONAL, "coiled-gpu"),
        (["--profile", "profiles/coiled-gpu"], OPERATIONAL, "coiled-gpu"),
        (["--profile", "profiles/coiled-gpu/config.yaml"], OPERATIONAL, "coiled-gpu"),
        (["--profile", "googlebatch"], OPERATIONAL, "googlebatch"),
        (["--profile", "googlebatch", "--configfile", "a.yaml", "b.yaml"], ["a.yaml", "b.yaml"], "googlebatch"),
    ],
)
def test_a_profile_names_files_and_machines(
    arguments: list[str], files: list[str], machines: str | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    args = parsed(*arguments)
    assert (config_files(args), plan_profile(args)) == ([Path(file) for file in files], machines)


def test_a_profile_of_ones_own_is_found_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "snakemake" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("jobs: 1\n")
    (folder / "config.v8+.yaml").write_text("configfile: one.yaml\ndefault-resources: {provider: coiled, mem_mb: 1}\n")
    args = parsed("--profile", "mine")
    assert (config_files(args), plan_profile(args)) == ([Path("one.yaml")], "coiled-gpu")


def test_an_unknown_profile_is_said_in_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(root)
    for more in ([], ["--configfile", "config/config.yaml"]):
        assert main(["plan", "--profile", "coiled", *more]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"error: --profile: 'coiled' is not in this folder, {tmp_path}/snakemake")
        assert said.endswith("expected coiled-gpu or googlebatch or local")


def test_the_configuration_is_the_profiles_and_the_command_line_goes_over_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    config = config_from(parsed("--profile", "coiled-gpu", "--config", "members=1-3", "forecast.chunks=4"))
    assert (config.model.name, config.members, config.leads[-1]) == ("aifs-ens-1.0", (1, 2, 3), 792)
    assert (config.forecast.chunks, config.forecast.encoders) == (4, 4)


# they need none
WITHOUT = {"completion", "coiled-cancel", "checkpoint", "inspect", "regrid"}


def configuration_options(command: str) -> dict[str, tuple[object, ...]]:
    """Return what a command says of the options that name its configuration."""
    parser = argparse.ArgumentParser()
    load(command).add_arguments(parser)
    return {
        option: (action.help, action.metavar, action.nargs, action.default)
        for action in parser._actions
        for option in action.option_strings
        if option in ("--profile", "--configfile", "--config")
    }


@pytest.mark.parametrize("command", sorted(set(command_names()) - WITHOUT))
def test_every_command_that_reads_a_configuration_says_the_same_of_it(command: str) -> None:
    assert len(configuration_options(command)) == 3
    assert configuration_options(command) == configuration_options("plan")


@pytest.mark.parametrize("command", sorted(WITHOUT))
def test_other_commands_name_none(command: str) -> None:
    assert configuration_options(command) == {}


def lines(said: str) -> list[str]:
    """Return what a plan says of amount, machines, time and cost, but for the room that a disk has at the moment."""
    found = re.findall(r"^(?:plan|machines|time|cost): .*$", said, re.MULTILINE)
    return [re.sub(r"(scratch peak .*) of [\d.]+ [kMGT]B$", r"\1", line) for line in found]


@pytest.mark.workflow
@pytest.mark.parametrize(("profile", "members"), [("coiled-gpu", 50), ("local", 4)])
def test_a_plan_is_that_of_snakemake_with_the_same_profile(tmp_path: Path, profile: str, members: int) -> None:
    project = Project.copy(tmp_path / "project")
    ours = project.command("plan", "--profile", profile)
    assert lines(ours.stdout) == lines(project.run("-n", profile=profile))
    assert len(lines(ours.stdout)) >= 3, ours.stderr
    assert f"{members} of {members} members to forecast" in lines(ours.stdout)[0]


@pytest.mark.workflow
def test_a_profile_of_ones_own_plans_like_snakemake(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project")
    profile = yaml.safe_load((project.folder / "profiles" / "coiled-gpu" / "config.yaml").read_text())
    (project.folder / "few.yaml").write_text("members: 1-3\nlead_hours: 24\n")
    profile["configfile"].append("few.yaml")
    profile["group-components"] = ["members=2"]
    (project.folder / "few").mkdir()
    (project.folder / "few" / "config.yaml").write_text(yaml.safe_dump(profile))
    ours = project.command("plan", "--profile", "few")
    assert lines(ours.stdout) == lines(project.run("-n", profile="few"))
    assert "3 of 3 members to forecast" in ours.stdout
    assert "2 members each" in ours.stdout
