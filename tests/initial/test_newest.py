"""The newest cycle with all its inputs: by index files alone, on a service that lacks one thing after the other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycle_words import parse_word
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError
from aifs_ensemble.initial.newest import Availability, newest_with_inputs
from aifs_ensemble.initial.publication import wait_for_inputs
from aifs_ensemble.workflow.cycle import wait_for_sources
from doubles.opendata_server import Fault, OpenDataServer, serve

NEWEST, BEFORE = "20250819_0000", "20250818_0000"
# both cycles are due, the next one is not
NOW = datetime(2025, 8, 19, 12, tzinfo=UTC)
Make = Callable[..., Config]


def cycle_files(root: Path, cycle: str) -> dict[str, Path]:
    """Return the index files of a cycle: of the ensemble before and at its time, and of the constants."""
    at = f"{cycle[:8]}00"
    before = {"2025081900": "2025081818", "2025081800": "2025081718"}[at]
    names = {"before": f"{before}0000-0h-enfo-ef", "at": f"{at}0000-0h-enfo-ef", "constants": f"{at}0000-0h-oper-fc"}
    return {kind: next(root.rglob(f"{name}.index")) for kind, name in names.items()}


@pytest.fixture
def service(replica: Path, tmp_path: Path) -> Path:
    """The replica's cycle, and its index files again as the cycle of the day before."""
    root = tmp_path / "service"
    shutil.copytree(replica, root)
    for path in sorted(replica.rglob("*.index")):
        day, hour = path.name[:8], path.name[8:10]
        earlier = f"{datetime.strptime(day, '%Y%m%d') - timedelta(days=1):%Y%m%d}"
        place = root / str(path.relative_to(replica)).replace(day, earlier)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path.read_text().replace(day, earlier))
        assert hour in ("00", "18")
    return root


def config_of(make_config: Make, server: OpenDataServer, members: str = "1-2", **initial) -> Callable[[str], Config]:
    service = {"sources": [server.url], "attempts": 1, "stall_seconds": 2}
    initial = {"source": "ecmwf-open-data", "ecmwf_open_data": service, **initial}
    return lambda cycle: make_config(cycle, members, **initial)


def drop(path: Path, **keys: str) -> None:
    """Remove the lines of an index that say so."""
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not keys.items() <= json.loads(line).items()]
    assert len(kept) < len(lines)
    path.write_text("\n".join(kept) + "\n")


def test_the_newest_cycle_is_taken_when_it_is_whole(make_config: Make, service: Path) -> None:
    with serve(service) as server:
        found = newest_with_inputs(parse_word("latest-00z"), config_of(make_config, server), Availability(), NOW)
    assert (found.cycle, found.lacking) == (NEWEST, {})
    assert {path.endswith(".index") for path, _ in server.log} == {True}, "no field is asked for"
    assert not any("2025081718" in path for path, _ in server.log), "an older cycle was asked for"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda files: files["at"].unlink(), "no index of 20250819_0000"),
        (lambda files: files["before"].unlink(), "no index of 20250818_1800"),
        (lambda files: files["constants"].unlink(), "20250819_0000 lacks the constants"),
        (lambda files: drop(files["constants"], param="sdor"), "20250819_0000 lacks the constants"),
        (lambda files: drop(files["at"], param="t", levelist="500", number="2"), "lacks fields of members 2"),
        (lambda files: drop(files["before"], number="1"), "20250818_1800 lacks fields of members 1"),
        (lambda files: drop(files["before"], param="sot"), "20250818_1800 lacks fields of members 1-2"),
    ],
)
def test_whatever_is_missing_the_cycle_before_is_taken(
    make_config: Make, service: Path, broken: Callable[[dict[str, Path]], None], said: str
) -> None:
    broken(cycle_files(service, NEWEST))
    with serve(service) as server:
        found = newest_with_inputs(parse_word("latest-00z"), config_of(make_config, server), Availability(), NOW)
    assert found.cycle == BEFORE
    assert said in found.lacking[NEWEST]


def test_a_cycle_that_is_not_due_is_not_asked_for(make_config: Make, service: Path) -> None:
    early = datetime(2025, 8, 19, 6, 44, tzinfo=UTC)
    with serve(service) as server:
        found = newest_with_inputs(parse_word("latest-00z"), config_of(make_config, server), Availability(), early)
        assert (found.cycle, found.lacking) == (BEFORE, {NEWEST: "not due yet"})
        assert not any("2025081900" in path for path, _ in server.log)
        minute = newest_with_inputs(
            parse_word("latest-00z"), config_of(make_config, server), Availability(), early + timedelta(minutes=1)
        )
    assert minute.cycle == NEWEST


