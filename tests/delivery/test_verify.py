"""Damage, on scratch and at the destination: found by name, and mended by doing again only what is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError, VerificationError
from aifs_ensemble.common.storage import open_storage
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.leftovers import finished_run
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.standing import grouped
from aifs_ensemble.delivery.verify import check_ensemble, verify_ensemble, verify_member
from aifs_ensemble.forecast.work_folder import WorkFolder

from delivery.members import make_config, make_member, make_real_member


def damage(path: Path, how: str) -> None:
    """Break a file in one way."""
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-10])
    else:
        data[100] ^= 1
        path.write_bytes(data)


@pytest.fixture
def config(tmp_path: Path, destination: str) -> Config:
    """Two delivered members."""
    config = make_config(tmp_path / "scratch", destination)
    for member in (1, 2):
        make_member(config, member)
        deliver_member(config, member)
    return config


@pytest.mark.parametrize("how", ["missing", "truncated", "one byte"])
def test_damage_on_scratch_is_named_and_only_that_lead_forgotten(config: Config, how: str) -> None:
    scratch = config.scratch
    damage(scratch.lead(2, 12), how)
    with pytest.raises(VerificationError, match=r"members 2 damaged: member002 h012: .*h012\.grib2: "):
        check_ensemble(config, mend=True, places=["scratch"]).require_sound(mended=True)
    work = WorkFolder(scratch.work(2), config.cycle, 2)
    # the link went, the work copy is sound: nothing to compute
    assert sorted(work.journal.read()) == ([6, 12, 18, 24] if how == "missing" else [6, 18, 24])
    assert (work.leads / scratch.lead(2, 12).name).exists() == (how == "missing")
    assert not scratch.manifest(2).exists()
    assert scratch.manifest(1).exists()
    assert check_ensemble(config, places=["scratch"]).of("absent")[0].member == 2


@pytest.mark.parametrize("how", ["missing", "truncated", "one byte", "no manifest content"])
def test_damage_at_the_destination_is_named_and_mended_by_a_new_delivery(config: Config, how: str) -> None:
    storage = open_storage(config.destination)
    keys = config.objects
    key = keys.lead(1, 18)
    data = storage.get_bytes(key)
    if how == "missing":
        storage.delete(key)
    elif how == "no manifest content":
        storage.put_bytes(b"{", keys.manifest(1), overwrite=True)
    else:
        bad = data[:-1] if how == "truncated" else bytes([data[0] ^ 1]) + data[1:]
        storage.put_bytes(bad, key, overwrite=True)
    with pytest.raises(VerificationError, match="member001"):
        verify_ensemble(config)
    assert storage.stat(keys.manifest(1)) is None
    assert not config.scratch.receipt(1).exists()
    receipt = deliver_member(config, 1)
    assert receipt.sent_objects == (2 if how == "no manifest content" else 3)  # the lead, receipt and manifest
    assert verify_ensemble(config).of("sound", "destination")
    assert storage.get_bytes(key) == data


def test_a_bucket_is_verified_without_downloads(tmp_path: Path, gcs, bucket) -> None:  # type: ignore[no-untyped-def]
    config = make_config(tmp_path / "scratch", bucket(), members="1")
    make_member(config, 1)
    deliver_member(config, 1)
    gcs.schedule.log.clear()
    assert verify_member(config, 1).state == "sound"
    # lists, the manifest's description and the manifest; no lead
    assert gcs.schedule.log["requests"] <= 4


def test_the_ensemble_is_complete_short_or_failed_and_never_silently_short(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(config.destination)
    status = write_ensemble_manifest(config, tmp_path / "copy.json")
    assert (status.state, status.delivered, status.missing) == ("complete", (1, 2), ())
    assert storage.get_bytes(config.objects.success).decode().startswith("20250819_0000: complete, 2 of 2 members")
    assert (tmp_path / "copy.json").read_bytes() == storage.get_bytes(config.objects.ensemble_manifest)

    storage.delete(config.objects.lead(2, 12))
    failed = write_ensemble_manifest(config)
    assert (failed.state, failed.missing) == ("failed", (2,))
    assert storage.stat(config.objects.success) is None
    assert "member 2 does not count" in caplog.text

    accepted = make_config(config.scratch.root, config.destination, min_members=1)
    short = write_ensemble_manifest(accepted)
    assert short.state == "short"
    assert "short, 1 of 2 members, missing 2" in storage.get_bytes(config.objects.success).decode()
    content = json.loads(storage.get_bytes(config.objects.ensemble_manifest))
    assert (content["state"], content["missing"]) == ("short", "2")
    objects = content["members"][0]["objects"]
    assert len(objects) == 8
    assert all(item["crc32c"] and item["generation"] and item["size"] for item in objects)


def test_members_that_were_never_delivered_are_named(config: Config) -> None:
    more = make_config(config.scratch.root, config.destination, members="1-4")
    with pytest.raises(VerificationError, match=r"2 sound members, expected at least 4; absent: 3-4"):
        verify_ensemble(more)
    assert verify_ensemble(make_config(config.scratch.root, config.destination, members="1-4", min_members=2))


def test_deep_decodes_what_only_looks_right(config: Config) -> None:
    """Noise with the right checksum is sound until somebody decodes it."""
    assert not check_ensemble(config).of("damaged")
    deep = check_ensemble(config, deep=True)
    assert len(deep.of("damaged")) == 4
    assert all("no whole GRIB message" in line for check in deep.of("damaged") for line in check.lines())


def test_deep_passes_real_messages(tmp_path: Path, destination: str) -> None:
    config = make_config(
        tmp_path / "scratch", destination, members="3", delivery={"layout": "blocks", "block_hours": 12}
    )
    make_real_member(config, 3)
    deliver_member(config, 3)
    check = check_ensemble(config, deep=True)
    assert [one.state for one in check.members] == ["sound", "sound"]
    assert all(one.decoded for one in check.members)


@pytest.mark.parametrize("layout", ["leads", "blocks"])
def test_deep_compares_every_key_of_every_message(tmp_path: Path, destination: str, layout: str) -> None:
    config = make_config(tmp_path / "scratch", destination, members="3", delivery={"layout": layout})
    make_real_member(config, 3, accumulate="per_step")
    deliver_member(config, 3)
    assert not check_ensemble(config).of("damaged")
    deep = check_ensemble(config, deep=True)
    assert [one.place for one in deep.of("damaged")] == ["scratch", "destination"]
    assert all("stepRange is '" in line for one in deep.members for line in one.lines())


def run_cli(config: Config, tmp_path: Path, *arguments: str) -> int:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({key: value for key, value in config.to_dict().items() if value is not None}))
    return main([*arguments, "--configfile", str(path)])


def test_commands(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(config, tmp_path, "sync") == 0
    assert "no bytes moved" in capsys.readouterr().out
    assert run_cli(config, tmp_path, "verify") == 0
    assert "destination: 2 sound (members 1-2)" in capsys.readouterr().out
    damage(config.scratch.lead(1, 6), "one byte")
    assert run_cli(config, tmp_path, "verify", "--place", "scratch") == VerificationError.exit_code
    captured = capsys.readouterr()
    assert "scratch: member001 h006: " in captured.out
    assert "verify --mend, then run again" in captured.err
    assert config.scratch.manifest(1).exists()  # nothing is mended unasked


@pytest.mark.parametrize("mend", [[], ["--mend"]])
def test_a_damaged_file_is_told_once(
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    mend: list[str],
) -> None:
    paths = [config.scratch.lead(1, 6), config.scratch.lead(2, 12), config.scratch.lead(2, 18)]
    for path in paths:
        damage(path, "one byte")
    assert run_cli(config, tmp_path, "verify", "--place", "scratch", *mend) == VerificationError.exit_code
    captured = capsys.readouterr()
    shown = captured.out + captured.err + caplog.text
    assert [shown.count(f"{path.name}: ") for path in paths] == [1, 1, 1]
    assert captured.err.startswith("error: members 1-2 damaged: 3 problems, named above; ")


def test_gc_shows_orphans_and_removes_them_when_told(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(config.destination)
    keys = config.objects
    stray = [keys.lead(7, 6), keys.lead(1, 30), keys.restart(1, 12)]
    for key in [*stray, f"{config.cycle}/products/member009.png"]:
        storage.put_bytes(b"x", key)
    before = {info.key for info in storage.list("")}
    assert run_cli(config, tmp_path, "gc") == 0
    assert "0 objects" in capsys.readouterr().out  # all younger than a day
    assert run_cli(config, tmp_path, "gc", "--older-hours", "0") == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in stray)
    assert "member007 has no manifest" in shown
    assert {info.key for info in storage.list("")} == before
    assert run_cli(config, tmp_path, "gc", "--older-hours", "0", "--delete") == 0
    assert {info.key for info in storage.list("")} == before - set(stray)
    assert run_cli(config, tmp_path, "gc", "--finished", "2", "--delete") == 0
    assert not [info.key for info in storage.list("") if "member002" in info.key]
    assert verify_member(config, 1).state == "sound"


def gc_keys(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> set[str]:
    """Return the keys that gc shows."""
    capsys.readouterr()
    assert run_cli(config, tmp_path, "gc", *arguments) == 0
    address = open_storage(config.destination).address("")
    lines = capsys.readouterr().out.splitlines()[:-1]
    return {line.split("  ")[0].removeprefix(address) for line in lines}


def test_gc_leaves_a_member_alone_of_which_anything_is_young(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member resumed after days has leads that are old and that nothing names yet."""
    config = make_config(tmp_path / "scratch", str(tmp_path / "destination"))
    storage = open_storage(config.destination)
    keys = config.objects
    for key in (keys.lead(1, 6), keys.restart(1, 6), keys.lead(2, 6), keys.restart(2, 6)):
        storage.put_bytes(b"x", key)
        os.utime(tmp_path / "destination" / key, (0, 0))
    storage.put_bytes(b"{}", keys.status(2))
    assert gc_keys(config, tmp_path, capsys) == {keys.lead(1, 6), keys.restart(1, 6)}


