"""What `aifs-ensemble schedule` writes, read by what will read it: systemd, GitHub's schema, a shell, snakemake."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import main
from workflow.dry_runs import dry_run
from workflow.project import Project

FILES = {
    "aifs-ensemble.service", "aifs-ensemble.timer", "aifs-ensemble.cron", "aifs-ensemble.yml",
    "aifs-ensemble-job.yaml", "aifs-ensemble-cloud-run.sh",
}  # fmt: skip
# a percent sign and a dollar mean something to systemd, and the first to cron
STRANGE = ["cycle=latest-thursday", "destination=gs://my-bucket/a", 'cloud.labels={"team": "50% $x"}', "members=1-3"]


@pytest.fixture
def checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


def written(folder: Path, *arguments: str) -> dict[str, str]:
    assert main(["schedule", *arguments, "--output", str(folder)]) == 0
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def files(checkout: Path, tmp_path: Path) -> dict[str, str]:
    return written(tmp_path / "out", "--profile", "coiled-gpu", "--config", *STRANGE)


def fires(cron: str, time: datetime) -> bool:
    """Tell whether five fields of cron mean a time: numbers, lists of them and stars."""
    assert re.fullmatch(r"[0-5]?\d [\d,]+ \* \* (\*|[0-6])", cron)
    minute, hours, _, _, day = cron.split()
    return (
        time.minute == int(minute)
        and time.hour in map(int, hours.split(","))
        and (day == "*" or (time.weekday() + 1) % 7 == int(day))
    )


def test_all_are_shown_and_nothing_is_installed(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["schedule", "--profile", "coiled-gpu", "--config", *STRANGE]) == 0
    said = capsys.readouterr()
    assert set(re.findall(r"^--- (\S+)$", said.out, re.MULTILINE)) == FILES
    assert said.out.startswith("latest-thursday: every Thursday at 07:00 UTC, waits 6 h for its inputs at most")
    assert said.out.rstrip().endswith("to be filled in: IMAGE, POOL_PROVIDER, PROJECT, SERVICE_ACCOUNT")
    assert not said.err and not list(tmp_path.iterdir())


def test_all_run_the_same_command(files: dict[str, str]) -> None:
    expected = [
        "--profile", "coiled-gpu", "--config", "cycle=latest-thursday", "destination=gs://my-bucket/a",
        'cloud={"labels":{"team":"50% $x"}}', "members=1-3", 'initial_conditions={"wait_hours":6}',
    ]  # fmt: skip
    assert set(files) == FILES
    by_systemd = re.search(r"^ExecStart=(.*)$", files["aifs-ensemble.service"], re.MULTILINE)
    assert by_systemd
    assert shlex.split(by_systemd[1].replace("%%", "%").replace("$$", "$"))[1:] == expected
    by_cron = files["aifs-ensemble.cron"].splitlines()[-1].split(" ", 5)[5].replace(r"\%", "%")
    words = shlex.split(by_cron)
    assert words[words.index("&&") + 2 : words.index(">>")] == expected
    steps = yaml.safe_load(files["aifs-ensemble.yml"])["jobs"]["forecast"]["steps"]
    assert shlex.split(steps[-1]["run"])[1:] == expected
    task = yaml.safe_load(files["aifs-ensemble-job.yaml"])["spec"]["template"]["spec"]["template"]["spec"]
    assert task["containers"][0]["args"] == expected


@pytest.mark.workflow
def test_snakemake_takes_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The line of cron as cron would give it to a shell, as a dry-run."""
    project = Project.copy(tmp_path / "project", lead_hours=6)
    monkeypatch.chdir(project.folder)
    capsys.readouterr()
    given = ["--profile", "local", "--for", "cron", "--json", "--config", "cycle=latest-12z", "forecast.encoders=1"]
    assert main(["schedule", *given]) == 0
    line = json.loads(capsys.readouterr().out)["files"]["aifs-ensemble.cron"].splitlines()[-1]
    words = shlex.split(line.split(" ", 5)[5])
    said = dry_run(project.folder, *words[words.index("--config") : words.index(">>")])
    assert re.search(r"^cycle latest-12z: \d{8}_1200", said, re.MULTILINE), said
    assert "4 of 4 members to forecast" in said