def test_a_whole_second_source_is_enough(make_config: Make, service: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty") as empty, serve(service) as whole:
        sources = {"sources": [empty.url, whole.url], "attempts": 1, "stall_seconds": 2}
        configured = config_of(make_config, whole, ecmwf_open_data=sources)
        assert newest_with_inputs(parse_word("latest-00z"), configured, Availability(), NOW).cycle == NEWEST


def test_an_offset_needs_its_own_inputs(make_config: Make, service: Path) -> None:
    with serve(service) as server:
        configured = config_of(make_config, server)
        assert newest_with_inputs(parse_word("latest-00z-1d"), configured, Availability(), NOW).cycle == BEFORE
        with pytest.raises(InputError, match=r"'latest-00z-2d' is 20250817_0000, which lacks inputs: .*no index of"):
            newest_with_inputs(parse_word("latest-00z-2d"), configured, Availability(), NOW)


def test_without_network_one_line(make_config: Make, service: Path) -> None:
    with serve(service) as server:
        pass
    with pytest.raises(DownloadError) as refused:
        newest_with_inputs(parse_word("latest"), config_of(make_config, server), Availability(), NOW)
    assert "\n" not in str(refused.value)
    assert re.match(
        r"config: cycle: 'latest' is not known: no source of initial conditions answers: http://127.0.0.1:\d+: "
        r"no connection \(.*\); name a cycle, YYYYMMDD_HHMM$", str(refused.value),
    )  # fmt: skip


def test_a_service_that_has_none_of_them_is_asked_a_few_times(make_config: Make, tmp_path: Path) -> None:
    with serve(tmp_path) as server, pytest.raises(InputError, match="'latest': none of the last 8 has its inputs"):
        newest_with_inputs(parse_word("latest"), config_of(make_config, server), Availability(), NOW)
    assert len(server.log) <= 8


def test_files_by_cycle(make_config: Make, tmp_path: Path) -> None:
    pattern = str(tmp_path / "{cycle}_{member:03d}.grib")
    (tmp_path / "20250818_1200_001.grib").touch()
    (tmp_path / "20250818_1200_002.grib").touch()
    (tmp_path / "20250819_0600_001.grib").touch()

    def configured(cycle: str) -> Config:
        return make_config(cycle, source="file", file={"path": pattern})

    found = newest_with_inputs(parse_word("latest"), configured, Availability(), NOW)
    assert found.cycle == "20250818_1200"
    assert found.lacking["20250819_0600"] == f"no file {tmp_path}/20250819_0600_002.grib"


def test_files_that_say_nothing_of_the_cycle_are_refused(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"initial_conditions.file.path: \['all.grib'\], expected {cycle} in it"):
        newest_with_inputs(
            parse_word("latest"),
            lambda cycle: make_config(cycle, source="file", file={"path": "all.grib"}),
            Availability(),
            NOW,
        )


def files_of_two_models(make_config: Make, **paths: str) -> Callable[[str], Config]:
    """Return what makes the configuration of two models, each with its own file of initial states."""

    def configured(cycle: str) -> Config:
        own = {name.replace("_", "-"): {"path": path} for name, path in paths.items()}
        return Config({**make_config(cycle, source="file", file={"path": "all.grib"}).to_dict(),
                       "model": ["demo", "demo-v2"], "by_model": own})  # fmt: skip

    return configured


def test_files_of_two_models(make_config: Make, tmp_path: Path) -> None:
    """The newest cycle of which both have their files, by the names of each."""
    for name in ("one_20250818_1200", "two_20250818_1200", "one_20250819_0000"):
        (tmp_path / f"{name}.grib").touch()
    configured = files_of_two_models(
        make_config, demo=f"{tmp_path}/one_{{cycle}}.grib", demo_v2=f"{tmp_path}/two_{{cycle}}.grib"
    )
    found = newest_with_inputs(parse_word("latest"), configured, Availability(), NOW)
    assert found.cycle == "20250818_1200"
    assert found.lacking["20250819_0000"] == f"demo-v2: no file {tmp_path}/two_20250819_0000.grib"


@pytest.mark.parametrize("silent", ["demo", "demo-v2"])
def test_files_of_one_of_two_models_that_say_nothing_of_the_cycle_are_refused(make_config: Make, silent: str) -> None:
    paths = {name.replace("-", "_"): "all.grib" if name == silent else "{cycle}.grib" for name in ("demo", "demo-v2")}
    line = rf"initial_conditions.file.path: \['all.grib'\] of {silent}, expected {{cycle}} in it for latest$"
    with pytest.raises(ConfigError, match=line):
        newest_with_inputs(parse_word("latest"), files_of_two_models(make_config, **paths), Availability(), NOW)


class Time:
    """A clock that goes on by waiting alone, and does something at times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: datetime, at: dict[datetime, Callable[[], None]]):
        self.now, self.at, self.waits = now, at, []
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(clock, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        for when in [when for when in self.at if when <= self.now]:
            self.at.pop(when)()


def test_waiting_is_patient_and_asks_for_indexes_alone(
    make_config: Make, service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = cycle_files(service, NEWEST)["at"]
    hidden = late.rename(tmp_path / "hidden")
    time = Time(
        monkeypatch, datetime(2025, 8, 19, 5, 0, tzinfo=UTC),
        {datetime(2025, 8, 19, 8, 0, tzinfo=UTC): lambda: hidden.rename(late)},
    )  # fmt: skip
    said: list[str] = []
    with serve(service) as server:
        config = config_of(make_config, server, wait_hours=6)(NEWEST)
        wait_for_inputs(config, lambda: Availability().lacking(config), said.append)
    # 05:00 to 06:45, then 1, 2, 4 and 8 minutes, then every ten
    assert time.waits == [6300, 60, 120, 240, 480, *[600] * 6]
    assert time.now == datetime(2025, 8, 19, 8, 0, tzinfo=UTC)
    assert {path.endswith(".index") for path, _ in server.log} == {True} and len(server.log) < 20
    assert said[0] == "20250819_0000: not published before 2025-08-19 06:45 UTC, waiting"
    assert said[1:] == [
        f"20250819_0000: {server.url}: no index of 20250819_0000; waiting, for 4 h 15 min at most",
        "20250819_0000: its inputs are there, after 3 h 00 min",
    ]


def test_waiting_ends(make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the service does not answer in between: that may pass."""
    time = Time(monkeypatch, datetime(2025, 8, 19, 7, 0, tzinfo=UTC), {})
    with serve(tmp_path, Fault(status=503, times=2)) as server:
        config = config_of(make_config, server, wait_hours=0.5)(NEWEST)
        with pytest.raises(
            InputError, match=r"did not appear within initial_conditions.wait_hours, 0.5: .*no index of"
        ):
            wait_for_sources([config], None, lambda _: None)
    assert time.now == datetime(2025, 8, 19, 7, 30, tzinfo=UTC)


def test_several_cycles_are_waited_for_together(
    make_config: Make, service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier never comes: it takes the whole wait, no more than that, and the later is asked for all the same."""
    time = Time(monkeypatch, datetime(2025, 8, 19, 7, 0, tzinfo=UTC), {})
    said: list[str] = []
    with serve(service) as server:
        configured = config_of(make_config, server, wait_hours=2)
        wait_for_sources([configured("20250817_0000"), configured(NEWEST)], None, said.append)
        asked = len(server.log)
        with pytest.raises(InputError, match=r"20250817_0000' did not appear [^\n]*\n +[^\n]*20250816_0000' did not"):
            wait_for_sources([configured("20250817_0000"), configured("20250816_0000")], None, said.append)
    assert time.now == datetime(2025, 8, 19, 11, 0, tzinfo=UTC), "two waits of two hours"
    assert "20250817_0000' did not appear within initial_conditions.wait_hours, 2: " in said[-2]
    assert any("2025081900" in path for path, _ in server.log[:asked])


def test_with_waiting_the_newest_that_is_due_by_then_is_meant(make_config: Make, tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        configured = config_of(make_config, server, wait_hours=3)
        at = {
            datetime(2025, 8, 19, 3, 44, tzinfo=UTC): "20250818_0000",
            datetime(2025, 8, 19, 3, 46, tzinfo=UTC): "20250819_0000",
            datetime(2025, 8, 20, 0, 0, tzinfo=UTC): "20250819_0000",
        }
        for now, cycle in at.items():
            assert newest_with_inputs(parse_word("latest-00z"), configured, Availability(), now).cycle == cycle
        # of every six hours, none that is still to come: there would be no end
        almost = datetime(2025, 8, 19, 12, 44, tzinfo=UTC)
        assert newest_with_inputs(parse_word("latest"), configured, Availability(), almost).cycle == "20250819_0000"
        assert not server.log
