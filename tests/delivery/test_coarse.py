"""Coarse leads beside a member's leads: delivered, compared, mended and tidied; a member is whole without them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import crc32c_bytes, write_bytes
from aifs_ensemble.common.manifest import CoarseRecord, FileRecord, LeadRecord, MemberManifest, read_member_manifest
from aifs_ensemble.common.names import coarse_file, index_file
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.leftovers import find_orphans, finished_run, remove_finished
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.receipt import remote_manifest, remote_receipt
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.scratch import MemberSizes, coarse_values, room_held, room_needed
from aifs_ensemble.delivery.standing import DELIVERED, at_destination
from aifs_ensemble.delivery.status import read_statuses
from aifs_ensemble.delivery.streaming import StreamingDelivery
from aifs_ensemble.delivery.verify import SOUND, check_ensemble, verify_ensemble, verify_member
from aifs_ensemble.fields.coarse_check import check_coarse_lead
from aifs_ensemble.fields.coarse_encoder import CoarseEncoder
from aifs_ensemble.fields.grib_encoder import CoarseSpec, FieldEncoder, OutputSpec, output_spec
from aifs_ensemble.fields.grib_index import index_bytes, index_entry
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.forecast.work_folder import WorkFolder

from delivery.members import CYCLE, finish_member, make_config, make_member, make_real_member, publish_lead

pytestmark = pytest.mark.cloud
NAME = "aifs_ens_forecast_20250819_0000_member001_h012_1p5deg.grib2"


def publish_coarse(config: Config, member: int, lead: int, content: int = 0) -> LeadRecord:
    """Publish a lead with a coarse file, noise in place of fields."""
    record = publish_lead(config, member, lead, content=content)
    name = coarse_file(config.cycle, member, lead, "1.5x1.5")
    work, files = WorkFolder(config.scratch.work(member), config.cycle, member), []
    for file in (name, index_file(name)):
        data = random.Random(f"{file} {content}").randbytes(500)
        write_bytes(work.leads / file, data)
        files.append(FileRecord(file, len(data), crc32c_bytes(data)))
    coarse = CoarseRecord("1.5x1.5", "all", {"default": "linear"}, {"linear": "0" * 64}, files[0], files[1], 3)
    record = replace(record, coarse=coarse)
    work.journal.append(record)
    return record


def make_coarse(config: Config, member: int, content: int = 0) -> MemberManifest:
    records = [publish_coarse(config, member, lead, content) for lead in config.leads]
    manifest = finish_member(config, member, records)
    folder = config.scratch.base / "coarse"
    folder.mkdir(exist_ok=True)
    for record in records:
        for file in record.coarse_files:
            path = folder / file.name
            path.unlink(missing_ok=True)
            path.hardlink_to(config.scratch.work(member) / "leads" / file.name)
    return manifest


def changed(config: Config, **over: Any) -> Config:
    raw = config.to_dict()
    merge(raw, over)
    return Config(raw)


def keys(config: Config) -> set[str]:
    return {info.key.removeprefix(f"{CYCLE}/") for info in open_destination(config).list(f"{CYCLE}/")}


def delivered(config: Config) -> MemberManifest:
    found = remote_manifest(config, open_destination(config), 1)
    assert found is not None
    return found


@pytest.fixture
def config(tmp_path: Path, destination: str) -> Config:
    return make_config(tmp_path / "scratch", destination, members="1-1", products={"coarse": {"enabled": True}})


def test_without_coarse_leads_nothing_mentions_them(tmp_path: Path) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "there"), members="1-1")
    make_member(config, 1)
    deliver_member(config, 1)
    work = config.scratch.work(1)
    there = [tmp_path / "there" / key for key in (config.objects.manifest(1), config.objects.receipt(1))]
    for path in (config.scratch.manifest(1), work / "journal.jsonl", *there):
        assert '"coarse"' not in path.read_text()
    keys_of_a_lead = json.loads(config.scratch.manifest(1).read_text())["leads"][0].keys()
    assert list(keys_of_a_lead) == ["lead", "grib", "index", "messages"]


def test_records_come_back_as_they_were(config: Config) -> None:
    manifest = make_coarse(config, 1)
    found = read_member_manifest(config.scratch.manifest(1))
    assert found.content_digest == manifest.content_digest == make_member(config, 1).content_digest
    # equality leaves coarse files aside
    assert [record.coarse for record in found.leads] == [record.coarse for record in manifest.leads]
    assert found.leads == tuple(replace(record, coarse=None) for record in manifest.leads)
    assert found.bytes == sum(record.bytes for record in manifest.leads) > 4 * (3000 + 1000)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("grid", "1.5x1.5/../../x"),
        ("grid", "1x1"),
        ("methods", {"default": 3}),
        ("variables", "some"),
        ("grib", {"name": "../x", "size": 1, "crc32c": "AAAAAA=="}),
    ],
)
def test_odd_records_are_no_records(tmp_path: Path, part: str, change: Any) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "there"), members="1-1")
    manifest = make_coarse(config, 1)
    path = config.scratch.manifest(1)
    content = json.loads(path.read_text())
    content["leads"][0]["coarse"][part] = change
    from aifs_ensemble.common.records import sealed

    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(VerificationError, match=str(path)):
        read_member_manifest(path)
    assert manifest.leads


@pytest.mark.parametrize("layout", ["leads", "blocks", "both"])
def test_coarse_leads_go_with_the_member(config: Config, layout: str) -> None:
    config = changed(config, delivery={"layout": layout, "block_hours": 12})
    manifest = make_coarse(config, 1)
    first = deliver_member(config, 1)
    expected = {f"coarse/{file.name}" for record in manifest.leads for file in record.coarse_files}
    assert {key for key in keys(config) if key.startswith("coarse/")} == expected
    assert f"coarse/{NAME}" in expected
    assert first.sent_objects > 8
    assert deliver_member(config, 1).sent_objects == 0
    standing = at_destination(config, open_destination(config), 1)
    assert (standing.state, standing.coarse) == (DELIVERED, {})
    assert verify_ensemble_of_one(config).state == SOUND


def verify_ensemble_of_one(config: Config):
    return verify_member(config, 1)


def test_streaming_takes_them_along(config: Config) -> None:
    config = changed(config, delivery={"streaming": True}, keep_scratch=False)
    with StreamingDelivery(config, 1) as delivery:
        delivery.started(1, len(config.leads), 0)
        for lead in config.leads:
            record = publish_coarse(config, 1, lead)
            delivery.lead_published(record, config.scratch.work(1) / "leads")
        manifest = make_coarse(config, 1)
        delivery.finished(manifest)
    assert f"coarse/{NAME}" in keys(config)
    assert [record.coarse for record in delivered(config).leads] == [record.coarse for record in manifest.leads]
    assert not list((config.scratch.base / "coarse").iterdir())  # delivered, so that scratch has its room back
    assert list(config.scratch.work(1).glob("leads/*")) == []


def spoil(config: Config, how: str) -> None:
    """Lose or damage a coarse lead at the destination."""
    storage = open_destination(config)
    key = config.objects.published(NAME)
    info = storage.stat(key)
    assert info is not None
    data = storage.get_bytes(key)
    storage.delete(key)
    if how == "damaged":
        storage.put_bytes(data[:-1] + b"x", key)
    if how == "shorter":
        storage.put_bytes(data[:-1], key)


@pytest.mark.parametrize("how", ["lost", "damaged", "shorter"])
def test_what_is_lost_is_named_and_sent_again(config: Config, how: str) -> None:
    make_coarse(config, 1)
    deliver_member(config, 1)
    write_ensemble_manifest(config)
    spoil(config, how)
    assert at_destination(config, open_destination(config), 1).state == DELIVERED  # nothing is computed for it
    check = check_ensemble(config)
    with pytest.raises(VerificationError, match=rf"member001 h012: {NAME}: .*products read the leads instead"):
        check.require_sound(mended=False)
    assert verify_ensemble(config).members[1].coarse.keys() == {12}
    assert verify_ensemble(config).members[1].coarse == {}
    assert delivered(config).leads[1].coarse is not None


def make_real_coarse(config: Config, spec: OutputSpec) -> MemberManifest:
    """Make a member of real messages with real coarse leads; that of 12 h is as recorded, and holds another lead."""
    encoder, native = CoarseEncoder(spec), FieldEncoder(spec)
    work = WorkFolder(config.scratch.work(1), CYCLE, 1)
    coarse, field = spec.coarse, np.random.default_rng(1).random(grid_coordinates("N32").points, np.float32)
    assert coarse is not None
    folder, records = config.scratch.base / "coarse", []
    folder.mkdir(parents=True)
    for record in make_real_member(config, 1).leads:
        data, entries = b"", []
        step = 18 if record.lead == 12 else record.lead
        for variable in coarse.variables:
            beside = bytes(native.encode(variable, step, field))
            message = np.frombuffer(bytes(encoder.encode(variable, step, [field], beside)), np.uint8)
            entry = index_entry(encoder.spec, variable, step, len(data), message.size)
            entries.append(entry | encoder.index_keys(variable, message))
            data += message.tobytes()
        name, files = coarse_file(CYCLE, 1, record.lead, "10x5"), []
        for file, content in ((name, data), (index_file(name), index_bytes(entries))):
            write_bytes(work.leads / file, content)
            (folder / file).hardlink_to(work.leads / file)
            files.append(FileRecord(file, len(content), crc32c_bytes(content)))
        told = CoarseRecord("10x5", coarse.variables, coarse.methods, encoder.digests, files[0], files[1], 2)
        records.append(replace(record, coarse=told))
        work.journal.append(records[-1])
    return finish_member(config, 1, records)


def test_deep_decodes_them_and_mending_leaves_out_what_was_made_wrong(tmp_path: Path, weights_cache: Path) -> None:
    asked = {"members": "1-1", "lead_hours": 12, "products": {"coarse": {"enabled": True, "grid": "10x5"}}}
    config = make_config(tmp_path / "scratch", str(tmp_path / "there"), **asked)
    coarse = CoarseSpec("10x5", ("2t", "tp"), {"default": "linear", "tp": "grid-box-average"}, str(weights_cache))
    bits = bits_for(config.model.delivered, {})
    spec = replace(output_spec(config.model, CYCLE, 1, ensemble_size=50, bits=bits), coarse=coarse)
    manifest = make_real_coarse(config, spec)
    deliver_member(config, 1)
    write_ensemble_manifest(config)
    check_ensemble(config).require_sound(mended=False)  # the files are those that were made
    deep = check_ensemble(config, deep=True, mend=True)
    for one in deep.members:
        assert one.state == SOUND and one.decoded == 2 * (len(config.model.outputs) + 2)
        assert list(one.coarse) == [12] and "step 12 missing" in one.coarse[12]
    with pytest.raises(VerificationError, match=r"member001 h012: .*10x5deg.*products read the leads instead"):
        deep.require_sound(mended=False)
    assert [record.coarse is None for record in delivered(config).leads] == [False, True]
    check_ensemble(config).require_sound(mended=False)

    # what only the index says of a message
    record = manifest.leads[0].coarse
    assert record is not None
    data, index = (config.scratch.published(file.name).read_bytes() for file in record.files)
    assert check_coarse_lead(record, spec, 6, data, index) == []
    first, second = index.splitlines()
    for key in ("_crc32c", "_weights", "_interpolation"):
        other = b"\n".join([first, json.dumps(json.loads(second) | {key: "other"}).encode(), b""])
        (wrong,) = check_coarse_lead(record, spec, 6, data, other)
        assert f"tp: {key} of the index is 'other', expected" in wrong
    other_grid = replace(record, grid="15x15")
    assert "points, expected the" in check_coarse_lead(other_grid, spec, 6, data, index)[0]


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_what_nobody_has_is_left_out(config: Config, how: str) -> None:
    before = make_coarse(config, 1)
    deliver_member(config, 1)
    write_ensemble_manifest(config)
    spoil(config, how)
    for folder in (config.scratch.work(1) / "leads", config.scratch.base / "coarse"):
        (folder / NAME).unlink()
    storage = open_destination(config)
    # a folder's listing has no checksums: status reads no lead
    noted = how == "lost" or (config.destination or "").startswith("gs://")
    assert read_statuses(config)[0].note == ("1 coarse leads lost or damaged" if noted else "")
    verify_ensemble(config)
    after = delivered(config)
    assert [record.coarse is None for record in after.leads] == [False, True, False, False]
    assert after.content_digest == before.content_digest
    receipt = remote_receipt(config, storage, 1)
    assert receipt is not None and receipt.leads is not None and receipt.leads[1].coarse is None
    assert f"coarse/{NAME}" not in keys(config)
    check = check_ensemble(config)
    check.require_sound(mended=False)
    assert [one.coarse for one in check.members] == [{}, {}]
    assert at_destination(config, storage, 1).state == DELIVERED
    # scratch forgot it as well, in manifest and journal
    assert read_member_manifest(config.scratch.manifest(1)).leads[1].coarse is None
    assert WorkFolder(config.scratch.work(1), CYCLE, 1).journal.read()[12].coarse is None


def test_a_damaged_file_of_scratch_is_not_sent(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    make_coarse(config, 1)
    for folder in (config.scratch.work(1) / "leads", config.scratch.base / "coarse"):
        (folder / NAME).unlink()
        (folder / NAME).write_bytes(b"other")
    deliver_member(config, 1)
    assert f"{NAME}" in caplog.text and "products will read" in caplog.text
    assert at_destination(config, open_destination(config), 1).state == DELIVERED
    assert verify_member(config, 1, place="scratch").coarse.keys() == {12}
    verify_ensemble(config)
    check_ensemble(config).require_sound(mended=False)


def test_delivered_without_stays_delivered(config: Config) -> None:
    """Coarse leads asked for later, or of another grid, make no member unfinished."""
    off = changed(config, products={"coarse": {"enabled": False}})
    make_member(off, 1)
    deliver_member(off, 1)
    for over in ({"enabled": True}, {"enabled": True, "grid": "1x1"}, {"enabled": True, "method": {"tp": "linear"}}):
        asked = changed(off, products={"coarse": over})
        assert at_destination(asked, open_destination(asked), 1).text == DELIVERED
        assert restore_member(asked, 1).finished
        assert deliver_member(asked, 1).sent_objects == 0
        assert verify_member(asked, 1).state == SOUND
    # the same leads made again with coarse files are the same member
    make_coarse(config, 1)
    assert deliver_member(config, 1).content_digest == delivered(config).content_digest


def test_gc_knows_them(config: Config) -> None:
    make_coarse(config, 1)
    deliver_member(config, 1)
    storage = open_destination(config)
    assert find_orphans(config, storage, timedelta(0)) == []
    stray = config.objects.published(NAME.replace("1p5deg", "1deg"))
    storage.put_bytes(b"of an earlier grid", stray)
    (orphan,) = find_orphans(config, storage, timedelta(0))
    assert (orphan.info.key, orphan.reason) == (stray, "not named by the manifest of member001")
    remove_finished(config, storage, [1], finished_run(config, storage, [1]))
    assert keys(config) == set()


@pytest.mark.parametrize("lost", [False, True])
def test_a_fresh_machine_takes_back_what_is_there(config: Config, tmp_path: Path, lost: bool) -> None:
    make_coarse(config, 1)
    deliver_member(config, 1)
    if lost:
        spoil(config, "lost")
    fresh = changed(config, scratch=str(tmp_path / "fresh"), lead_hours=30)
    restored = restore_member(fresh, 1)
    assert [record.lead for record in restored.leads] == [6, 12, 18, 24]
    assert [record.coarse is None for record in restored.leads] == [False, lost, False, False]
    noted = WorkFolder(fresh.scratch.work(1), CYCLE, 1).delivered.read()
    assert [record.coarse is None for record in noted.values()] == [False, lost, False, False]


def test_room_counts_them(config: Config) -> None:
    off = changed(config, products={"coarse": {"enabled": False}})
    assert coarse_values(off) == 0
    assert coarse_values(config) == len(config.model.outputs) * 121 * 240
    some = changed(config, products={"coarse": {"grid": "1x0.5", "variables": ["2t", "tp"]}})
    assert coarse_values(some) == 2 * 361 * 360
    sizes = [MemberSizes.of(config, 6114, 2.0, 1.0, coarse_values(one)) for one in (off, config)]
    more = room_needed(config, sizes[1], 1, 1) - room_needed(off, sizes[0], 1, 1)
    assert more == 4 * 2.0 * coarse_values(config)
    make_coarse(config, 1)
    held = room_held(config)
    for path in (config.scratch.base / "coarse").iterdir():
        path.unlink()
        (config.scratch.work(1) / "leads" / path.name).unlink()
    assert held - room_held(config) == 4 * 2 * 500
