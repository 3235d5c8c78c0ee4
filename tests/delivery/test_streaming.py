"""Delivery beside the forecast, and members taken up again on the same machine or another."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DiskFullError, StorageError, VerificationError, WorkflowError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.manifest import LeadRecord
from aifs_ensemble.common.storage import ObjectInfo, open_destination, open_storage
from aifs_ensemble.delivery import streaming
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.streaming import StreamingDelivery
from aifs_ensemble.delivery.verify import verify_member
from aifs_ensemble.forecast.work_folder import WorkFolder
from doubles.gcs_fault_proxy import FaultProxy, Schedule

from delivery.members import expected_objects, finish_member, make_config, make_member, publish_lead

SIZE = 90_000


def work_of(config: Config) -> WorkFolder:
    return WorkFolder(config.scratch.work(1), config.cycle, 1)


def entered(delivery: StreamingDelivery) -> StreamingDelivery:
    """The delivery at work, as a forecast has it."""
    return delivery.__enter__()


def forecast(config: Config, delivery: StreamingDelivery, leads: tuple[int, ...], done: dict[int, LeadRecord]) -> None:
    """Publish leads and a restart state after each, as the forecast does."""
    work = work_of(config)
    for lead in leads:
        done[lead] = publish_lead(config, 1, lead, SIZE)
        delivery.lead_published(done[lead], work.leads)
        path = work.restarts / f"h{lead:03d}.safetensors"
        write_bytes(path, bytes([lead]) * 1000)
        delivery.restart_written(lead, path)
        path.unlink()  # as the forecast does with old ones; the delivery has its own link


@pytest.fixture
def config(tmp_path: Path, destination: str) -> Config:
    delivery = {"mirror_restarts": True, "streaming": True}
    return make_config(tmp_path / "scratch", destination, members="1", keep_scratch=False, delivery=delivery)


def test_every_lead_then_the_manifest(config: Config) -> None:
    again = make_config(config.scratch.root / "again", config.destination, members="1")
    expected = expected_objects(again, make_member(again, 1, SIZE))
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    delivery.started(1, 4, 0)
    forecast(config, delivery, config.leads, done)
    delivery.finished(finish_member(config, 1, list(done.values())))
    storage = open_storage(config.destination)
    found = {info.key: storage.get_bytes(info.key) for info in storage.list("")}
    assert found.pop(config.objects.manifest(1)) == config.scratch.manifest(1).read_bytes()
    assert found.pop(config.objects.receipt(1))
    assert found == expected  # and no restart state is left
    assert delivery.receipt is not None
    assert delivery.receipt.freed_bytes == sum(len(data) for data in expected.values())
    assert not list(work_of(config).leads.iterdir())
    assert deliver_member(config, 1).sent_objects == 0


def test_a_lost_machine_goes_on_from_the_newest_resume_point(config: Config) -> None:
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    write_bytes(config.scratch.work(1) / "fingerprint.json", b'{"digest": "a"}')
    delivery.started(1, 4, 0)
    forecast(config, delivery, (6, 12, 18), done)
    delivery.failed(KeyboardInterrupt())
    storage = open_storage(config.destination)
    kept = [info.key.rpartition("/")[2] for info in storage.list(f"{config.cycle}/restarts/")]
    assert kept == ["h012.json", "h012.safetensors", "h018.json", "h018.safetensors"]

    shutil.rmtree(config.scratch.root)
    restored = restore_member(config, 1)
    assert (restored.restart, restored.finished) == (18, False)
    work = work_of(config)
    assert work.delivered.read() == done
    assert (work.restarts / "h018.safetensors").read_bytes() == bytes([18]) * 1000
    assert (work.root / "fingerprint.json").read_bytes() == b'{"digest": "a"}'
    assert sorted(work.finished(config.leads, local=False)) == [6, 12, 18]

    # a lead that the destination lost since: the older resume point before it serves
    storage.delete(config.objects.lead(1, 18))
    shutil.rmtree(config.scratch.root)
    assert restore_member(config, 1).restart == 12


def test_a_resume_point_of_settings_that_the_folder_was_cleared_of_is_not_brought_back(config: Config) -> None:
    """Such as the accelerated pass, once the member is made with the model's own: their leads must not mix."""
    delivery = entered(StreamingDelivery(config, 1))
    fingerprint = config.scratch.work(1) / "fingerprint.json"
    write_bytes(fingerprint, b'{"digest": "a"}')
    delivery.started(1, 4, 0)
    forecast(config, delivery, (6, 12, 18), {})
    delivery.failed(KeyboardInterrupt())
    shutil.rmtree(config.scratch.work(1))  # cleared, and ended before the first lead of the other pass
    write_bytes(fingerprint, b'{"digest": "b"}')
    restored = restore_member(config, 1)
    assert (restored.restart, restored.leads) == (None, ())
    assert not work_of(config).delivered.read()
    write_bytes(fingerprint, b'{"digest": "a"}')
    assert restore_member(config, 1).restart == 18


