"""Rules of what to keep: bytes and dollars by hand, removals on record, removed cycles that nothing calls damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.manifest import parse_member_manifest
from aifs_ensemble.common.storage import Storage, open_storage
from aifs_ensemble.delivery.cycles_there import choose_cycles, cycles_at
from aifs_ensemble.delivery.ensemble import needs_writing, write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.retention import CyclePlan, apply_retention, plan_retention
from aifs_ensemble.delivery.standing import DAMAGED, DELIVERED, SHORT, Destination, at_destination, undelivered
from aifs_ensemble.delivery.status import read_statuses
from aifs_ensemble.delivery.verify import check_ensemble, verify_member
from aifs_ensemble.planning.outstanding import outstanding
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.workflow.outdated import outdated

from delivery.members import make_config, make_member

THURSDAY, FRIDAY, SHORT_ONE, YOUNG_ONE = "20250102_0000", "20250103_0000", "20250104_0000", "20250301_0000"
RULES = {
    "other-days": {"what": ["leads"], "days": 30, "except_weekdays": ["thursday"]},
    "states": {"what": ["restarts", "initial"], "days": 14},
    "old": {"what": ["leads", "coarse", "products"], "days": 60},
}
# beside the leads, each cycle has these; their sizes in bytes
BESIDE = {
    "coarse/aifs_ens_forecast_{cycle}_member001_h006_1p5deg.grib2": 500,
    "initial/member001.safetensors": 70_000,
    "initial/member001.json": 10,
    "restarts/member002/h006.safetensors": 90_000,
    "1p5deg_nc/aifs_ensemble_forecast_1p5deg_member001.nc": 4_000,
    "products/weekly/ensemble.nc": 2_000,
    "index.html": 1_000,
    "metrics/member001.csv": 20,
    "status/member001.json": 30,
}
LEADS = 2 * 4 * 3000  # two members, four leads


def archive(tmp_path: Path, destination: str, *, dated: bool = False, **over: Any) -> dict[str, Config]:
    """Make four cycles: one short of a member, the others complete; files of a folder get the time of their cycle."""
    configs = {}
    for cycle in (THURSDAY, FRIDAY, SHORT_ONE, YOUNG_ONE):
        config = make_config(tmp_path / "scratch", destination, cycle=cycle, keep=RULES, **over)
        storage = open_storage(destination)
        for member in (1, 2) if cycle != SHORT_ONE else (1,):
            make_member(config, member)
            deliver_member(config, member)
        for name, size in BESIDE.items():
            storage.put_bytes(b"x" * size, f"{cycle}/{name.format(cycle=cycle)}")
        write_ensemble_manifest(config)
        configs[cycle] = config
        for path in (Path(destination) / cycle).rglob("*") if dated else ():
            os.utime(path, (config.cycle_time.timestamp(),) * 2)
    return configs


def indexes(config: Config) -> int:
    """Return the bytes of a cycle's indexes, as scratch has them."""
    return sum(path.stat().st_size for path in config.scratch.forecasts().glob("*.index"))


def by_what(plan: CyclePlan) -> dict[str, tuple[str, int]]:
    return {one.what: (one.rule, one.bytes) for one in plan.removals}


def keys_of(storage: Storage, cycle: str = "") -> set[str]:
    return {info.key for info in storage.list(f"{cycle}/" if cycle else "")}


def planned(config: Config, storage: Storage, days: float, *, cycles: Iterable[str] | None = None) -> list[CyclePlan]:
    """Return the plan of all cycles, or of the named ones, so many days from now."""
    named = cycles is not None
    return plan_retention(
        config, storage, cycles or cycles_at(storage), named=named, now=datetime.now(UTC) + timedelta(days=days)
    )


