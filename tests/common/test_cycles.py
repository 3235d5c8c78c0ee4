"""The cycles of a run: what names them, in which order, and what is refused in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.cycle_words import EXPECTED as WORDS
from aifs_ensemble.common.cycles import EACH_CYCLE, parse_cycles, words_of
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
    "expected cycles such as 20250819_0000 or latest, a range such as 20250101_0000..20251225_0000 every 7d, or a file "
    "of these"
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
        ("latest-doomsday", f"'latest-doomsday', {WORDS}"),
        (["20250101_0000..latest-4h every 1d"], f"'latest-4h', {WORDS}"),
        ("latest.txt", f"'latest.txt', {FORMS} (No such file or directory)"),
        (["latest"], "'latest' is not a cycle, expected YYYYMMDD_HHMM such as 20250819_0000"),
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
    assert str(refused.value) == "config: cycles: beside cycle: '20250101_0000', expected one of the two"
    with pytest.raises(ConfigError, match=r"^config: cycle is missing: the initial time"):
        Config(REST)
    assert Config(REST | {"cycle": None, "cycles": ["20250108_0000"]}).cycle == "20250108_0000"


A, B = "20250101_0000", "20250108_0000"


@pytest.mark.parametrize(
    ("files", "over", "expected"),
    [
        (["cycle: {A}", "cycles: [{B}]"], {}, {"cycle": None, "cycles": [B]}),
        (["cycles: [{B}]", "members: 1", "cycle: {A}"], {}, {"cycle": A, "cycles": None}),
        (["cycle: {A}", "cycle: null\ncycles: [{B}]"], {}, {"cycle": None, "cycles": [B]}),
        (["cycle: {A}"], {"cycles": B}, {"cycle": None, "cycles": B}),
        (["cycle: {A}"], {"cycles": B, "cycle": "null"}, {"cycle": "null", "cycles": B}),
        (["cycles: [{B}]"], {"cycle": "latest"}, {"cycle": "latest", "cycles": None}),
        (["cycles: [{B}]", "cycle: {A}"], {"cycle": None}, {"cycle": None, "cycles": [B]}),
        (["cycle: {A}\ncycles: [{B}]", "cycle: {B}"], {}, {"cycle": B, "cycles": None}),
    ],
)
def test_the_key_that_is_given_later_counts(
    tmp_path: Path, files: list[str], over: dict[str, Any], expected: dict[str, Any]
) -> None:
    paths = [tmp_path / f"{index}.yaml" for index in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        path.write_text(text.format(A=f'"{A}"', B=f'"{B}"'))
    found = read_files(*paths, over=over)
    assert {key: found.get(key) for key in ("cycle", "cycles")} == expected


def test_both_in_one_place_are_refused_by_file_and_line(tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(json.dumps(REST | {"cycle": A}))
    own.write_text(f'cycle: "{A}"\nmembers: 1\ncycles: ["{B}"]\n')
    with pytest.raises(ConfigError) as refused:
        Config(read_files(base, own), [base, own])
    assert str(refused.value) == f"{own}:3: cycles: beside cycle: '{A}', expected one of the two"
    with pytest.raises(ConfigError, match=r"^config: cycles: beside cycle: "):
        Config(read_files(base, over={"cycle": A, "cycles": B}), [base])


MEANT = {"latest": "20250116_0600", "latest-1d": "20250115_0600", "latest-00z": "20250116_0000"}


@pytest.mark.parametrize(
    ("given", "expected", "said"),
    [
        (["latest", "latest-1d"], ["20250115_0600", "20250116_0600"], []),
        ("latest-1d, 20250101_0000", ["20250101_0000", "20250115_0600"], []),
        ("20250101_0000..latest every 7d", ["20250101_0000", "20250108_0000", "20250115_0000"], []),
        ("latest-1d..latest-00z every 12h", ["20250115_0600", "20250115_1800"], []),
        ("latest-00z..20250117_0000 every 1d", ["20250116_0000", "20250117_0000"], []),
        (["latest", "20250116_0600"], ["20250116_0600"],
         ["cycles latest: 20250116_0600 is named already, counted once"]),
        (["20250114_0000..latest every 1d", "latest-00z"], ["20250114_0000", "20250115_0000", "20250116_0000"],
         ["cycles latest-00z: 20250116_0000 is named already, counted once"]),
        (["20250114_0000..latest every 1d", "20250115_0000", "20250116_0000"],
         ["20250114_0000", "20250115_0000", "20250116_0000"],
         ["cycles 20250114_0000..latest every 1d: 20250115_0000, 20250116_0000 are named already, counted once"]),
    ],
)  # fmt: skip
def test_words_among_cycles(given: Any, expected: list[str], said: list[str]) -> None:
    lines: list[str] = []
    assert parse_cycles(given, MEANT, lines.append) == tuple(expected)
    assert lines == said
    assert set(words_of(given)) and {word.text for word in words_of(given)} <= set(MEANT)


def test_words_are_found_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "cycles.txt"
    path.write_text("20250101_0000..latest-00z every 7d  # all of them\nlatest-1d\n")
    assert {word.text: in_range for word, in_range in words_of(str(path)).items()} == {
        "latest-00z": True, "latest-1d": False,
    }  # fmt: skip
    assert parse_cycles(str(path), MEANT) == ("20250101_0000", "20250108_0000", "20250115_0000", "20250115_0600")
    path.write_text("20250101_0000\nlatest-noon\n")
    assert words_of(str(path)) == {}
    with pytest.raises(ConfigError, match=r"^config: cycles: .*cycles\.txt:2: 'latest-noon', expected latest, "):
        parse_cycles(str(path))
    assert words_of("20250101_0000") == words_of(None) == words_of(20250101) == {}


def test_what_words_mean_is_told_where_it_cannot_be() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_cycles("20250201_0000..latest every 7d", MEANT)
    assert str(refused.value) == (
        "config: cycles: '20250201_0000..latest every 7d' runs backwards (latest is 20250116_0600), expected the "
        "earlier cycle first"
    )
    with pytest.raises(ConfigError, match=r"^config: cycles: 20250108_0000 named more than once$"):
        parse_cycles(["20250108_0000", "20250108_0000", "latest"], MEANT)


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
