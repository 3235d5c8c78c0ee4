"""What a run shows: on a terminal a table and lines, elsewhere the lines; what jobs write stays out of it."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.delivery.standing import DELIVERED
from aifs_ensemble.delivery.status import RUNNING, STARTING, WAITING, MemberStatus
from aifs_ensemble.workflow.members_view import MembersView
from aifs_ensemble.workflow.targets import no_rule
from delivery.members import make_config, publish_lead
from rich.console import Console
from snakemake_logger_plugin_aifs.configfiles import faults
from snakemake_logger_plugin_aifs.events import Events, folded

from workflow.dry_runs import dry_run
from workflow.project import Project

CONTROLS = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
NOISY = """
onsuccess:
    print("NOISE-OF-AN-EXECUTOR")

rule all:
    input: expand("{member}.txt", member=["001", "002"])

rule sync_member:
    output: "{member}.txt"
    log: "logs/sync_member/{member}.log"
    shell: "echo NOISE-OF-A-JOB; echo NOISE-OF-A-JOB >&2; FAILING"
"""


def run(folder: Path, failing: str, *arguments: str, terminal: bool) -> tuple[int, bytes]:
    """Run snakemake with the plugin, on a pseudo-terminal of 80 columns or with a pipe; return what it showed."""
    (folder / "Snakefile").write_text(NOISY.replace("FAILING", failing))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "aifs", "--keep-going", *arguments]
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    if not terminal:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:
                return
            if not data:
                return
            shown.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    process = subprocess.run(command, cwd=folder, env=environment, stdout=theirs, stderr=theirs, check=False)
    os.close(theirs)
    reader.join(30)
    os.close(ours)
    return process.returncode, CONTROLS.sub(b"", b"".join(shown))


@pytest.mark.workflow
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_jobs_write_to_a_file_and_events_are_lines(tmp_path: Path, terminal: bool) -> None:
    code, shown = run(tmp_path, "touch {output}", terminal=terminal)
    assert code == 0, shown
    assert b"NOISE" not in shown
    (log,) = (tmp_path / ".snakemake" / "log").glob("*.jobs.log")
    assert log.read_bytes().count(b"NOISE-OF-A-JOB") >= 4
    assert log.read_bytes().count(b"NOISE-OF-AN-EXECUTOR") == 1
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line.strip()) for line in shown.decode().splitlines()]
    assert "2 jobs: 2 sync_member" in lines
    assert {"member 1: delivered (1 of 2)", "member 2: delivered (2 of 2)"} <= set(lines) or {
        "member 2: delivered (1 of 2)", "member 1: delivered (2 of 2)",
    } <= set(lines)  # fmt: skip
    assert "Nothing to be done" in run(tmp_path, "touch {output}", terminal=False)[1].decode()


@pytest.mark.workflow
def test_a_failed_job_says_why_and_a_dry_run_names_members(tmp_path: Path) -> None:
    broken = "echo '12:00 INFO begun' > {log}; echo '12:00 ERROR no such lead' >> {log}; exit 3"
    code, shown = run(tmp_path, broken, terminal=False)
    assert code == 1
    assert b"member 1: sync_member failed, log: logs/sync_member/001.log" in shown
    assert shown.count(b"12:00 ERROR no such lead") == 2 and b"INFO begun" not in shown
    code, shown = run(tmp_path, broken, "-n", terminal=False)
    assert code == 0
    assert shown.count(b"sync_member     2  1-2") == 1 and shown.count(b"this was a dry-run") == 1
    code, shown = run(tmp_path, "true", "no_such_target", terminal=False)
    assert code == 1 and b"no_such_target" in shown


def test_profiles_show_it(root: Path) -> None:
    for name in ("local", "coiled-gpu", "googlebatch"):
        assert "logger: aifs\n" in (root / "profiles" / name / "config.yaml").read_text()


def record(event: str | None = None, level: int = logging.INFO, text: str = "", **extra: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": level, "event": event, **extra})


def test_rules_are_said_once_when_their_last_job_ends() -> None:
    events = Events(dryrun=False)
    assert list(events.lines(record("run_info", stats={"initial_member": 2, "all": 1, "total": 3})))
    for job, member in enumerate(("001", "002")):
        event = record("job_info", jobid=job, rule_name="initial_member", wildcards={"member": member})
        assert list(events.lines(event)) == []
    assert events.at_work() == "initial_member 1-2"
    assert list(events.lines(record("job_finished", job_id=0))) == []
    assert [line[9:] for line, _ in events.lines(record("job_finished", job_id=1))] == ["initial_member: done, 2 jobs"]
    assert events.at_work() == ""
    assert list(events.lines(record(text="Select jobs to execute..."))) == []
    assert list(events.lines(record(text="odd", level=logging.WARNING))) == [("odd", "yellow")]


def test_long_lines_go_on_below_their_beginning() -> None:
    events, rules = Events(dryrun=False), ("checkpoint_prepare", "initial_cycle", "initial_member", "forecast_member")
    ((said, _),) = events.lines(record("run_info", stats=dict.fromkeys((*rules, "ensemble_manifest"), 12)))
    lines = folded(said, 80).splitlines()
    assert len(lines) == 2 and all(len(line) <= 80 for line in lines) and lines[1].startswith("  12 ")
    assert all(f"12 {rule}" in " ".join(lines) for rule in rules)
    assert folded(said, None) == f"{said[:8]} 60 jobs: " + ", ".join(f"12 {r}" for r in (*rules, "ensemble_manifest"))
    path = "/scratch/" + "long-" * 20 + "name.log"
    assert path in folded(f"12:00:00 member 1: forecast_member failed, log: {path}", 80).splitlines()[-1]
    assert folded("a\n  b c", 5) == "a\n  b c"


def test_jobs_of_several_cycles_are_told_apart() -> None:
    events = Events(dryrun=False)
    assert list(events.lines(record("run_info", stats={"forecast_member": 2, "product_quintiles": 1})))
    for job, wildcards in enumerate(
        [{"cycle": "20250819_0000", "member": "002"}, {"cycle": "20250826_0000", "member": "002"},
         {"date": "20250826", "time": "0000"}]
    ):  # fmt: skip
        rule = "forecast_member" if "member" in wildcards else "product_quintiles"
        list(events.lines(record("job_info", jobid=job, rule_name=rule, wildcards=wildcards)))
    assert events.at_work() == "product_quintiles 20250826_0000"
    ((line, _),) = events.lines(record("job_finished", job_id=1))
    assert line[9:] == "20250826_0000 member 2: forecast done (1 of 2)"
    ((line, _),) = events.lines(record("job_error", jobid=0))
    assert line[9:] == "20250819_0000 member 2: forecast_member failed"


def test_a_job_of_a_model_without_a_cycle_is_called_by_the_model() -> None:
    events, planned = Events(dryrun=False), Events(dryrun=True)
    for job, model in enumerate(("demo", "demo-v2")):
        event = record("job_info", jobid=job, rule_name="checkpoint_prepare", wildcards={"model": model})
        list(events.lines(event))
        list(planned.lines(event))
    assert events.at_work() == "checkpoint_prepare demo, checkpoint_prepare demo-v2"
    ((line, _),) = events.lines(record("job_error", jobid=1))
    assert line[9:] == "demo-v2: checkpoint_prepare failed"
    event = {"model": "demo-v2", "cycle": "20250819_0000", "member": "002"}
    list(planned.lines(record("job_info", jobid=2, rule_name="forecast_member", wildcards=event)))
    assert [" ".join(line.split()) for line, _ in planned.last()] == [
        "checkpoint_prepare 2 of 2 models",
        "forecast_member 1 2 demo-v2/20250819_0000",
        "this was a dry-run: nothing was made",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"members: 1-2\nproducts: {weekly: [1\nlead_hours: 24\n", "own.yaml:3: not valid YAML (expected ',' or ']'"),
        (b"forecast: [1\n", "own.yaml:1: not valid YAML (expected ',' or ']', but got '<stream end>'"),
        (b"cycle: 2025-02-30\n", "own.yaml: not valid YAML (day is out of range for month)"),
        (b"- a\n", "own.yaml: list, expected keys and values"),
        (b"", "own.yaml: nothing, expected keys and values"),
        (b"\xff", "own.yaml: byte 0 is no UTF-8"),
        (None, "own.yaml: no such configuration file"),
        (b"members: 1-2\n", ""),
    ],
)
def test_faults_of_configuration_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sound.yaml").write_text("model: demo\n")
    Path("with").mkdir()
    Path("with/config.yaml").write_text("configfile: [sound.yaml, own.yaml]\ncores: 1\n")
    if content is not None:
        Path("own.yaml").write_bytes(content)
    for arguments in (["--configfile", "sound.yaml", "own.yaml", "-n"], ["--profile", "with", "-n"]):
        found = faults(arguments)
        assert (len(found), "".join(found)[: len(said)]) == (bool(said), said)
    if said:
        with pytest.raises(ConfigError) as caught:  # what `aifs-ensemble` says of it
            read_files(Path("sound.yaml"), Path("own.yaml"))
        assert [str(caught.value)] == found


@pytest.mark.workflow
def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    """Snakemake takes the last one."""
    project = Project.copy(tmp_path / "p")
    (project.folder / "own.yaml").write_text("members: 1\nforecast:\n  chunks: 1\n  encoders: 1\n  chunks: 2\n")
    told = "own.yaml:5: forecast.chunks is given twice in lines 3 and 5, expected each key once"
    assert told in dry_run(project.folder, "--configfile", "own.yaml", code=1)
    assert f"error: {told}\n" in project.command("plan", "--configfile", "own.yaml").stderr


@pytest.mark.workflow
def test_a_fault_of_a_configuration_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("members: 1-2\nlead_hours: [24\n")
    code, shown = run(tmp_path, "true", "--configfile", "own.yaml", "-n", terminal=False)
    assert code == 1
    assert re.fullmatch(rb"Error: own\.yaml:\d: not valid YAML \(.*\)\n", shown), shown


@pytest.mark.workflow
def test_a_target_that_no_rule_makes_is_one_line(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "p")
    target = "results/20250819_0000/manifests/member009.json"
    said = dry_run(project.folder, target, "--logger", "aifs", code=1)
    assert f"Error: {target}: member 9, expected members 1-4\n" in said and "MissingRule" not in said
    said = dry_run(project.folder, "--config", "checkpoint=none.ckpt", "--logger", "aifs", code=1)
    assert (
        "Error: config: checkpoint: 'none.ckpt': no such file, expected the checkpoint of demo, or null\n" in said
    ) and "affected files" not in said


def test_what_is_told_of_a_target_that_no_rule_makes(tmp_path: Path) -> None:
    config = make_config(tmp_path, "results", members="1-4,7", lead_hours=72)
    cycle = config.cycle
    assert no_rule(config, f"{cycle}/manifests/member005.json").endswith(": member 5, expected members 1-4,7")
    assert no_rule(config, f"x/aifs_{cycle}_member001_h078.grib2").endswith(": lead 78 h, expected one of 12 to 72 h")
    assert no_rule(config, "20250101_0000/index.html").endswith(f": cycle 20250101_0000, expected {cycle}")
    assert no_rule(config, "producs") == (
        "producs: no rule makes it, expected one of all, evaluation, forecasts, plan, products, report, verify, or a "
        f"file of the configuration: members 1-4,7, leads to 72 h, {cycle}, did you mean 'products'?"
    )


def test_what_machines_cost_is_a_line_where_there_is_no_table() -> None:
    """In the words of the executor for Coiled, which says so at every request of a machine."""
    events = Events(dryrun=False)
    said = "rented: $0.29 so far by list prices, $10.14 an hour; 2 machines (2 x a2-ultragpu-1g)"
    assert [line[9:] for line, _ in events.lines(record(text=said), priced=True)] == [said]
    assert list(events.lines(record(text=said), priced=False)) == []
    said = "forecast_member 1-2: still being made by forecast-member-1-906a746f, taken up again"
    assert [line[9:] for line, _ in events.lines(record(text=said), priced=False)] == [said]
    assert list(events.lines(record(text="Cluster 3 deleted successfully."), priced=True)) == []


@pytest.fixture
def view(tmp_path: Path) -> Iterator[MembersView]:
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), members="1-9")
    for lead in (6, 12):
        publish_lead(config, 2, lead)
    made = MembersView(config, rented=False, spending=lambda: f"rented: $3.20 so far; {'a long list of machines ' * 9}")
    made.stop()
    made._thread.join()
    yield made


def test_time_to_go_counts_from_the_first_member_at_work(view: MembersView, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes of preparations, then a lead in ten seconds: 34 of 36 leads are missing."""
    clock = 0.0
    monkeypatch.setattr("aifs_ensemble.workflow.members_view.time.time", lambda: clock)
    view._progress = None

    def look(at: float, state: str, steps: int) -> float | None:
        nonlocal clock
        clock = at
        view._statuses = [MemberStatus(1, state, step=steps, steps=36)]
        view._progress = view._progressed(at)
        return view.left()

    assert look(0, WAITING, 0) is None and look(600, STARTING, 0) is None
    assert look(620, RUNNING, 2) == pytest.approx(340)
    assert look(625, RUNNING, 2) == pytest.approx(335), "it grows while no lead comes"
    assert look(5000, RUNNING, 2) == pytest.approx(10)
    assert look(5020, RUNNING, 36) is None