def test_nobody_goes_on_from_the_last_lead_so_its_restart_state_is_not_sent(config: Config) -> None:
    delivery = entered(StreamingDelivery(config, 1))
    delivery.started(1, 4, 0)
    forecast(config, delivery, config.leads, {})
    delivery.failed(KeyboardInterrupt())
    kept = [info.key.rpartition("/")[2] for info in open_storage(config.destination).list("")]
    assert "h018.safetensors" in kept and "h024.safetensors" not in kept


def test_a_restart_state_that_was_overtaken_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"mirror_restarts": True, "streaming": True, "threads": 2}
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), members="1", delivery=settings)
    storage = open_destination(config)
    newest, put_file, put_bytes = threading.Event(), storage.put_file, storage.put_bytes

    def file(path: Path, key: str, **more: Any) -> Any:
        if path.name == "h012.safetensors":
            assert newest.wait(30)
        return put_file(path, key, **more)

    def content(data: bytes, key: str, **more: Any) -> Any:
        info = put_bytes(data, key, **more)
        if key.endswith("h018.json"):
            newest.set()
        return info

    monkeypatch.setattr(storage, "put_file", file)
    monkeypatch.setattr(storage, "put_bytes", content)
    delivery = entered(StreamingDelivery(config, 1, storage))
    delivery.started(1, 4, 0)
    delivery.lead_published(publish_lead(config, 1, 6, SIZE), work_of(config).leads)
    forecast(config, delivery, (12, 18), {})
    delivery.failed(KeyboardInterrupt())
    kept = [info.key.rpartition("/")[2] for info in storage.list(f"{config.cycle}/restarts/")]
    assert kept == ["h012.json", "h012.safetensors", "h018.json", "h018.safetensors"]


def test_what_another_machine_goes_on_from_is_sent_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one transfer at a time and a queue: a restart state overtakes the leads that come after it."""
    settings = {"mirror_restarts": True, "streaming": True, "threads": 1}
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), members="1", delivery=settings)
    storage = open_destination(config)
    asked, sent, put = threading.Event(), [], storage.put_file
    monkeypatch.setattr(storage, "tidy", lambda prefix: asked.wait(30))
    monkeypatch.setattr(
        storage, "put_file", lambda path, key, **more: (sent.append(path.name), put(path, key, **more))[1]
    )
    delivery = entered(StreamingDelivery(config, 1, storage))
    records = {lead: publish_lead(config, 1, lead) for lead in (6, 12, 18)}
    for record in records.values():
        delivery.lead_published(record, work_of(config).leads)
    state = work_of(config).restarts / "h006.safetensors"
    write_bytes(state, b"state")
    delivery.restart_written(6, state)
    asked.set()
    delivery.failed(KeyboardInterrupt())
    gribs = [records[lead].grib.name for lead in (6, 12, 18)]
    assert [name for name in sent if not name.endswith(".index")] == [gribs[0], state.name, *gribs[1:]]


@pytest.mark.parametrize("published", [True, False], ids=["being sent", "its lead not published"])
def test_the_forecast_waits_for_a_state_that_is_an_interval_old(
    published: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while transfers alone are to be waited for: a lead that only the forecast can publish never comes else."""
    settings = {"mirror_restarts": True, "streaming": True}
    config = make_config(
        tmp_path / "scratch", str(tmp_path / "out"), members="1", delivery=settings, forecast={"restart_hours": 6}
    )
    storage = open_destination(config)
    sent, put = threading.Event(), storage.put_file

    def slow(path: Path, key: str, **more: Any) -> ObjectInfo:
        if path.suffix == ".safetensors":
            sent.wait(60)
        return put(path, key, **more)

    monkeypatch.setattr(storage, "put_file", slow)
    delivery = entered(StreamingDelivery(config, 1, storage))
    state = work_of(config).restarts / "h006.safetensors"
    write_bytes(state, b"state")
    delivery.restart_written(6, state)
    if published:
        delivery.lead_published(publish_lead(config, 1, 6), work_of(config).leads)
    record = publish_lead(config, 1, 12)
    waiting = threading.Thread(target=delivery.lead_published, args=(record, work_of(config).leads), daemon=True)
    waiting.start()
    waiting.join(timeout=1 if published else 60)
    assert waiting.is_alive() == published
    sent.set()
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    if published:
        assert storage.stat(config.objects.resume_point(1, 6)) is not None
    delivery.failed(KeyboardInterrupt())