def test_gc_leaves_what_a_receipt_vouches_for(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_storage(config.destination).delete(config.objects.manifest(1))
    assert gc_keys(config, tmp_path, capsys, "--older-hours", "0") == set()


def test_gc_of_a_finished_run_is_known_on_scratch(config: Config, tmp_path: Path) -> None:
    copy = config.scratch.delivered(2)
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    assert run_cli(config, tmp_path, "gc", "--finished", "2") == 0
    assert copy.exists()
    assert run_cli(config, tmp_path, "gc", "--finished", "2", "--delete") == 0
    assert not copy.exists()
    assert not config.scratch.receipt(2).exists()
    assert config.scratch.receipt(1).exists()


@pytest.mark.parametrize("kept", [True, False], ids=["copies kept", "copies gone"])
def test_gc_of_a_finished_run_lets_it_be_made_again(tmp_path: Path, destination: str, kept: bool) -> None:
    config = make_config(tmp_path / "scratch", destination, members="1", keep_scratch=kept)
    make_member(config, 1)
    deliver_member(config, 1)
    assert run_cli(config, tmp_path, "gc", "--finished", "1", "--delete") == 0
    work = WorkFolder(config.scratch.work(1), config.cycle, 1)
    assert set(work.finished(config.leads, local=False)) == (set(config.leads) if kept else set())
    assert config.scratch.manifest(1).exists() == kept  # without it the forecast runs again
    if not kept:
        make_member(config, 1)
    deliver_member(config, 1)
    assert verify_member(config, 1).state == "sound"


def test_a_missing_receipt_is_named_as_the_ensemble_needs_it(config: Config) -> None:
    storage = open_storage(config.destination)
    storage.delete(config.objects.receipt(1))
    assert write_ensemble_manifest(config).missing == (1,)
    with pytest.raises(VerificationError, match=r"member001: .*receipts/member001\.json: missing"):
        verify_ensemble(config)
    deliver_member(config, 1)
    assert write_ensemble_manifest(config).state == "complete"


@pytest.mark.parametrize(("delivered", "wanted"), [("blocks", "leads"), ("leads", "both")])
def test_a_member_is_judged_by_the_layout_in_which_it_was_delivered(
    tmp_path: Path, destination: str, delivered: str, wanted: str
) -> None:
    config = make_config(tmp_path, destination, members="1", delivery={"layout": delivered, "block_hours": 12})
    make_member(config, 1)
    deliver_member(config, 1)
    today = make_config(tmp_path, destination, members="1", delivery={"layout": wanted, "block_hours": 12})
    assert verify_member(today, 1, mend=True).state == "sound"
    assert write_ensemble_manifest(today).state == "complete"
    deliver_member(today, 1)
    names = [info.key for info in open_storage(destination).list(f"{config.cycle}/forecasts/")]
    assert len([name for name in names if name.endswith(".grib2")]) == 4


def test_a_sound_run_of_fewer_leads_is_short_and_left_alone(config: Config) -> None:
    write_ensemble_manifest(config)
    storage = open_storage(config.destination)
    before = {info.key for info in storage.list("")}
    today = make_config(config.scratch.root, config.destination, lead_hours=36)
    for place in ("scratch", "destination"):
        check = verify_member(today, 1, place=place, mend=True)
        assert (check.state, check.problems) == ("short", {0: "ends at 24 h, 36 h are asked for"})
    with pytest.raises(VerificationError, match=r"0 sound members, expected at least 2; short: 1-2 \(ends at 24 h"):
        verify_ensemble(today)
    assert {info.key for info in storage.list("")} == before
    assert verify_member(config, 1).state == "sound"


def test_short_members_are_told_with_each_reason() -> None:
    def short(hours: int) -> str:
        return f"ends at {hours} h, 240 h are asked for"

    assert grouped({1: short(6), 2: short(6), 3: short(12)}) == (
        "1-2: ends at 6 h, 240 h are asked for; 3: ends at 12 h, 240 h are asked for"
    )
    many = grouped({member: short(6 * member) for member in range(1, 9)})
    assert many.count("ends at") == 5 and many.endswith("; and 3 more")


def test_a_member_that_is_not_there_leaves_success_alone(config: Config) -> None:
    write_ensemble_manifest(config)
    storage = open_storage(config.destination)
    assert finished_run(config, storage, [9]) == []
    found = [orphan.info.key for orphan in finished_run(config, storage, [1])]
    assert found[0] == config.objects.success and config.objects.manifest(1) in found


def test_what_another_machine_delivered_is_no_damage_on_scratch(tmp_path: Path, destination: str) -> None:
    for machine in ("one", "two"):
        config = make_config(tmp_path / machine, destination, members="1", keep_scratch=False)
        make_member(config, 1)
        deliver_member(config, 1)
        assert not config.scratch.lead(1, 6).exists()
        assert verify_member(config, 1, place="scratch").state == "sound"


def test_success_goes_before_the_manifest_that_it_does_not_belong_to(tmp_path: Path) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "destination"))
    make_member(config, 1)
    deliver_member(config, 1)
    write_ensemble_manifest(make_config(tmp_path / "scratch", config.destination, min_members=1))
    success = tmp_path / "destination" / config.objects.success
    assert "short" in success.read_text()
    make_member(config, 2)
    deliver_member(config, 2)
    blocked = tmp_path / "destination" / config.objects.ensemble_manifest
    blocked.unlink()
    (blocked / "in the way").mkdir(parents=True)
    with pytest.raises(StorageError):
        write_ensemble_manifest(config)
    assert not success.exists()


