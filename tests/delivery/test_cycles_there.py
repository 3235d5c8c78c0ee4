"""What words in a list of cycles mean to those who look: what a run made of them, by the names that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common.cycles import words_of
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.delivery.cycles_there import words_there

from delivery.members import make_config

# Thursdays at 00 UTC, and days after the last of them
WEEKS = ["20250731_0000", "20250807_0000", "20250814_0000"]
DAYS = ["20250815_1200", "20250816_0000"]


@pytest.mark.parametrize(
    ("there", "cycles", "expected"),
    [
        (WEEKS, ["latest"], {"latest": WEEKS[2]}),
        (WEEKS, ["latest", "latest-1w"], {"latest": WEEKS[2], "latest-1w": WEEKS[1]}),
        # the run made a week before the newest, and that is the newest there
        (WEEKS, ["latest-1w"], {"latest-1w": WEEKS[2]}),
        (WEEKS, ["20250731_0000..latest-1w every 7d"], {"latest-1w": WEEKS[2]}),
        (WEEKS, ["latest-2w..latest-1w every 7d"], {"latest-2w": WEEKS[1], "latest-1w": WEEKS[2]}),
        # a day of its own counts back from the newest, whatever day that is
        (WEEKS + DAYS, ["latest", "latest-thursday"], {"latest": DAYS[1], "latest-thursday": WEEKS[2]}),
        (WEEKS + DAYS, ["latest-thursday"], {"latest-thursday": WEEKS[2]}),
        (WEEKS + DAYS, ["latest-12z"], {"latest-12z": DAYS[0]}),
        (WEEKS, ["latest-thursday-2w..latest every 7d"], {"latest-thursday-2w": WEEKS[0], "latest": WEEKS[2]}),
        # of a range that ends with a word any cycle may be: these are Fridays
        (["20250801_0000", "20250808_0000"], ["20250801_0000..latest-thursday every 7d"],
         {"latest-thursday": WEEKS[1]}),
    ],
)  # fmt: skip
def test_words_mean_what_is_there(tmp_path: Path, there: list[str], cycles: list[str], expected: dict) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "results"), cycle="20250901_0000")
    for index, cycle in enumerate(there):
        (tmp_path / ("results" if index % 2 else "scratch") / cycle).mkdir(parents=True)
    found = words_there(words_of(cycles), config)
    assert {word.text: f"{time:%Y%m%d_%H%M}" for word, time in found.items()} == expected


def test_where_there_is_none_it_is_said_in_one_line(tmp_path: Path) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "results"), cycle="20250901_0000")
    (tmp_path / "results" / DAYS[0]).mkdir(parents=True)
    with pytest.raises(InputError, match=r"^config: cycles: 'latest-thursday': .* have no such cycle, expected one"):
        words_there(words_of(["latest-thursday"]), config)