def test_a_finished_member_is_known_on_another_machine(config: Config) -> None:
    manifest = make_member(config, 1)
    deliver_member(config, 1)
    storage = open_storage(config.destination)
    storage.delete(config.objects.manifest(1))  # a declared output, removed when another member of the group failed
    shutil.rmtree(config.scratch.root)
    restored = restore_member(config, 1)
    assert restored.finished
    assert tuple(work_of(config).delivered.read().values()) == manifest.leads


def test_a_receipt_of_other_settings_is_not_taken_for_this_run(config: Config) -> None:
    make_member(config, 1)
    write_bytes(config.scratch.work(1) / "fingerprint.json", b'{"digest": "old"}')
    deliver_member(config, 1)
    write_bytes(config.scratch.work(1) / "fingerprint.json", b'{"digest": "new"}')
    (config.scratch.work(1) / "delivered.jsonl").unlink()
    restored = restore_member(config, 1)
    assert (restored.finished, restored.leads) == (False, ())


def test_what_the_destination_lost_is_forgotten(config: Config) -> None:
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    forecast(config, delivery, (6, 12), done)
    delivery.failed(KeyboardInterrupt())
    open_storage(config.destination).delete(config.objects.index(1, 6))
    assert [record.lead for record in restore_member(config, 1).leads] == [12]
    assert list(work_of(config).delivered.read()) == [12]


def test_leads_of_an_earlier_attempt_are_taken_up_and_damaged_ones_left(config: Config) -> None:
    records = {lead: publish_lead(config, 1, lead) for lead in (6, 12)}
    (work_of(config).leads / records[6].grib.name).write_bytes(b"damaged")
    delivery = entered(StreamingDelivery(config, 1))
    delivery.started(1, 4, 1)
    done = {12: records[12]}
    forecast(config, delivery, (6, 18, 24), done)
    delivery.finished(finish_member(config, 1, [done[lead] for lead in config.leads]))
    assert verify_member(config, 1).state == "sound"


def test_scratch_stays_within_its_budget(tmp_path: Path, destination: str) -> None:
    budget = {"scratch_budget_mb": 3.2 * SIZE / 1e6, "streaming": True}
    config = make_config(tmp_path / "scratch", destination, lead_hours=60, members="1", delivery=budget)
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    most = 0
    for lead in config.leads:
        done[lead] = publish_lead(config, 1, lead, SIZE)
        delivery.lead_published(done[lead], work_of(config).leads)
        most = max(most, sum(path.stat().st_size for path in work_of(config).leads.glob("*.grib2")))
    delivery.finished(finish_member(config, 1, list(done.values())))
    assert most <= 3 * SIZE
    assert verify_member(config, 1).state == "sound"
    assert verify_member(config, 1, place="scratch").state == "sound"  # what went had been delivered


def test_a_budget_too_small_for_one_lead_ends_the_member(
    tmp_path: Path, destination: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "ROOM_PATIENCE", 0.1)
    config = make_config(tmp_path / "scratch", destination, members="1", delivery={"scratch_budget_mb": 0.01})
    delivery = entered(StreamingDelivery(config, 1))
    with pytest.raises(DiskFullError, match="wanting"):
        delivery.lead_published(publish_lead(config, 1, 6, SIZE), work_of(config).leads)
    delivery.failed(DiskFullError("full"))