@pytest.mark.usefixtures("gcs")
@pytest.mark.parametrize("command", ["sync", "verify", "gc"])
def test_a_bucket_that_is_not_there_is_named_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    config = make_config(tmp_path / "scratch", "gs://nobody/x")
    make_member(config, 1)
    assert run_cli(config, tmp_path, command) == StorageError.exit_code
    assert capsys.readouterr().err.endswith("error: gs://nobody/x: no such bucket as nobody\n")


def test_sync_goes_on_past_a_member_that_cannot_be_delivered(
    tmp_path: Path, destination: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "scratch", destination)
    for member in (1, 2):
        make_member(config, member)
    damage(config.scratch.lead(1, 6), "one byte")
    assert run_cli(config, tmp_path, "sync") == VerificationError.exit_code
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "member001: not delivered: " in lines[0]
    assert "h006.grib2: crc32c" in lines[0]
    assert lines[1].startswith("member002: ")
    assert " in 10 objects sent in " in lines[1]
    assert lines[2].startswith("members 2: ")
    assert lines[3] == "20250819_0000: failed, 1 of 2 members, missing 1"
    assert "members 1 not delivered, the first because " in captured.err
    assert verify_member(config, 2).state == "sound"


def test_sync_shows_its_progress_on_a_terminal_only(
    tmp_path: Path, destination: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "scratch", destination, members="1")
    make_member(config, 1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run_cli(config, tmp_path, "sync") == 0
    assert "\r\033[Kmember001: 1 of 4 leads, " in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert run_cli(config, tmp_path, "sync") == 0
    assert "\r" not in capsys.readouterr().err
