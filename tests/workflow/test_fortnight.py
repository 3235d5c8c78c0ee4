"""A schedule by itself: cycles that appear late, or never, and one with a broken file, one run a day.

Every cycle is forecast once, none twice, and what was missed is said. The service and the clock are doubles
(`late_service`); snakemake, downloads, forecasts and deliveries are real.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.lease import RunLease
from doubles.opendata_replica import build_replica
from doubles.opendata_server import Fault

from workflow.late_service import ClockFile, LateService, snakemake
from workflow.project import Project

pytestmark = [pytest.mark.workflow, pytest.mark.cloud]
FIRST = datetime(2025, 8, 18, tzinfo=UTC)
# when the files of a run usually appear, and when the schedule starts a run
HOURS, AT = 8.0, timedelta(hours=9)


@dataclass
class Day:
    """A run of the schedule: its exit code, what it said, the notice that it gave, and the cycles it forecast."""

    code: int
    said: str
    notice: dict[str, Any] | None
    forecast: list[str]


class Schedule:
    """A checkout that runs ``latest-00z`` each day at 9 UTC, against a service of so many days."""

    def __init__(self, folder: Path, days: int, late: dict[str, float | None], faults: list[Fault], **initial: Any):
        folder.mkdir()
        one = build_replica(folder / "one", FIRST, [1], "10x10")
        for day in range(days):
            _as_of(one, folder / "service", FIRST + timedelta(days=day))
        self.clock = ClockFile(folder / "clock")
        self.service = LateService(folder / "service", self.clock, HOURS, late, faults)
        self.project = Project.copy(
            folder / "project", cycle="latest-00z", members="1", lead_hours=6,
            forecast={"encoders": 1, "restart_hours": 6},
            initial_conditions={
                "source": "ecmwf-open-data", "checks": "warn",
                "ecmwf_open_data": {"sources": [self.service.url], "attempts": 1, "stall_seconds": 5}, **initial,
            },
            notify={"command": "tee notice.json"},
        )  # fmt: skip

    def run(self, day: int, *arguments: str, hours: float = 0) -> Day:
        """Run the schedule on a day, so many hours after 9 UTC."""
        self.clock.set(FIRST + timedelta(days=day, hours=hours) + AT)
        told = self.project.folder / "notice.json"
        told.unlink(missing_ok=True)
        before = self.made()
        code, said = snakemake(self.project.folder, self.clock, "--profile", "local", *arguments)
        assert "Traceback" not in said, said[-3000:]
        after = self.made()
        assert all(after[cycle] == stamp for cycle, stamp in before.items()), "a cycle was forecast twice"
        notice = json.loads(told.read_text()) if told.exists() else None
        return Day(code, said, notice, sorted(set(after) - set(before)))

    def made(self) -> dict[str, int]:
        """Return when each delivered cycle's lead was written."""
        found = (self.project.folder / "results").glob("*/forecasts/*_h006.grib2")
        return {path.parents[1].name: path.stat().st_mtime_ns for path in found}


def _as_of(one: Path, root: Path, cycle: datetime) -> None:
    """Copy the files of the first cycle as those of another."""
    import eccodes

    for path in sorted(one.rglob("*.grib2")):
        run = datetime.strptime(path.name[:10], "%Y%m%d%H").replace(tzinfo=UTC) + (cycle - FIRST)
        place = (
            root
            / f"{run:%Y%m%d}"
            / f"{run:%H}z"
            / path.relative_to(one).parent.relative_to(path.relative_to(one).parents[3])
        )
        place.mkdir(parents=True, exist_ok=True)
        name = f"{run:%Y%m%d%H}{path.name[10:]}"
        lines, offset = [], 0
        with open(path, "rb") as file, open(place / name, "wb") as copy:
            index = [json.loads(line) for line in path.with_suffix(".index").read_text().splitlines()]
            for entry in index:
                file.seek(entry["_offset"])
                handle = eccodes.codes_new_from_message(file.read(entry["_length"]))
                eccodes.codes_set(handle, "dataDate", int(f"{run:%Y%m%d}"))
                message = eccodes.codes_get_message(handle)
                eccodes.codes_release(handle)
                copy.write(message)
                lines.append(json.dumps(entry | {"date": f"{run:%Y%m%d}", "_offset": offset, "_length": len(message)}))
                offset += len(message)
        (place / name).with_suffix(".index").write_text("\n".join(lines) + "\n")


def lease_of(cycle: str, destination: Path) -> RunLease:
    """Take the lease of a cycle, as a run of another checkout on this machine would."""
    raw = {
        "model": "demo", "cycle": cycle, "members": 1, "lead_hours": 6, "scratch": "s", "destination": str(destination),
        "initial_conditions": {"source": "idealised"},
    }  # fmt: skip
    config = Config(raw)
    lease = RunLease(config, open_destination(config))
    lease.take()
    return lease


def name(day: int) -> str:
    return f"{FIRST + timedelta(days=day):%Y%m%d}_0000"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "schedule"
    shutil.rmtree(tmp_path / "schedule", ignore_errors=True)