@pytest.mark.parametrize("width", [80, 150])
def test_the_table_fits_the_terminal(view: MembersView, width: int) -> None:
    view._statuses = [
        view._paced(MemberStatus(1, RUNNING, step=1, steps=4, step_seconds=2.0, host="machine-" * 20), 0.0),
        *list(view._statuses)[1:],
    ]
    console = Console(width=width, height=24, record=True, force_terminal=True)
    console.print(view.shown(width, 4))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert re.search(r"^ *1 .* 1/4 +2\.00 +6 s +running", lines[2]), lines
    assert any("2/4" in line for line in lines), "what scratch holds of a member is not shown"
    assert any(line.startswith("9 members: 1 running") and "(5 not shown)" in line for line in lines), lines
    assert lines[-1].startswith("rented: $3.20 so far; a long list")


def test_the_table_of_several_cycles_names_them(tmp_path: Path) -> None:
    one = make_config(tmp_path / "scratch", str(tmp_path / "out"), members="1-3")
    cycles = [one.cycle, "20250909_0000"]
    config = Config(one.to_dict() | {"cycle": None, "cycles": cycles})
    publish_lead(config.of_cycle(cycles[1]), 2, 6)
    view = MembersView(config, rented=False, spending=lambda: None)
    view.stop()
    view._thread.join()
    view._stopping.clear()
    view._look()
    for width in (80, 150):
        console = Console(width=width, height=24, record=True, force_terminal=True)
        console.print(view.shown(width, 20))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].startswith(f"{cycles[0]}, {cycles[1]} demo")
        assert [line.split()[0] for line in lines[2:8]] == sorted(cycles * 3) and "6 members: " in lines[8]
        assert [line for line in lines if re.match(rf"{cycles[1]} +2 .* 1/4", line)], lines


def test_the_table_of_two_models_has_room_for_all_that_members_do(tmp_path: Path) -> None:
    """At 80 columns, beside the longest names: the bar gives way to them."""
    models = ["aifs-ens-1.0", "aifs-ens-2.0"]
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), model=models, members="1", lead_hours=792)
    view = MembersView(config, rented=False, spending=lambda: None)
    view.stop()
    view._thread.join()
    running = MemberStatus(1, RUNNING, step=12, steps=132, step_seconds=20.27)
    view._statuses = [MemberStatus(1, DELIVERED, step=132, steps=132), running]
    console = Console(width=80, height=24, record=True, force_terminal=True)
    console.print(view.shown(80, 20))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    first, second = config.units
    # without the bar, whose line is of other letters
    assert [re.findall(r"[\w./-]+", line) for line in lines[1:4]] == [
        ["cycle", "member", "leads", "s/step", "to", "go", "state"],
        [second, "1", "12/132", "20.27", "41", "min", "running"],
        [first, "1", "132/132", "delivered"],
    ], lines
