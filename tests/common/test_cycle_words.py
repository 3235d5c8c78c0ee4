"""Words for cycles: which times they may mean, by a calendar counted by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from aifs_ensemble.common.cycle_words import is_word, parse_word
from aifs_ensemble.common.errors import ConfigError

# a Wednesday, 10:20 UTC
NOW = datetime(2025, 8, 20, 10, 20, tzinfo=UTC)


def spelled(word: str, now: datetime = NOW) -> list[str]:
    return [f"{time:%d_%H}" for time in parse_word(word).newest_first(now)]


def test_the_newest_cycles_of_each_word() -> None:
    assert spelled("latest") == ["20_06", "20_00", "19_18", "19_12", "19_06", "19_00", "18_18", "18_12"]
    assert spelled("latest-12z") == ["19_12", "18_12", "17_12", "16_12", "15_12", "14_12", "13_12", "12_12"]
    assert spelled("latest-thursday") == ["14_00", "07_00"], "none older than 15 days"
    assert spelled("latest-wednesday-06z") == ["20_06", "13_06", "06_06"]
    assert spelled("latest-wednesday-12z") == ["13_12", "06_12"], "today's has not begun"
    assert spelled("latest", datetime(2025, 8, 20, 12, tzinfo=UTC))[0] == "20_12"


def test_an_offset_is_counted_back_from_what_is_found() -> None:
    hours = {"latest-1d": 24, "latest-18h": 18, "latest-thursday-2w": 336, "latest-00z-3d": 72, "latest": 0}
    assert {text: parse_word(text).offset.total_seconds() / 3600 for text in hours} == hours


def test_what_lies_between_two_cycles_of_a_word() -> None:
    def between(word: str, first: int, last: int) -> list[int]:
        found = parse_word(word).between(*(datetime(2025, 8, day, tzinfo=UTC) for day in (first, last)))
        return [time.day for time in found]

    assert between("latest-00z", 14, 18) == [15, 16, 17]
    assert between("latest-00z", 17, 18) == []
    assert between("latest-thursday", 7, 28) == [14, 21]
    assert between("latest-friday-1d", 7, 28) == [14, 21], "the Thursdays before"


@pytest.mark.parametrize(
    "text", ["latest-", "latest-today", "latest-1", "latest-1m", "latest-5h", "latest-03z", "latest-24z", "latestly"]
)
def test_what_is_no_word(text: str) -> None:
    assert is_word(text)
    with pytest.raises(ConfigError, match=f"config: cycle: '{text}', expected latest, latest-thursday"):
        parse_word(text)


def test_a_cycle_is_no_word() -> None:
    assert not any(map(is_word, ["20250820_0000", 202508200000, None]))
