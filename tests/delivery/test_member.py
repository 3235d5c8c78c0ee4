"""Delivery of finished members, to a folder and to a bucket."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import ConfigError, InputError, VerificationError
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.storage import ConflictError, open_storage
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.verify import verify_member

from delivery.members import expected_objects, make_config, make_member, publish_lead


def content(url: str) -> dict[str, bytes]:
    """Return everything at a destination."""
    storage = open_storage(url)
    return {info.key: storage.get_bytes(info.key) for info in storage.list("")}


def test_the_destination_equals_scratch(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination)
    manifest = make_member(config, 1)
    receipt = deliver_member(config, 1)
    found = content(destination)
    assert json.loads(found.pop(config.objects.receipt(1)))["content_digest"] == manifest.content_digest
    assert found.pop(config.objects.manifest(1)) == config.scratch.manifest(1).read_bytes()
    assert found == expected_objects(config, manifest)
    assert receipt.bytes == manifest.bytes
    assert json.loads(config.scratch.receipt(1).read_text())["sent_bytes"] == receipt.sent_bytes > manifest.bytes


def test_a_second_delivery_moves_no_bytes_and_says_so(
    tmp_path: Path, destination: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path / "scratch", destination)
    make_member(config, 1)
    deliver_member(config, 1)
    before = content(destination)
    caplog.set_level("INFO")
    again = deliver_member(config, 1)
    assert (again.sent_objects, again.sent_bytes) == (0, 0)
    assert "no bytes moved" in caplog.text
    assert content(destination) == before


def test_a_finished_run_is_never_overwritten_by_another(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination)
    make_member(config, 1)
    deliver_member(config, 1)
    before = content(destination)
    other = make_config(tmp_path / "other", destination)
    make_member(other, 1, content=1)
    with pytest.raises(ConflictError, match=r"belongs to a finished run of other content .*gc --finished 1"):
        deliver_member(other, 1)
    assert content(destination) == before


def test_what_an_unfinished_run_left_is_replaced(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination)
    make_member(config, 1)
    deliver_member(config, 1)
    for key in (config.objects.manifest(1), config.objects.receipt(1)):
        open_storage(destination).delete(key)
    other = make_config(tmp_path / "other", destination)
    manifest = make_member(other, 1, content=1)
    deliver_member(other, 1)
    found = content(destination)
    assert {key: found[key] for key in expected_objects(other, manifest)} == expected_objects(other, manifest)


def test_a_longer_run_adds_to_a_shorter_one(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination)
    make_member(config, 1)
    deliver_member(config, 1)
    longer = make_config(tmp_path / "scratch", destination, lead_hours=36)
    make_member(longer, 1)
    receipt = deliver_member(longer, 1)
    assert receipt.sent_objects == 2 * 2 + 2  # two leads with indexes, receipt and manifest
    assert len(receipt.objects) == 12


@pytest.mark.parametrize("layout", ["leads", "blocks"])
def test_a_shorter_run_leaves_a_longer_one_as_it_is(tmp_path: Path, destination: str, layout: str) -> None:
    delivery = {"layout": layout, "block_hours": 12}
    longer = make_config(tmp_path / "scratch", destination, lead_hours=36, delivery=delivery)
    make_member(longer, 1)
    deliver_member(longer, 1)
    before = content(destination)
    shorter = make_config(tmp_path / "other", destination, delivery=delivery)
    make_member(shorter, 1)
    receipt = deliver_member(shorter, 1)
    assert content(destination) == before
    assert receipt.sent_objects == 0
    assert verify_member(longer, 1).state == verify_member(shorter, 1).state == "sound"
    open_storage(destination).delete(next(key for key in before if re.search(r"h(012|000-012)\.index", key)))
    with pytest.raises(ConflictError, match="finished run of 6 leads, damaged or in another layout, expected 4 leads"):
        deliver_member(shorter, 1)


@pytest.mark.parametrize("layout", ["blocks", "both"])
def test_blocks_hold_their_leads_and_are_not_made_twice(tmp_path: Path, destination: str, layout: str) -> None:
    delivery = {"layout": layout, "block_hours": 12}
    config = make_config(
        tmp_path / "scratch", destination, lead_hours=30, keep_scratch=layout == "both", delivery=delivery
    )
    manifest = make_member(config, 1)
    leads = expected_objects(config, manifest)
    deliver_member(config, 1)
    found = content(destination)
    keys = config.objects
    for start, end in ((0, 12), (12, 24), (24, 30)):
        members = [data for key, data in leads.items() if key.endswith("grib2") and start < int(key[-9:-6]) <= end]
        block = found.pop(keys.block(1, start, end))
        assert block == b"".join(members)
        lines = [json.loads(line) for line in found.pop(index_file(keys.block(1, start, end))).splitlines()]
        assert [line["_offset"] for line in lines] == [1000 * i for i in range(3 * len(members))]
    assert found.pop(keys.receipt(1))
    assert found.pop(keys.manifest(1))
    assert found == (leads if layout == "both" else {})
    before = content(destination)
    assert deliver_member(config, 1).sent_objects == 0
    assert content(destination) == before
    assert bool(list(config.scratch.forecasts().iterdir())) == (layout == "both")


def test_two_deliveries_of_the_same_member_at_once(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination)
    manifest = make_member(config, 1, size=50_000)
    with ThreadPoolExecutor(3) as pool:
        receipts = list(pool.map(lambda _: deliver_member(config, 1), range(3)))
    assert {receipt.content_digest for receipt in receipts} == {manifest.content_digest}
    found = content(destination)
    assert {key: found[key] for key in expected_objects(config, manifest)} == expected_objects(config, manifest)
    assert len(found) == 8 + 2


def test_a_damaged_local_file_is_named_and_nothing_finished_is_left(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination, keep_scratch=False)
    make_member(config, 1)
    path = config.scratch.lead(1, 12)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(VerificationError, match=r"h012\.grib2: crc32c .*, expected "):
        deliver_member(config, 1)
    storage = open_storage(destination)
    assert storage.stat(config.objects.manifest(1)) is None
    assert storage.stat(config.objects.lead(1, 12)) is None
    assert not config.scratch.receipt(1).exists()
    assert path.exists()  # no local copy went


def test_a_member_that_is_not_finished_is_named(tmp_path: Path, destination: str) -> None:
    with pytest.raises(InputError, match=r"member001\.json: no such file"):
        deliver_member(make_config(tmp_path / "scratch", destination), 1)


def test_no_destination_is_named(tmp_path: Path) -> None:
    config = make_config(tmp_path / "scratch", "")
    make_member(config, 1)
    with pytest.raises(ConfigError, match="config: destination is not set"):
        deliver_member(config, 1)


def test_a_newer_runs_leads_stay_when_an_earlier_one_is_delivered(tmp_path: Path, destination: str) -> None:
    """The work folder was taken over by a run with other settings, which is not finished."""
    config = make_config(tmp_path / "scratch", destination, keep_scratch=False)
    manifest = make_member(config, 1)
    newer = publish_lead(config, 1, 6, size=6000, content=1)
    receipt = deliver_member(config, 1)
    assert receipt.content_digest == manifest.content_digest
    assert (config.scratch.work(1) / "leads" / newer.grib.name).stat().st_size == 6000
    assert not config.scratch.lead(1, 6).exists()