def test_the_plan_of_an_archive_by_hand(tmp_path: Path) -> None:
    """45 days after the first cycle, and 75: what each rule takes, in bytes."""
    configs = archive(tmp_path, str(tmp_path / "destination"), dated=True)
    config = configs[YOUNG_ONE]
    storage = open_storage(config.destination)
    assert cycles_at(storage) == [THURSDAY, FRIDAY, SHORT_ONE, YOUNG_ONE]
    after = {days: datetime(2025, 1, 2, tzinfo=UTC) + timedelta(days=days, hours=1) for days in (20, 45, 75)}
    plans = {days: plan_retention(config, storage, cycles_at(storage), now=now) for days, now in after.items()}
    leads = LEADS + indexes(configs[FRIDAY])
    states = {"initial": ("states", 70_000), "restarts": ("states", 90_000)}
    assert [by_what(plan) for plan in plans[20]] == [states, states, states, {}]
    assert [plan.goes for plan in plans[20]] == [160_000, 160_000, 0, 0]
    assert [by_what(plan) for plan in plans[45]][:2] == [states, {"leads": ("other-days", leads), **states}]
    assert [plan.goes for plan in plans[45]] == [160_000, 160_000 + leads, 0, 0]
    assert plans[45][2].left == "failed: missing 2"
    old = {"coarse": ("old", 500), "products": ("old", 7_000), **states}
    assert [by_what(plan) for plan in plans[75]][:2] == [
        {"leads": ("old", leads), **old},
        {"leads": ("other-days", leads), **old},
    ]
    assert [plan.goes for plan in plans[75]] == [167_500 + leads, 167_500 + leads, 0, 160_000]  # 17 days old
    held = sum(path.stat().st_size for path in (tmp_path / "destination" / THURSDAY).rglob("*") if path.is_file())
    assert plans[75][0].bytes == held


