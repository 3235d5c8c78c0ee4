"""The cycles of a run: what names them, in which order, and what is refused in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import EACH_CYCLE, parse_cycles
from aifs_ensemble.common.errors import ConfigError

WEEKLY = "20250101_0000..20251225_0000 every 7d"
REST: dict[str, Any] = {
    "model": "demo", "members": "1-2", "lead_hours": 12, "scratch": "scratch",
    "initial_conditions": {"source": "idealised"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("20250108_0000", ["20250108_0000"]),
        (["20250108_0000", "20250101_0600"], ["20250101_0600", "20250108_0000"]),
        ("20250108_0000, 20250101_0600", ["20250101_0600", "20250108_0000"]),
        ([202501080000], ["20250108_0000"]),  # YAML without quotes
        ("20250228_1200..20250301_1200 every 12h", ["20250228_1200", "20250301_0000", "20250301_1200"]),
        ("20240228_0000 .. 20240301_0000 every 1 d", ["20240228_0000", "20240229_0000", "20240301_0000"]),
        ("20250101_0000..20250110_0000 every 7d", ["20250101_0000", "20250108_0000"]),
        ("20250101_0000..20250101_0000 every 7d", ["20250101_0000"]),
        (["20250101_0000..20250103_0000 every 2d", "20250102_0000"],
         ["20250101_0000", "20250102_0000", "20250103_0000"]),
    ],
)  # fmt: skip
def test_what_names_cycles(given: Any, expected: list[str]) -> None:
    assert parse_cycles(given) == tuple(expected)


def test_a_year_of_weeks() -> None:
    days = [datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=7 * week) for week in range(52)]
    expected = [
        f"{day.year}{day.month:02d}{day.day:02d}_0000" for day in days if day <= datetime(2025, 12, 25, tzinfo=UTC)
    ]
    assert parse_cycles(WEEKLY) == tuple(expected) and len(expected) == 52


def test_a_file_has_cycles_and_ranges_a_line(tmp_path: Path) -> None:
    path = tmp_path / "cycles.txt"
    path.write_text("# the winter\n20250115_0000  # a storm\n\n20250101_0000..20250108_0000 every 7d\n")
    assert parse_cycles(str(path)) == ("20250101_0000", "20250108_0000", "20250115_0000")


FORMS = (
    "expected cycles such as 20250819_0000, a range such as 20250101_0000..20251225_0000 every 7d, or a file of these"
)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["last week"], f"'last week', {FORMS}"),
        ("no/such/file.txt", f"'no/such/file.txt', {FORMS} (No such file or directory)"),
        (["2025-01-01"], f"'2025-01-01', {FORMS}"),
        (["20250101_0000", "20250101_0000"], "20250101_0000 named more than once"),
        (["20250101_0000..20250108_0000 every 7d", "20250108_0000"], "20250108_0000 named more than once"),
        (["20250101_0300"], "'20250101_0300', expected hour 00, 06, 12 or 18"),
        (["20250230_0000"], "'20250230_0000' is not a cycle, expected YYYYMMDD_HHMM such as 20250819_0000"),
        ("20250201_0000..20250101_0000 every 7d",
         "'20250201_0000..20250101_0000 every 7d' runs backwards, expected the earlier cycle first"),
        ("20250101_0000..20250201_0000",
         "'20250101_0000..20250201_0000', expected a step after it, such as every 7d or every 12h"),
        ("20250101_0000..20250201_0000 every 3h",
         "'20250101_0000..20250201_0000 every 3h', expected a step of 6 hours or a multiple"),
        ("20250101_0000..20250201_0000 every 0d",
         "'20250101_0000..20250201_0000 every 0d', expected a step of 6 hours or a multiple"),
        ("00010101_0000..99991231_0000 every 6h",
         "'00010101_0000..99991231_0000 every 6h', expected at most 10000 cycles"),
        ([], f"nothing named, {FORMS}"),
    ],
)  # fmt: skip
def test_what_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config(REST | {"cycles": given})
    assert str(refused.value) == f"config: cycles: {says}"


def test_a_line_of_a_file_that_is_no_cycle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cycles.txt"
    path.write_text("20250101_0000\n2025\n")
    with pytest.raises(ConfigError, match=r"config: cycles: .*cycles\.txt:2: '2025', expected cycles such as"):
        parse_cycles(str(path))
    path.write_text("20250101_0000\n20250101_0100\n")
    with pytest.raises(ConfigError, match=r"config: cycles: .*cycles\.txt:2: '20250101_0100', expected hour"):
        parse_cycles(str(path))


def test_exactly_one_of_the_two_keys() -> None:
    with pytest.raises(ConfigError) as refused:
        Config(REST | {"cycle": "20250101_0000", "cycles": ["20250108_0000"]})
    assert str(refused.value) == "config: cycles: beside cycle: '20250101_0000', expected one of the two (cycle: null)"
    with pytest.raises(ConfigError, match=r"^config: cycle is missing: the initial time"):
        Config(REST)
    assert Config(REST | {"cycle": None, "cycles": ["20250108_0000"]}).cycle == "20250108_0000"


def test_a_configuration_of_several_gives_those_of_one() -> None:
    config = Config(REST | {"cycles": WEEKLY, "destination": "results"})
    assert len(config.cycles) == 52 and config.members == (1, 2)
    one = config.of_cycle("20250108_0000")
    alone = Config(REST | {"cycle": "20250108_0000", "destination": "results"})
    assert one.to_dict() == alone.to_dict()
    assert one.cycle_time == datetime(2025, 1, 8, tzinfo=UTC)
    assert (one.scratch, one.objects) == (alone.scratch, alone.objects)
    assert alone.of_cycle("20250108_0000") is alone
    pattern = config.of_cycle(EACH_CYCLE)
    assert pattern.objects.lead(1, 6) == "{cycle}/forecasts/aifs_ens_forecast_{cycle}_member001_h006.grib2"
    for name in ("cycle", "cycle_time", "scratch", "objects"):
        with pytest.raises(ConfigError, match="52 cycles, 20250101_0000 to 20251224_0000, expected one here"):
            getattr(config, name)


def test_a_configuration_travels_with_its_cycles(tmp_path: Path) -> None:
    """Where the file is not."""
    path = tmp_path / "cycles.txt"
    path.write_text("20250101_0000\n20250108_0000\n")
    content = json.loads(json.dumps(Config(REST | {"cycles": str(path)}).to_dict()))
    path.unlink()
    assert Config(content).cycles == ("20250101_0000", "20250108_0000")