@pytest.mark.long
def test_two_days(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The second day's cycle is late: that day's run says so and makes nothing again; the evening's run makes it.

    Before that, another checkout makes the first day's cycle at the same destination: nothing is computed beside it.
    """
    schedule = Schedule(folder, 2, {"2025081900": 10.0}, [])
    results = schedule.project.folder / "results"
    monkeypatch.chdir(schedule.project.folder)
    schedule.clock.set(FIRST + AT)
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", schedule.clock.now)
        lease = lease_of(name(0), results)
    refused = schedule.run(0)
    assert refused.code == 1 and refused.forecast == [] and refused.notice is None
    assert [line for line in refused.said.splitlines() if "another run makes it" in line] == [
        f"Error: {name(0)}: another run makes it ({platform.node()}:{Path.cwd()}, begun at "
        f"{FIRST + AT:%Y-%m-%d %H:%M:%S} UTC, showed life 0 s ago), expected one at a time; if it is gone, remove "
        f"results/{name(0)}/run.json, or wait 15 min from then"
    ], refused.said[-3000:]
    lease.give_back()
    # who only looks needs no network: it means what is there
    monkeypatch.setattr(clock, "now", schedule.clock.now)
    first = schedule.run(0)
    assert (first.code, first.forecast) == (0, [name(0)]), first.said[-3000:]
    assert f"cycle latest-00z: {name(0)}" in first.said
    assert first.notice and first.notice["state"] == "complete"
    second = schedule.run(1)
    assert (second.code, second.forecast, second.notice) == (0, [], None), second.said[-3000:]
    assert f"cycle latest-00z: {name(0)}; {name(1)}: {schedule.service.url}: no index of {name(1)}" in second.said
    assert "Nothing to be done" in second.said
    assert not list(results.glob("*/run.json"))
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"cycle latest-00z: {name(0)}\n"
    assert [member["state"] for member in json.loads(shown.out)] == ["delivered"]
    asked = len(schedule.service.log)
    assert main(["plan", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["cycle"] == name(0) and f"; {name(1)}: " in shown.err
    assert {path.endswith(".index") for path, _ in schedule.service.log[asked:]} == {True}
    evening = schedule.run(1, hours=9)
    assert (evening.code, evening.forecast) == (0, [name(1)]), evening.said[-3000:]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_range_that_grows(folder: Path) -> None:
    """Of three days, which a range up to the newest names: the last is waited for, and one that was missed is made."""
    schedule = Schedule(folder, 3, {"2025082000": 10.5}, [], wait_hours=4)
    asked = ["--config", f"cycles={name(0)}..latest-00z every 1d"]
    first = schedule.run(0, *asked)
    assert (first.code, first.forecast) == (0, [name(0)]), first.said[-3000:]
    assert f"cycles latest-00z: {name(0)}" in first.said
    last = schedule.run(2, *asked)
    assert (last.code, last.forecast) == (0, [name(1), name(2)]), last.said[-3000:]
    assert f"{name(2)}: its inputs are there, after 1 h 35 min" in last.said
    assert f"{name(1)}: its inputs are there" not in last.said and "not forecast since" not in last.said
    assert schedule.service.log and not list((schedule.project.folder / "results").glob("*/run.json"))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_fortnight(folder: Path) -> None:
    """Runs wait up to four hours.

    Day 2 appears within that, day 5 a day later, day 8 never; a file of day 10 is broken until somebody mends it.
    """
    broken = Fault("2025082800.*enfo-ef.grib2", zeros=True)
    late = {"2025082000": 10.5, "2025082300": 30.0, "2025082600": None}
    schedule = Schedule(folder, 14, late, [broken], wait_hours=4)
    days = [schedule.run(day) for day in range(14)]

    bad = {5, 8, 10}
    for number, day in enumerate(days):
        assert day.forecast == ([] if number in bad else [name(number)]), f"day {number}: {day.said[-3000:]}"
        assert (day.code != 0) == (number in bad)
        assert day.notice and day.notice["cycle"] == name(number)
        assert day.notice["state"] == ("failed" if number in bad else "complete")
        others = day.notice["other_cycles"]
        if number == 6:
            assert others == [f"not forecast since {name(4)}: {name(5)}; --config cycle={name(5)} makes that one"]
        elif number == 9:
            assert others == [f"not forecast since {name(7)}: {name(8)}; --config cycle={name(8)} makes that one"]
        elif number == 11:
            assert others == [f"{name(10)} is failed: --config cycle={name(10)} goes on with it"]
        else:
            assert others == []
        assert all(line in day.said for line in others)
    assert "its inputs are there, after 1 h 35 min" in days[2].said, days[2].said[-3000:]
    for number in (5, 8):
        assert f"{name(number)}' did not appear within initial_conditions.wait_hours, 4: " in days[number].said
        reason = days[number].notice["reason"]  # type: ignore[index]
        assert f"no index of {name(number)}" in reason

    # as the lines say: the late one can be made now, and the broken one once it is mended
    schedule.service.faults.clear()
    for number in (5, 10):
        mended = schedule.run(13, "--config", f"cycle={name(number)}", hours=2)
        assert (mended.code, mended.forecast) == (0, [name(number)]), mended.said[-3000:]
    again = schedule.run(13, hours=4)
    assert (again.code, again.forecast, again.notice) == (0, [], None)
    assert sorted(schedule.made()) == [name(number) for number in range(14) if number != 8]