def test_systemd_takes_them(files: dict[str, str], tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    units = [str(tmp_path / "out" / name) for name in ("aifs-ensemble.service", "aifs-ensemble.timer")]
    done = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "aifs-ensemble" not in done.stderr, done.stderr
    when = re.search(r"^OnCalendar=(.*)$", files["aifs-ensemble.timer"], re.MULTILINE)
    assert when
    shown = subprocess.run([program, "calendar", when[1]], capture_output=True, text=True, check=True).stdout
    assert "Normalized form: Thu *-*-* 07:00:00 UTC" in shown


def test_github_takes_it(files: dict[str, str], tmp_path: Path) -> None:
    tool = Path(sys.executable).parent / "check-jsonschema"
    path = tmp_path / "out" / "aifs-ensemble.yml"
    done = subprocess.run(
        [tool, "--builtin-schema", "vendor.github-workflows", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = yaml.safe_load(path.read_text())
    assert content["on"]["schedule"] == [{"cron": "0 7 * * 4"}]
    assert content["jobs"]["forecast"]["env"] == {"DASK_COILED__TOKEN": "${{ secrets.COILED_TOKEN }}"}


def test_a_shell_takes_the_commands_of_google(files: dict[str, str], tmp_path: Path) -> None:
    subprocess.run(["sh", "-n", tmp_path / "out" / "aifs-ensemble-cloud-run.sh"], check=True)
    lines = files["aifs-ensemble-cloud-run.sh"].replace("\\\n", "").splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("gcloud")]
    assert [line[1:4] for line in words] == [["run", "jobs", "replace"], ["scheduler", "jobs", "create"]]
    assert words[1][words[1].index("--schedule") + 1] == "0 7 * * 4"
    assert words[0][4] == "aifs-ensemble-job.yaml"
    job = yaml.safe_load(files["aifs-ensemble-job.yaml"])
    task = job["spec"]["template"]["spec"]["template"]["spec"]
    assert task["timeoutSeconds"] == (6 + 6 + 1) * 3600 and task["maxRetries"] == 0


@pytest.mark.parametrize(
    ("word", "begins"),
    [
        ("latest-thursday", [(21, 7)]),
        ("latest-thursday-18z", [(22, 1)]),
        ("latest-thursday-1w", [(21, 7)]),
        ("20250703_0000..latest-thursday every 7d", [(21, 7)]),
        ("latest-12z", [(day, 19) for day in range(18, 25)]),
        ("latest", [(day, hour) for day in range(18, 25) for hour in (1, 7, 13, 19)]),
    ],
)
def test_runs_begin_seven_hours_after_the_cycle(
    checkout: Path, capsys: pytest.CaptureFixture[str], word: str, begins: list[tuple[int, int]]
) -> None:
    """Counted through the week of 18 August 2025, a Monday."""
    key = "cycles" if ".." in word else "cycle"
    assert main(["schedule", "--json", "--config", f"{key}={word}"]) == 0
    cron = json.loads(capsys.readouterr().out)["cron"]
    week = [datetime(2025, 8, 18, tzinfo=UTC) + timedelta(minutes=m) for m in range(7 * 1440)]
    assert [(time.day, time.hour) for time in week if fires(cron, time)] == begins


def test_its_own_time_and_wait(checkout: Path, tmp_path: Path) -> None:
    given = ["--config", "cycle=latest-00z", "--for", "systemd", "--at", "09:30", "--wait", "0"]
    files = written(tmp_path / "out", *given)
    assert "OnCalendar=*-*-* 09:30:00 UTC" in files["aifs-ensemble.timer"]
    assert "wait_hours" not in files["aifs-ensemble.service"], "0 is what the configuration says"
    assert set(files) == {"aifs-ensemble.timer", "aifs-ensemble.service"}


def test_what_is_refused(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        assert main(["schedule", *arguments]) == 2
        return capsys.readouterr().err

    assert "'20250819_0000' is one cycle, expected a word for a schedule" in error()
    assert "'20250819_0000, 20250826_0000' stay the same" in error("--config", "cycles=20250819_0000,20250826_0000")
    assert "latest-00z, latest-thursday are of several" in error("--config", "cycles=latest-00z,latest-thursday")
    word = ("--config", "cycle=latest-00z")
    assert "--at: '25:00', expected HH:MM, UTC" in error(*word, "--at", "25:00")
    assert "--wait: 100, expected hours from 0 to 72" in error(*word, "--wait", "100")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "aifs-ensemble.timer").write_text("mine")
    assert "says something else" in error(*word, "--output", str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["aifs-ensemble.timer"]