def test_a_full_disk_frees_what_is_delivered_and_a_rerun_resumes(config: Config) -> None:
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    forecast(config, delivery, (6, 12), done)
    delivery.failed(DiskFullError("no space left on device"))
    work = work_of(config)
    assert not list(work.leads.glob("*.grib2"))
    assert sorted(work.finished(config.leads, local=False)) == [6, 12]
    second = entered(StreamingDelivery(config, 1))
    second.started(1, 4, 2)
    forecast(config, second, (18, 24), done)
    second.finished(finish_member(config, 1, list(done.values())))
    assert verify_member(config, 1).state == "sound"


@pytest.mark.usefixtures("gcs")
def test_an_error_of_the_delivery_stops_the_member(tmp_path: Path) -> None:
    config = make_config(tmp_path / "scratch", "gs://nobody/x", members="1")
    delivery = entered(StreamingDelivery(config, 1))
    record = publish_lead(config, 1, 6)
    with pytest.raises(WorkflowError, match="no such bucket") as caught:
        for _ in range(50):
            delivery.lead_published(record, work_of(config).leads)
            with delivery._queue.changed:
                delivery._queue.changed.wait(0.1)
    assert caught.value.exit_code == StorageError.exit_code
    delivery.failed(caught.value)


@pytest.mark.timeout(40)
def test_a_failed_member_does_not_wait_for_a_destination_that_is_away(
    tmp_path: Path, gcs: FaultProxy, bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PATIENCE", 0.2)
    config = make_config(tmp_path / "scratch", bucket(), members="1")
    delivery = entered(StreamingDelivery(config, 1))
    gcs.schedule = Schedule(seed=1, rate=1.0, kinds=("status",))
    delivery.lead_published(publish_lead(config, 1, 6), work_of(config).leads)
    delivery.failed(KeyboardInterrupt())
    delivery._queue.close(wait=True)  # ends long before the 60 s in which a delivery may succeed
    assert delivery.receipt is None
    assert work_of(config).delivered.read() == {}


def test_an_earlier_runs_links_are_not_taken_for_this_runs_leads(config: Config) -> None:
    make_member(config, 1, SIZE, content=1)
    shutil.rmtree(work_of(config).root)  # other settings: the forecast cleared its work folder, not its outputs
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    forecast(config, delivery, config.leads, done)
    delivery.finished(finish_member(config, 1, list(done.values())))
    assert verify_member(config, 1).state == "sound"


def test_leads_of_a_longer_run_are_not_delivered(config: Config) -> None:
    longer = make_config(config.scratch.root, config.destination, members="1", lead_hours=36)
    records = {lead: publish_lead(longer, 1, lead, SIZE) for lead in longer.leads}
    delivery = entered(StreamingDelivery(config, 1))
    delivery.started(1, 4, 4)
    delivery.finished(finish_member(config, 1, [records[lead] for lead in config.leads]))
    found = [info.key for info in open_storage(config.destination).list(f"{config.cycle}/forecasts/")]
    assert len(found) == 8
    assert config.objects.lead(1, 36) not in found


@pytest.mark.parametrize("layout", ["leads", "blocks", "both"])
def test_a_delivered_member_whose_manifest_went_is_finished_again_elsewhere(
    tmp_path: Path, destination: str, layout: str
) -> None:
    """Snakemake removes the manifests of a whole group when one of its members fails."""
    delivery = {"streaming": True, "layout": layout, "block_hours": 12}
    config = make_config(tmp_path / "scratch", destination, members="1", keep_scratch=False, delivery=delivery)
    storage = open_storage(destination)
    first = entered(StreamingDelivery(config, 1))
    first.started(1, 4, 0)
    done: dict[int, LeadRecord] = {}
    forecast(config, first, config.leads, done)
    first.finished(finish_member(config, 1, list(done.values())))
    before = {info.key: info.generation for info in storage.list(f"{config.cycle}/forecasts/")}
    storage.delete(config.objects.manifest(1))
    shutil.rmtree(config.scratch.root)
    assert restore_member(config, 1).finished
    again = entered(StreamingDelivery(config, 1))
    again.started(1, 4, 4)
    again.finished(finish_member(config, 1, list(done.values())))
    assert {info.key: info.generation for info in storage.list(f"{config.cycle}/forecasts/")} == before
    assert again.receipt is not None
    assert again.receipt.sent_objects == 1  # the manifest
    assert verify_member(config, 1).state == "sound"


@pytest.mark.parametrize("layout", ["leads", "blocks"])
def test_a_finished_member_that_is_to_be_longer_is_not_finished(tmp_path: Path, destination: str, layout: str) -> None:
    delivery = {"layout": layout, "block_hours": 12}
    config = make_config(tmp_path / "scratch", destination, members="1", delivery=delivery)
    make_member(config, 1)
    deliver_member(config, 1)
    longer = make_config(tmp_path / "scratch", destination, members="1", lead_hours=36, delivery=delivery)
    for _ in ("the same machine", "another one"):
        restored = restore_member(longer, 1)
        assert not restored.finished
        # leads that went into blocks are not there any more
        assert sorted(record.lead for record in restored.leads) == ([6, 12, 18, 24] if layout == "leads" else [])
        shutil.rmtree(config.scratch.root, ignore_errors=True)


@pytest.mark.parametrize("local", [True, False], ids=["on scratch", "nowhere else"])
def test_what_is_removed_at_the_destination_meanwhile_is_noticed(config: Config, local: bool) -> None:
    delivery = entered(StreamingDelivery(config, 1))
    done: dict[int, LeadRecord] = {}
    delivery.started(1, 4, 0)
    forecast(config, delivery, (6, 12, 18), done)
    delivery._queue.wait()
    open_storage(config.destination).delete(config.objects.lead(1, 6))
    if not local:
        delivery._remove_delivered()
    forecast(config, delivery, (24,), done)
    manifest = finish_member(config, 1, list(done.values()))
    if local:
        delivery.finished(manifest)
        assert verify_member(config, 1).state == "sound"
    else:
        with pytest.raises(VerificationError, match=r"h006\.grib2: neither on scratch nor at "):
            delivery.finished(manifest)
        assert verify_member(config, 1).state == "absent"


def test_restart_states_are_kept_without_hard_links(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    delivery = entered(StreamingDelivery(config, 1))
    delivery.started(1, 4, 0)
    forecast(config, delivery, (6,), {})
    delivery.failed(KeyboardInterrupt())
    names = [info.key for info in open_storage(config.destination).list(f"{config.cycle}/restarts/")]
    assert names == [config.objects.resume_point(1, 6), config.objects.restart(1, 6)]


def test_a_lead_made_again_is_not_removed_because_its_earlier_version_was_delivered(config: Config) -> None:
    delivery = entered(StreamingDelivery(config, 1))
    forecast(config, delivery, (6,), {})
    delivery._queue.wait()
    again = publish_lead(config, 1, 6, SIZE, content=1)
    with delivery._queue.changed:
        assert delivery._ledger.add(again)  # on its way
    assert delivery._remove_delivered() == 0
    assert (work_of(config).leads / again.grib.name).exists()
    delivery.failed(KeyboardInterrupt())


@pytest.mark.parametrize("same_machine", [True, False])
def test_after_mending_only_the_damaged_lead_is_made_again(config: Config, same_machine: bool) -> None:
    make_member(config, 1)
    deliver_member(config, 1)
    storage = open_storage(config.destination)
    storage.put_bytes(b"damaged", config.objects.lead(1, 12), overwrite=True)
    assert verify_member(config, 1, mend=True).state == "damaged"
    assert verify_member(config, 1).state == "absent"
    if not same_machine:
        shutil.rmtree(config.scratch.root)
    restored = restore_member(config, 1)
    assert (sorted(record.lead for record in restored.leads), restored.finished) == ([6, 18, 24], False)
    done = {record.lead: record for record in restored.leads}
    delivery = entered(StreamingDelivery(config, 1))
    delivery.started(1, 4, 3)
    forecast(config, delivery, (12,), done)
    # the same lead as it was
    manifest = finish_member(config, 1, [done[lead] for lead in config.leads])
    delivery.finished(manifest)
    assert verify_member(config, 1).state == "sound"
