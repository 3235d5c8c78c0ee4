"""A changed `forecast.output` and what is delivered: less of it is nothing to do, more is other settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.standing import COMPUTED, DELIVERED, OTHER_SETTINGS, SHORT, at_destination, on_scratch
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.outstanding import outstanding
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.plan_text import plan_dict, summary_lines

from delivery.members import make_config, make_member


def config_of(tmp_path: Path, destination: str, output: dict[str, Any], **over: Any) -> Config:
    return make_config(tmp_path / "scratch", destination, members="1", forecast={"output": output}, **over)


def made(config: Config) -> None:
    """Make and deliver member 1 as its configuration says."""
    settings: dict[str, Any] = {}
    if len(config.output_variables) < 100:
        settings["output"] = list(config.output_variables)
    if config.daily:
        settings["daily"] = [list(field) for field in config.daily]
    if config.area:
        settings["area"] = list(config.area)
    write_member_manifest(config.scratch.manifest(1), replace(make_member(config, 1), settings=settings))
    deliver_member(config, 1)


TWO, THREE = {"variables": ["2t", "msl"]}, {"variables": ["2t", "msl", "tp"]}
PART = {**TWO, "area": "europe"}
DAYS = {**TWO, "daily": {"2t": ["max"], "tp": ["sum"]}}


@pytest.mark.parametrize(
    ("first", "asked", "over", "state", "reason"),
    [
        ({}, TWO, {}, DELIVERED, ""),
        (THREE, TWO, {}, DELIVERED, ""),
        (THREE, {**TWO, "every_hours": 12}, {}, DELIVERED, ""),
        (TWO, THREE, {}, OTHER_SETTINGS, "made with no tp in its leads (forecast.output)"),
        (TWO, {}, {}, OTHER_SETTINGS, "made with no 100u and 97 more variables in its leads (forecast.output)"),
        ({**TWO, "every_hours": 12}, TWO, {}, SHORT, "lacks h006, 24 h are asked for"),
        (TWO, TWO, {"lead_hours": 36}, SHORT, "ends at 24 h, 36 h are asked for"),
        (PART, PART, {}, DELIVERED, ""),
        (TWO, PART, {}, DELIVERED, ""),
        (PART, TWO, {}, OTHER_SETTINGS, "made with leads of 72/-25/33/45, not of the globe (forecast.output.area)"),
        (
            PART,
            {**TWO, "area": [60, -25, 33, 45]},
            {},
            OTHER_SETTINGS,
            "made with leads of 72/-25/33/45, not of 60/-25/33/45 (forecast.output.area)",
        ),
        (
            TWO,
            PART,
            {"lead_hours": 36},
            OTHER_SETTINGS,
            "made with leads of the globe, not of 72/-25/33/45 (forecast.output.area), and lacks leads",
        ),
        (DAYS, TWO, {}, DELIVERED, ""),
        (DAYS, {**TWO, "daily": {"tp": ["sum"]}}, {}, DELIVERED, ""),
        (
            TWO,
            DAYS,
            {},
            OTHER_SETTINGS,
            "made with no daily max of 2t and 1 more variables in its leads (forecast.output)",
        ),
        (DAYS, DAYS, {"lead_hours": 36}, SHORT, "ends at 24 h, 36 h are asked for"),
        (
            DAYS,
            TWO,
            {"lead_hours": 36},
            OTHER_SETTINGS,
            "made with 2 daily statistics in its leads, not 0 (forecast.output), and lacks leads",
        ),
        (
            THREE,
            TWO,
            {"lead_hours": 36},
            OTHER_SETTINGS,
            "made with 3 variables in its leads, not 2 (forecast.output), and lacks leads",
        ),
    ],
)
def test_a_changed_output(
    tmp_path: Path, first: dict[str, Any], asked: dict[str, Any], over: dict[str, Any], state: str, reason: str
) -> None:
    destination = str(tmp_path / "destination")
    made(config_of(tmp_path, destination, first))
    config = config_of(tmp_path, destination, asked, **over)
    standing = at_destination(config, open_destination(config), 1)
    assert (standing.state, standing.reason) == (state, reason)
    assert on_scratch(config, 1).state == (COMPUTED if state == DELIVERED else state)
    work = outstanding(config)
    assert (work.steps, bool(work.refusal)) == {
        DELIVERED: (0, False),
        OTHER_SETTINGS: (len(config.steps), True),
        SHORT: (len(config.steps), False),
    }[state]
    if state == OTHER_SETTINGS:
        assert reason.removeprefix("made with ") in str(work.refusal)
        with pytest.raises(VerificationError, match="what is delivered is never overwritten"):
            restore_member(config, 1)


def test_leads_between_are_made_from_restart_states_of_any_step(tmp_path: Path) -> None:
    """With a lead every 12 h, a restart state after 6 h is one to go on from."""
    config = config_of(tmp_path, str(tmp_path / "destination"), {"every_hours": 12})
    assert (config.leads, config.steps) == ((12, 24), (6, 12, 18, 24))
    path = config.scratch.work(1) / "restarts" / "h018.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a state")
    assert outstanding(config).steps == 1


def test_the_plan_says_what_is_saved(tmp_path: Path, machines: Machines) -> None:
    """AIFS ENS: 3 of 100 fields at 4 of 16 leads, by the table's bytes a value, and two cents a GB and month."""
    over: dict[str, Any] = {"model": "aifs-ens-1.0", "lead_hours": 96, "members": "1-50"}
    over |= {"delivery": {"streaming": True}}

    def case(output: dict[str, Any]) -> Any:
        config = make_config(tmp_path / "scratch", "gs://nobody/x", forecast={"output": output}, **over)
        return plan_case(config, machines, profile="coiled-gpu", runs=())

    whole, less = case({}), case({**THREE, "every_hours": 24})
    points = 542_080
    assert less.lead_bytes == pytest.approx(whole.lead_bytes * 3 / 100)
    field = whole.lead_bytes / 100
    assert 0.5 * points < field < 4 * points
    assert whole.saved_bytes == pytest.approx(0, abs=1)
    saved = 50 * field * (16 * 100 - 4 * 3)
    assert less.saved_bytes == pytest.approx(saved)
    assert less.work.steps == 50 * 16  # the model takes them all
    found = plan(less)
    assert any(
        line.startswith("output: 3 of 100 fields at 4 of 16 leads, which saves ") for line in summary_lines(found)
    )
    assert plan_dict(found)["saved_usd_month"] == pytest.approx(saved / 1e9 * 0.020)
    assert not any(line.startswith("output: ") for line in summary_lines(plan(whole)))
    # East Africa: of the sphere (sin 19 + sin 12) / 2, of that 32 of 360 degrees, and a bit for each point of the rows
    part = case({**THREE, "every_hours": 24, "area": "east-africa"})
    rows = (0.325568 + 0.207912) / 2
    assert part.lead_bytes == pytest.approx(3 * (field * rows * 32 / 360 + points * rows / 8), rel=1e-5)
    assert any(" at 4 of 16 leads, of a part of the globe, which saves " in line for line in summary_lines(plan(part)))
    # two statistics of each of the four days
    days = case({**THREE, "every_hours": 24, "daily": {"2t": ["max", "min"]}})
    assert days.lead_bytes == pytest.approx(5 * field)
    assert days.saved_bytes == pytest.approx(50 * field * (16 * 100 - 4 * 5))
    said = next(line for line in summary_lines(plan(days)) if line.startswith("output: "))
    assert said.startswith("output: 3 of 100 fields at 4 of 16 leads and 2 daily statistics, which saves ")
    more = case({"daily": {"2t": ["max", "min"]}})
    assert more.saved_bytes == pytest.approx(-50 * field * 4 * 2)
    said = next(line for line in summary_lines(plan(more)) if line.startswith("output: "))
    assert "100 of 100 fields at 16 of 16 leads and 2 daily statistics, which adds " in said
