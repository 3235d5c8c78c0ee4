"""Users' old logs: lenient about form, strict about arithmetic."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.throughput import Throughput
from old_logs import bytes_in, check_baseline, main, read_old_log, seconds_in

TIMES = [
    ("took 443.2 s", 443.2),
    ("7m23s", 443),
    ("7 min 23 sec", 443),
    ("completed in 7.4 minutes", 444),
    ("elapsed: 0:07:23", 443),
    ("in 01:02:03.5", 3723),
    ("1 h 5 min", 3900),
    ("51.7 minutes", 3102),
    ("3,101 s", 3101),
    ("443,2 s", 443.2),
    ("10:07:23,123 done in 443 s", 443),
    ("no time here, 15.35 GB, step 12", None),
]


@pytest.mark.parametrize(("text", "seconds"), TIMES)
def test_times_in_their_usual_spellings(text: str, seconds: float | None) -> None:
    assert seconds_in(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("15.35 GB", 15.35e9),
        ("15,35 GB", 15.35e9),
        ("900 MB", 9e8),
        ("1 GiB", 2**30),
        ("15,350 MB", 15.35e9),
        ("7.5 m, no size", None),
    ],
)
def test_sizes(text: str, count: float | None) -> None:
    assert bytes_in(text) == count


LINES = [
    "Member 3: 443.2 s, 15.35 GB",
    "2025-08-19 10:07:23,123 INFO member003 completed in 443.2 seconds (15.35 GB)",
    "[10:07:23] ✓ Member 3/50 took 7m23.2s -> 15.35 GB",
    "mem 3 done: 7.387 min, 15350 MB",
    "Ensemble member #3 finished; time 0:07:23; size 15.35GB",
    "member=3 443.2s 15.35GB 3.36 s/step",
]


@pytest.mark.parametrize("line", LINES)
def test_a_member_s_line_in_any_form(tmp_path: Path, line: str) -> None:
    file = tmp_path / "run.txt"
    file.write_text(f"Running members 1-50\n{line}\n")
    (member,) = read_old_log(file).members
    assert member.member == 3
    assert member.seconds == pytest.approx(443.2, abs=0.5)
    assert member.bytes == pytest.approx(15.35e9)
    assert not member.failed


def test_time_and_size_may_come_on_two_lines(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text("Member 4 finished in 440 s\nMember 4 output: 15.3 GB\nMember 5: 450 s\n")
    first, second = read_old_log(file).members
    assert (first.seconds, first.bytes) == (440, 15.3e9)
    assert (second.seconds, math.isnan(second.bytes)) == (450, True)


@pytest.mark.parametrize("first", ["Member 3 failed after 120 s", "Member 3: 120 s, 2 GB"])
def test_a_second_run_of_a_member_is_another_run(tmp_path: Path, first: str) -> None:
    file = tmp_path / "run.txt"
    file.write_text(f"{first}\nMember 3: 441 s, 15.35 GB\n")
    found = read_old_log(file)
    assert [(member.seconds, member.failed) for member in found.members] == [(120, "failed" in first), (441, False)]
    assert found.seconds == 561


@pytest.mark.parametrize(
    "line",
    [
        "9 members: 51.7 min, 107.48 GB",
        "members 1-9 all done in 51.7 minutes, 107.48 GB",
        "Members 1 to 9: 3,102 s, 107,480 MB",
    ],
)
def test_a_line_about_several_members_is_about_none_of_them(tmp_path: Path, line: str) -> None:
    file = tmp_path / "run.txt"
    file.write_text(f"{line}\n")
    alone = read_old_log(file)
    assert not alone.members and alone.seconds == pytest.approx(3102)
    (total,) = alone.totals
    assert (total.members, total.bytes) == (9, pytest.approx(107.48e9))
    file.write_text(f"Member 3: 441 s, 15.35 GB\n{line}\n")
    assert [member.member for member in read_old_log(file).members] == [3]


def test_the_famous_total_is_seven_members(tmp_path: Path, throughput: Throughput) -> None:
    """9 members, 51.7 minutes, 107.48 GB: seven of 443 s and 15.35 GB."""
    file = tmp_path / "run.txt"
    file.write_text(
        "".join(f"Member {m}: 443 s, 15.35 GB\n" for m in range(1, 8)) + "9 members, 51.7 minutes, 107.48 GB\n"
    )
    found = read_old_log(file, throughput.baseline)
    assert len(found.members) == 7
    assert found.seconds == pytest.approx(7 * 443)
    assert any("9 members, the log lists 7 finished ones" in problem for problem in found.problems)
    assert any("that is 7 members" in problem for problem in found.problems)
    assert not any("add up" in problem for problem in found.problems)


def test_a_sound_log_has_no_problems(tmp_path: Path, throughput: Throughput) -> None:
    file = tmp_path / "run.txt"
    lines = [f"Member {m}: {440 + m} s, 15.35 GB" for m in range(1, 4)]
    file.write_text("\n".join(lines) + f"\nTotal: 3 members, {(441 + 442 + 443) / 60:.1f} minutes, 46.05 GB\n")
    found = read_old_log(file, throughput.baseline)
    assert found.problems == ()
    assert found.totals[0].members == 3


def test_times_and_sizes_that_do_not_add_up_are_told(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text(
        "Member 1: 400 s, 15 GB\nMember 2: 400 s, 15 GB\nMember 2: 400 s, 15 GB\nTotal: 2 members, 9 min, 31 GB\n"
    )
    text = "\n".join(read_old_log(file).problems)
    assert "time 9.00 min, its members add up to 20.00 min" in text
    assert "size 31.00 GB, its members add up to 45.00 GB" in text
    assert "members 2 appear more than once" in text


def test_failed_members_were_paid_too(tmp_path: Path, machines: Machines) -> None:
    file = tmp_path / "run.txt"
    file.write_text("Member 1: 3600 s\nMember 2 FAILED after 1800 s: CUDA out of memory\n")
    found = read_old_log(file)
    assert [member.failed for member in found.members] == [False, True]
    price = machines.machine("a2-ultragpu-1g").price("us-central1").on_demand
    assert found.usd(machines, "a2-ultragpu-1g", "us-central1") == pytest.approx(1.5 * price)
    assert found.usd(machines, "a2-ultragpu-1g", "us-central1", coiled=True) == pytest.approx(1.5 * (price + 1.6))


@pytest.mark.parametrize("content", ["", "hello\nworld\n", "Average per member: 443 s\n", "9 members, 51.7 minutes\n"])
def test_a_log_of_something_else_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "run.txt"
    file.write_text(content)
    with pytest.raises(InputError, match="no line names a member"):
        read_old_log(file)


def test_a_missing_log_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.txt: no such file"):
        read_old_log(tmp_path / "gone.txt")


def test_the_baseline_does_not_add_up(machines: Machines, throughput: Throughput) -> None:
    checks = {check.recorded: check for check in check_baseline(throughput.baseline, machines)}
    assert not checks["$0.92 for 443 s"].agrees
    assert "$7.48 an hour" in checks["$0.92 for 443 s"].computed
    assert not checks["$35 to $42 for 50 members"].agrees
    assert "50 x $0.92 = $46.00" in checks["$35 to $42 for 50 members"].computed
    assert checks["6.5 to 7 h for 50 members"].agrees
    assert checks["$35 to $42 for 6.5 to 7 h"].agrees


def test_a_baseline_that_adds_up_is_said_to(machines: Machines, throughput: Throughput) -> None:
    hours = 50 * 443 / 3600
    sound = dataclasses.replace(
        throughput.baseline, member_usd=0.70, ensemble_usd=(34.0, 36.0), ensemble_hours=(hours, hours * 1.05)
    )
    assert all(check.agrees for check in check_baseline(sound, machines))


def test_the_program_accounts_for_a_log(tmp_path: Path, root: Path) -> None:
    log = tmp_path / "run.txt"
    log.write_text(
        "".join(f"Member {m}: 443 s, 15.35 GB\n" for m in range(1, 8)) + "9 members, 51.7 minutes, 107.48 GB\n"
    )
    command = [sys.executable, str(root / "benchmarks" / "old_logs.py"), str(log)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "7 members finished, 0 failed" in shown
    assert "that is 7 members" in shown


def test_the_program_checks_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--baseline"]) == 0
    assert capsys.readouterr().out.count("DOES NOT") == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [("all members: 50 members in 35 s\n", "no line names a member"), (None, "Is a directory, expected a log of past")],
)
def test_what_is_no_log_is_one_line(
    content: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    path.mkdir() if content is None else path.write_text(content)
    assert main([str(path)]) == InputError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ") and expected in line


@pytest.mark.parametrize(
    "line",
    [
        f"member 1: {'9' * 400} GB in 443 s",
        f"member 1: 443 s, {'1' * 200_000}",
        "1" * 200_000,
        f"{'9' * 4000} members took 443 s, 15 GB",
    ],
    ids=["size", "a member's line", "a line", "members"],
)
def test_figures_of_hundreds_of_digits_are_no_figures(line: str, tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text(f"{line}\nmember 2 took 443 s, 15.35 GB\n")
    assert sum(one.bytes for one in read_old_log(path).members if not math.isnan(one.bytes)) == pytest.approx(15.35e9)
    assert main([str(path)]) == 0
