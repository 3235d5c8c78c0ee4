"""Only what is missing is planned: what scratch and destination tell, and what of it is not believed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.manifest import read_member_manifest, write_member_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.receipt import RECEIPT_SCHEMA, receipt_bytes
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.outstanding import everything, of_jobs, outstanding
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.plan_text import summary_lines
from delivery.members import make_member

from planning import synthetic
from planning.synthetic import Piece


def small(tmp_path: Path, **over: object) -> Config:
    """Return five members of two days, delivered to a folder."""
    values = {"members": "1-5", "lead_hours": 48, "destination": str(tmp_path / "results"), **over}
    return synthetic.config(tmp_path / "scratch", **values)


def finish(config: Config, member: int, *, at_destination: bool) -> None:
    """Make a member look computed on scratch, or deliver it from another one."""
    if at_destination:
        config = Config({**config.to_dict(), "scratch": f"{config.given.scratch}-of-another-machine"})
        make_member(config, member)
        deliver_member(config, member)
        return
    manifest = synthetic.manifest(config, member, [Piece(0.0)], lead_bytes=5000)
    write_member_manifest(config.scratch.manifest(member), manifest)


def test_of_nothing_everything_is_missing(tmp_path: Path) -> None:
    config = small(tmp_path)
    assert outstanding(config).members == everything(config).members
    assert outstanding(config).steps == 5 * 8
    assert not Path(config.destination).exists()


def test_computed_members_are_only_delivered(tmp_path: Path) -> None:
    config = small(tmp_path)
    for member in (1, 3):
        finish(config, member, at_destination=False)
    found = outstanding(config)
    assert [work.member for work in found.to_forecast] == [2, 4, 5]
    assert found.to_deliver == (1, 2, 3, 4, 5)
    assert [manifest.member for manifest in found.manifests] == [1, 3]


def test_delivered_members_are_done_even_without_scratch(tmp_path: Path, machines: Machines) -> None:
    config = small(tmp_path)
    for member in (1, 2, 3, 4):
        finish(config, member, at_destination=True)
    found = plan(plan_case(config, machines))
    assert [work.member for work in found.case.work.to_forecast] == [5]
    assert found.case.work.to_deliver == (5,)
    assert {job.rule: job.count for job in found.jobs}["forecast_member"] == 1
    assert "1 of 5 members to forecast (5)" in summary_lines(found)[0]


def test_a_started_member_goes_on_from_its_restart_state(tmp_path: Path) -> None:
    config = small(tmp_path)
    folder = config.scratch.work(2) / "restarts"
    folder.mkdir(parents=True)
    for lead in (12, 24):
        (folder / f"h{lead:03d}.safetensors").touch()
    (folder / "h036.safetensors.part").touch()
    assert {work.member: work.steps for work in outstanding(config).members}[2] == 4


def test_restart_states_at_the_destination_count_too(tmp_path: Path) -> None:
    config = small(tmp_path)
    file = Path(config.destination) / config.objects.restart(3, 36)
    file.parent.mkdir(parents=True)
    file.touch()
    assert {work.member: work.steps for work in outstanding(config).members}[3] == 2


def test_a_manifest_for_fewer_leads_is_not_enough(tmp_path: Path) -> None:
    short = small(tmp_path, lead_hours=24)
    finish(short, 1, at_destination=False)
    finish(short, 2, at_destination=True)
    assert len(outstanding(small(tmp_path)).to_forecast) == 5


@pytest.mark.parametrize("damage", ["{", json.dumps({"schema": "other"}), "[]"])
def test_a_damaged_manifest_counts_as_missing(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    config = small(tmp_path)
    finish(config, 1, at_destination=False)
    finish(config, 2, at_destination=True)
    config.scratch.manifest(1).write_text(damage)
    (Path(config.destination) / config.objects.manifest(2)).write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert len(outstanding(config).to_forecast) == 5
    assert caplog.text.count("counted as missing") == 2


def test_a_bucket_is_looked_at_only_when_asked(tmp_path: Path) -> None:
    config = small(tmp_path, destination="gs://nobody-asked/prefix")
    for member in (3, 4):
        finish(config, member, at_destination=False)
    manifest = read_member_manifest(config.scratch.manifest(4))
    files = [file for record in manifest.leads for file in record.files]
    told = {
        "schema": RECEIPT_SCHEMA,
        "member": 4,
        "cycle": config.cycle,
        "destination": config.destination,
        "content_digest": manifest.content_digest,
        "layout": "leads",
        "objects": [
            {"key": config.objects.published(f.name), "size": f.size, "crc32c": f.crc32c, "generation": 1}
            for f in files
        ],
    }
    write_bytes(config.scratch.receipt(4), receipt_bytes(told))
    write_bytes(config.scratch.receipt(5), receipt_bytes(told))  # of a manifest that is gone
    found = outstanding(config)
    assert found.looked_at == (str(config.scratch.base),)
    assert found.to_deliver == (1, 2, 3, 5)


@pytest.mark.parametrize(
    ("jobs", "steps", "deliver", "initial"),
    [
        ({}, {}, (), ()),
        ({"initial_member": {2}, "initial_cycle": set()}, {}, (), (2,)),
        ({"forecast_member": {1, 2}, "initial_member": {2}}, {1: 8, 2: 8}, (), (2,)),
        ({"sync_member": {1, 3}}, {}, (1, 3), ()),
    ],
)
def test_a_run_does_what_its_jobs_do(tmp_path: Path, jobs: dict, steps: dict, deliver: tuple, initial: tuple) -> None:
    """A member that is there and forecast all the same is computed whole."""
    config = small(tmp_path, delivery={"streaming": False})
    finish(config, 1, at_destination=False)
    found = of_jobs(config, outstanding(config), jobs)
    assert {work.member: work.steps for work in found.to_forecast} == steps
    assert found.to_deliver == deliver
    assert tuple(work.member for work in found.members if work.initial) == initial
    assert (found.shared_initial, found.checkpoint, found.ensemble_manifest) == ("initial_cycle" in jobs, False, False)


def test_lost_leads_are_computed_from_the_state_before_them(tmp_path: Path) -> None:
    config = small(tmp_path, delivery={"streaming": True})
    finish(config, 1, at_destination=True)
    gone = Path(config.destination) / config.objects.lead(1, 24)
    gone.unlink()
    assert {work.member: work.steps for work in outstanding(config).members}[1] == 4
    restart = Path(config.destination) / config.objects.restart(1, 12)
    restart.parent.mkdir(parents=True)
    restart.touch()
    assert {work.member: work.steps for work in outstanding(config).members}[1] == 2
    restart.rename(restart.with_name("h024.safetensors"))
    assert {work.member: work.steps for work in outstanding(config).members}[1] == 4, "it is behind the lost lead"
