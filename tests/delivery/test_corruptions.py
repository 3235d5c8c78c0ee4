"""A few seeds of the corruption campaign in every run of the tests; thousands by `-m long`, new ones by AIFS_SEED."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from delivery.corruptions import Result, run_campaign, run_flips, summary

SEED = int(os.environ.get("AIFS_SEED", "1"))
COUNT = int(os.environ.get("AIFS_CORRUPTIONS", "600"))
Campaign = Callable[[range, Path], list[Result]]
pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice")


def check(results: list[Result]) -> None:
    wrong = [f"seed {one.seed}: {one.what}: {one.silent} {one.stacks} {one.hangs}" for one in results
             if one.silent or one.stacks or one.hangs]  # fmt: skip
    assert not wrong, "\n".join(wrong[:10])
    print(summary(results))


@pytest.mark.parametrize("campaign", [run_campaign, run_flips])
def test_a_short_campaign_is_named_and_mended(campaign: Campaign, tmp_path: Path) -> None:
    check(campaign(range(50), tmp_path))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("campaign", "times"), [(run_campaign, 1), (run_flips, 4)])
def test_a_long_campaign_is_named_and_mended(campaign: Campaign, times: int, tmp_path: Path) -> None:
    check(campaign(range(SEED * 1_000_000, SEED * 1_000_000 + COUNT * times), tmp_path))