def test_dollars_of_a_bucket_by_hand(
    tmp_path: Path, gcs: object, bucket: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million dollars a GB and month: a kilobyte costs one."""
    prices = tmp_path / "prices.yaml"
    bought = {"price": 1e6, "list": "mine"}
    source = {"date": datetime(2026, 1, 1).date(), "status": "published", "source": "a contract"}
    prices.write_text(yaml.safe_dump({"lists": {"mine": source}, "services": {"bucket_gb_month": bought}}))
    configs = archive(tmp_path, bucket(), cloud={"prices": str(prices)})
    config = configs[YOUNG_ONE]
    in_forty_days = datetime.now(UTC) + timedelta(days=40)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return in_forty_days

    monkeypatch.setattr("aifs_ensemble.cli.gc.datetime", Clock)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in config.to_dict().items() if value is not None}))

    def gc(*arguments: str) -> dict[str, Any]:
        assert main(["gc", "--plan", "--json", "--configfile", str(file), *arguments]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    found = gc()
    of = {one["cycle"]: {part["what"]: part["usd_month"] for part in one["removals"]} for one in found["cycles"]}
    leads = 24.0 + indexes(configs[FRIDAY]) / 1000
    assert of[THURSDAY] == pytest.approx({"initial": 70.0, "restarts": 90.0})
    assert of[FRIDAY] == pytest.approx({"leads": leads, "initial": 70.0, "restarts": 90.0})
    assert found["goes"]["usd_month"] == pytest.approx(3 * 160 + 2 * leads)  # all but the short one are as old here
    assert "mine 2026-01-01" in found["price"]
    storage = open_storage(config.destination)
    before = keys_of(storage)
    assert main(["gc", "--plan", "--configfile", str(file)]) == 0
    text = capsys.readouterr().out
    assert "20250104_0000: left: failed: missing 2" in text
    assert "goes; " in text and text.rstrip().endswith("--delete removes it")
    assert keys_of(storage) == before  # a plan removes nothing
    assert gc("--delete")["removed"] == 2 * (16 + 2) + 2
    assert {key for key in before - keys_of(storage) if THURSDAY in key} == {
        f"{THURSDAY}/initial/member001.safetensors",
        f"{THURSDAY}/restarts/member002/h006.safetensors",
    }
    assert gc("--delete")["removed"] == 0


def test_a_removed_member_is_as_whole_as_it_was(tmp_path: Path, destination: str) -> None:
    """No command that judges members calls it damaged, none computes or sends it, and all say what is gone."""
    config = archive(tmp_path, destination)[FRIDAY]
    storage = open_storage(destination)
    assert apply_retention(config, storage, planned(config, storage, 40), datetime(2026, 12, 1, tzinfo=UTC))
    assert not [key for key in keys_of(storage, FRIDAY) if "/forecasts/" in key]
    said = "leads removed by retention on 2026-12-01 (rule other-days)"
    standing = at_destination(config, storage, 1)
    assert (standing.state, standing.removed_text, standing.whole) == (DELIVERED, said, True)
    check = verify_member(config, 1, mend=True)
    assert (check.state, check.reason, check.bytes, check.problems) == ("removed", said, 0, {})
    ensemble = check_ensemble(config, mend=True)
    ensemble.require_sound(mended=True)
    ensemble.require_members(config)
    assert len(ensemble.of("removed", "destination")) == 2
    statuses = read_statuses(config)
    assert {(one.state, one.note) for one in statuses} == {(DELIVERED, said)}
    work = outstanding(config, destination=True)
    assert (work.steps, work.to_deliver, work.ensemble_manifest) == (0, (), False)
    keys = config.objects
    there = Destination(config)
    assert outdated(config, [keys.manifest(1)], there, receipts={keys.manifest(1): keys.receipt(1)}) == []
    assert needs_writing(there) is None and not undelivered(config, [1, 2])
    assert write_ensemble_manifest(config).state == "complete"
    with pytest.raises(InputError, match=r"member001 of 20250103_0000, h006: leads removed by retention on 2026-12-01"):
        DeliveredFields(config, 1).read(6, ["2t"])


def test_sync_leaves_what_retention_took(tmp_path: Path, destination: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = archive(tmp_path, destination)[FRIDAY]
    storage = open_storage(destination)
    apply_retention(config, storage, planned(config, storage, 40))
    before = keys_of(storage, FRIDAY)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in config.to_dict().items() if value is not None}))
    assert main(["sync", "--configfile", str(file)]) == 0
    assert "member001: leads removed by retention" in capsys.readouterr().out
    assert keys_of(storage, FRIDAY) == before
    assert main(["verify", "--configfile", str(file)]) == 0
    assert "destination: 2 removed (members 1-2), 0 bytes: leads removed by retention" in capsys.readouterr().out


def test_what_is_delivered_anew_is_judged_by_its_files(tmp_path: Path, destination: str) -> None:
    """More leads, or the same once more: the record goes, and a lead that is lost afterwards is damage."""
    config = archive(tmp_path, destination)[FRIDAY]
    storage = open_storage(destination)
    apply_retention(config, storage, planned(config, storage, 40))
    longer = make_config(tmp_path / "scratch", destination, cycle=FRIDAY, lead_hours=36)
    assert at_destination(longer, storage, 1).state == SHORT
    assert restore_member(longer, 1).leads == ()  # nothing is there to go on from
    deliver_member(config, 1)
    assert storage.stat(config.objects.retention(1)) is None and storage.stat(config.objects.retention(2)) is not None
    assert verify_member(config, 1).state == "sound"
    storage.delete(config.objects.lead(1, 12))
    assert at_destination(config, storage, 1).state == DAMAGED
    assert at_destination(config, storage, 2).state == DELIVERED


def test_a_record_of_other_content_excuses_nothing(tmp_path: Path) -> None:
    config = archive(tmp_path, str(tmp_path / "destination"))[FRIDAY]
    storage = open_storage(config.destination)
    apply_retention(config, storage, planned(config, storage, 40))
    key = config.objects.retention(1)
    content = json.loads(storage.get_bytes(key))
    manifest = parse_member_manifest(storage.get_bytes(config.objects.manifest(1)), "it")
    assert content["content_digest"] == manifest.content_digest
    storage.put_bytes(json.dumps(content | {"content_digest": "0"}).encode(), key, overwrite=True)  # its seal is broken
    assert at_destination(config, storage, 1).state == DAMAGED
    other = storage.get_bytes(config.objects.retention(2))
    storage.put_bytes(other, key, overwrite=True)
    assert at_destination(config, storage, 1).state == DAMAGED


@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_removal_that_is_killed_goes_on(tmp_path: Path, destination: str, after: int) -> None:
    """Killed before, between and after removals: nothing is taken for damage, and the next one finishes."""
    config = archive(tmp_path, destination, delivery={"threads": 1})[FRIDAY]
    storage = open_storage(destination)
    delete, count = storage.delete, [0]

    def killed(key: str, *, generation: int | None = None) -> bool:
        if count[0] == after:
            raise KeyboardInterrupt
        count[0] += 1
        return delete(key, generation=generation)

    storage.delete = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        apply_retention(
            config, storage, planned(config, storage, 40, cycles=[FRIDAY]), datetime(2026, 12, 1, tzinfo=UTC)
        )
    again = open_storage(destination)
    assert at_destination(config, again, 1).state == DELIVERED
    assert [plan.left for plan in planned(config, again, 40)][1] == ""
    apply_retention(config, again, planned(config, again, 40))
    assert not [key for key in keys_of(again, FRIDAY) if "/forecasts/" in key]
    assert not planned(config, again, 40)[1].removals
    assert "2026-12-01" in at_destination(config, again, 1).removed_text  # its date is that of the first


def test_what_is_at_work_or_incomplete_is_left(tmp_path: Path, destination: str) -> None:
    configs = archive(tmp_path, destination)
    config, storage = configs[FRIDAY], open_storage(destination)
    now = plan_retention(
        config, storage, [FRIDAY], now=datetime.now(UTC) + timedelta(days=40), young=timedelta(days=41)
    )
    assert (now[0].left, now[0].goes) == ("something of it is younger than 984 h", 0)
    assert apply_retention(config, storage, now) == 0
    storage.delete(config.objects.lead(2, 12))
    assert (
        planned(config, storage, 40)[1].left
        == "damaged: aifs_ens_forecast_20250103_0000_member002_h012.grib2 is missing"
    )
    named = planned(config, storage, 40, cycles=[SHORT_ONE])
    assert (named[0].cycle, named[0].left, named[0].goes > 160_000) == (SHORT_ONE, "", True)
    apply_retention(config, storage, named)
    assert verify_member(configs[SHORT_ONE], 1).state == "removed"
    storage.delete(f"{YOUNG_ONE}/manifest.json")
    assert planned(config, storage, 40)[3].left == "no manifest.json: no run has finished it"


def test_coarse_leads_go_by_a_rule_of_their_own(tmp_path: Path) -> None:
    """The index of a member, which tells of both, goes with the last of them."""
    destination = str(tmp_path / "destination")
    config = archive(tmp_path, destination)[FRIDAY]
    storage = open_storage(destination)
    storage.put_bytes(b"index", config.objects.member_index(1))
    apply_retention(config, storage, planned(config, storage, 40))
    assert {key for key in keys_of(storage, FRIDAY) if "/forecasts/" in key} == {config.objects.member_index(1)}
    removed = planned(config, storage, 70)[1]
    assert by_what(removed) == {"coarse": ("old", 505), "products": ("old", 7_000)}
    apply_retention(config, storage, [removed])
    assert "/retention/" in " ".join(keys_of(storage, FRIDAY))
    assert {key.split("/")[1] for key in keys_of(storage, FRIDAY)} == {
        "initial", "manifest.json", "manifests", "metrics", "receipts", "retention", "status", "_SUCCESS"
    }  # fmt: skip


def test_cycles_by_name() -> None:
    there = [THURSDAY, FRIDAY, YOUNG_ONE]
    assert choose_cycles(there, "20250103_0000..20250401_0000") == [FRIDAY, YOUNG_ONE]
    assert choose_cycles(there, f"{YOUNG_ONE}, {THURSDAY}") == [THURSDAY, YOUNG_ONE]
    for text in ("20250105_0000", "20250104_0000..20250105_0000", "yesterday", "20250103_0000..", ""):
        with pytest.raises(ConfigError):
            choose_cycles(there, text)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"what": ["lead"], "days": 3}, r"keep\.x\.what: \['lead'\], expected array, of one of leads, coarse"),
        ({"what": ["leads"]}, r"keep\.x\.days is missing"),
        ({"what": ["leads"], "days": 0}, r"keep\.x\.days: 0, expected integer, at least 1"),
        ({"what": ["leads"], "days": 3, "except_weekdays": ["thu"]}, r"keep\.x\.except_weekdays: \['thu'\]"),
        ({"what": ["leads"], "days": 3, "weekday": 1}, r"unknown key 'keep\.x\.weekday', did you mean 'except_weekday"),
    ],
)
def test_a_rule_that_is_none_is_told_by_its_key(tmp_path: Path, rule: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        make_config(tmp_path, "results", keep={"x": rule})
