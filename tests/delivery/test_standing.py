"""Every command speaks about the same situations, from one table: what each of them must say of member 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, PlanError, VerificationError
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.standing import Destination, at_destination, undelivered
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.outstanding import outstanding
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.plan_text import summary_lines
from aifs_ensemble.workflow.closing import closing_lines
from aifs_ensemble.workflow.outdated import outdated

from delivery.members import make_config, make_member, publish_lead

ACCUMULATE = "made with accumulate from_start, not per_step"
CHUNKS = "made with chunks 1, not 2"
LAYOUT = "delivered in layout leads, both is asked for"
SHORT = "ends at 12 h, 24 h are asked for"
H012 = "aifs_ens_forecast_20250819_0000_member001_h012.grib2"


def computed(config: Config) -> None:
    """Make the member on scratch, with the settings of the configuration in its manifest."""
    settings = {name: getattr(config.forecast, name) for name in ("accumulate", "chunks")}
    write_member_manifest(config.scratch.manifest(1), replace(make_member(config, 1), settings=settings))


def delivered(config: Config) -> None:
    computed(config)
    deliver_member(config, 1)


def begun(config: Config) -> None:
    for lead in (6, 12):
        publish_lead(config, 1, lead)


def without_scratch(config: Config) -> None:
    delivered(config)
    shutil.rmtree(config.scratch.root)


def without_lead(config: Config) -> None:
    delivered(config)
    open_destination(config).delete(config.objects.lead(1, 12))


def with_short_lead(config: Config) -> None:
    delivered(config)
    open_destination(config).put_bytes(b"GRIB", config.objects.lead(1, 12), overwrite=True)


def with_bad_manifest(config: Config) -> None:
    delivered(config)
    open_destination(config).put_bytes(b"{", config.objects.manifest(1), overwrite=True)


def without_receipt(config: Config) -> None:
    delivered(config)
    open_destination(config).delete(config.objects.receipt(1))


def without_manifest(config: Config) -> None:
    """As Snakemake leaves a group one of whose members failed."""
    without_scratch(config)
    open_destination(config).delete(config.objects.manifest(1))


@dataclass(frozen=True)
class Case:
    """A situation, and what must be said of it.

    `make` is called with the configuration merged with `made`, the commands are asked with that merged with `asked`.
    `status` is the member's state in words (``{}``: the destination), `here` and `there` what `verify` calls it on
    scratch and at the destination. `plan` is ``nothing``, ``deliver``, ``forecast`` or ``refused``, `run` whether the
    workflow leaves a record alone that is there. `unseen` says that a machine that may not ask a bucket cannot know.
    """

    make: Callable[[Config], None]
    status: str
    here: str
    there: str
    plan: str
    run: str
    sync: str
    closing: str
    made: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    counts: bool = False
    unseen: bool = False
    reason: str = ""


PER_STEP = {"forecast": {"accumulate": "per_step"}}
TWO_CHUNKS = {"forecast": {"chunks": 2}}
NONE, SENT, STILL = "no finished member", "objects sent", "no bytes moved"
FILES, WAITS, OTHERWISE = "files are in", "not delivered", "not as asked for: "
CASES = {
    "nothing there": Case(
        lambda config: None, "waiting", "absent", "absent", "forecast", "absent", NONE, "", reason="absent"
    ),
    "work folder only": Case(
        begun, "waiting: 2 of 4 leads made, nobody works on it", "absent", "absent", "forecast", "absent", NONE, "",
        reason="absent",
    ),
    "computed": Case(computed, "computed", "sound", "absent", "deliver", "absent", SENT, WAITS, reason="absent"),
    "delivered": Case(delivered, "delivered", "sound", "sound", "nothing", "left", STILL, FILES, counts=True),
    "delivered, scratch gone": Case(
        without_scratch, "delivered", "absent", "sound", "nothing", "left", NONE, FILES, counts=True, unseen=True
    ),
    "delivered 12 h, 24 h asked for": Case(
        delivered, f"short: {SHORT}", "short", "short", "forecast", "again", f"short: {SHORT}",
        f"{OTHERWISE}short: {SHORT}", made={"lead_hours": 12}, reason=f"short: {SHORT}",
    ),
    "delivered 24 h, 12 h asked for": Case(
        delivered, "delivered", "sound", "sound", "nothing", "left", STILL, FILES, asked={"lead_hours": 12}, counts=True
    ),
    "computed 12 h, 24 h asked for": Case(
        computed, f"short: {SHORT}", "short", "absent", "forecast", "absent", f"short: {SHORT}", WAITS,
        made={"lead_hours": 12}, reason="absent",
    ),
    "delivered with other accumulate": Case(
        delivered, f"other settings: {ACCUMULATE}", "other settings", "other settings", "refused", "refused",
        f"other settings: {ACCUMULATE}", f"{OTHERWISE}other settings: {ACCUMULATE}", asked=PER_STEP,
        reason=f"other settings: {ACCUMULATE}",
    ),
    "delivered with other chunks": Case(
        delivered, f"other settings: {CHUNKS}", "other settings", "other settings", "refused", "refused",
        f"other settings: {CHUNKS}", f"{OTHERWISE}other settings: {CHUNKS}", asked=TWO_CHUNKS,
        reason=f"other settings: {CHUNKS}",
    ),
    "computed with other accumulate": Case(
        computed, f"other settings: {ACCUMULATE}", "other settings", "absent", "forecast", "absent",
        f"other settings: {ACCUMULATE}", WAITS, asked=PER_STEP, reason="absent",
    ),
    "lead missing": Case(
        without_lead, f"damaged: {H012}: missing", "sound", "damaged", "deliver", "again", SENT,
        f"{OTHERWISE}damaged: {H012}: missing",
        unseen=True, reason=f"damaged: {H012}: missing",
    ),
    "lead cut": Case(
        with_short_lead, f"damaged: {H012}: 4 bytes, expected 3000", "sound", "damaged", "deliver", "again", SENT,
        f"{OTHERWISE}damaged: {H012}: 4 bytes, expected 3000", unseen=True,
        reason=f"damaged: {H012}: 4 bytes, expected 3000",
    ),
    "manifest damaged": Case(
        with_bad_manifest, "damaged: {}/20250819_0000/manifests/member001.json: not JSON",
        "sound", "damaged", "deliver", "again", SENT,
        f"{OTHERWISE}damaged: {{}}/20250819_0000/manifests/member001.json: not JSON", unseen=True,
        reason="damaged: {}/20250819_0000/manifests/member001.json: not JSON",
    ),
    "receipt missing": Case(
        without_receipt, "damaged: {}/20250819_0000/receipts/member001.json: missing",
        "sound", "damaged", "deliver", "again", SENT,
        f"{OTHERWISE}damaged: {{}}/20250819_0000/receipts/member001.json: missing", unseen=True,
        reason="damaged: {}/20250819_0000/receipts/member001.json: missing",
    ),
    "receipt of another layout": Case(
        delivered, f"other layout: {LAYOUT}", "sound", "sound", "deliver", "again", SENT,
        f"{OTHERWISE}other layout: {LAYOUT}", asked={"delivery": {"layout": "both"}}, counts=True,
        reason=f"other layout: {LAYOUT}",
    ),
    "manifest removed, receipt there": Case(
        without_manifest, "waiting", "absent", "absent", "forecast", "absent", NONE, FILES, unseen=True,
        reason="unfinished: no manifest yet",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A situation made, and the commands asked about it."""

    case: Case
    config: Config
    file: Path
    capsys: pytest.CaptureFixture[str]

    def said(self, text: str) -> str:
        return text.replace("{}", str(self.config.destination))

    def command(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code of a command and what it printed."""
        self.capsys.readouterr()
        code = main([*arguments, "--configfile", str(self.file)])
        shown = self.capsys.readouterr()
        return code, shown.out + shown.err

    def known_here(self) -> bool:
        """Whether this machine knows without asking a bucket."""
        return not (self.case.unseen and self.config.cloud_destination)


@pytest.fixture(params=CASES)
def told(request: pytest.FixtureRequest, tmp_path: Path, destination: str, capsys: pytest.CaptureFixture[str]) -> Told:
    case: Case = CASES[request.param]
    case.make(make_config(tmp_path / "scratch", destination, members="1", **case.made))
    config = make_config(tmp_path / "scratch", destination, members="1", **case.asked)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in config.to_dict().items() if value is not None}))
    return Told(case, config, file, capsys)


def plan_says(text: str) -> str:
    """Return what a plan's lines say, in one word of the table."""
    if "error: " in text:
        return "refused"
    if "nothing to compute" in text:
        return "nothing"
    assert "1 members to deliver" in text
    return "deliver" if "0 of 1 members to forecast" in text else "forecast"


def test_plan(told: Told) -> None:
    code, text = told.command("plan", "--destination")
    assert plan_says(text) == told.case.plan
    assert code == (PlanError.exit_code if told.case.plan == "refused" else 0)
    if told.case.plan == "refused":
        assert told.case.reason.removeprefix("other settings: ") in text
        assert "gc --finished 1 --delete" in text


def test_plan_of_a_dry_run(told: Told) -> None:
    config = told.config
    found = plan(plan_case(config, load_machines(), profile="local", work=outstanding(config), runs=()))
    if told.known_here():
        assert plan_says("\n".join(summary_lines(found))) == told.case.plan


def test_run(told: Told) -> None:
    config = told.config
    bucket = open_destination(config) if config.cloud_destination else None
    base = "" if bucket else f"{config.destination}/"
    manifest, receipt = (base + key(1) for key in (config.objects.manifest, config.objects.receipt))
    if told.case.run == "refused":
        with pytest.raises(VerificationError, match="what is delivered is never overwritten") as error:
            outdated(config, [manifest], bucket, receipts={manifest: receipt})
        assert told.case.reason.removeprefix("other settings: ") in str(error.value)
        return
    again = outdated(config, [manifest], bucket, receipts={manifest: receipt})
    assert again == ([manifest] if told.case.run == "again" else [])
    there = open_destination(config).stat(config.objects.manifest(1)) is not None
    assert there == (told.case.run != "absent")


def test_job(told: Told) -> None:
    """A job that is started nevertheless refuses before a card computes anything, or finds the member finished."""
    if told.case.run == "refused":
        with pytest.raises(VerificationError, match="what is delivered is never overwritten"):
            restore_member(told.config, 1)
        return
    whole = told.case.run == "left" or (told.case.plan == "deliver" and told.case.there == "sound")
    lost = told.case.make in (without_manifest, with_bad_manifest)  # the receipt still vouches for the member
    assert restore_member(told.config, 1).finished == (whole or lost)


def test_status(told: Told) -> None:
    code, text = told.command("status", "--json")
    [status] = json.loads(text)
    words = f"{status['state']}: {status['error']}" if status["error"] else status["state"]
    assert (code, words) == (0, told.said(told.case.status))


def test_verify(told: Told) -> None:
    if told.case.there == "sound":  # else nothing has to say that these members are an ensemble
        write_ensemble_manifest(told.config)
    code, text = told.command("verify")
    assert code == (0 if told.case.there == "sound" else VerificationError.exit_code)
    for place, state in (("scratch", told.case.here), ("destination", told.case.there)):
        assert f"{place}: 1 {state} (members 1), " in text
    if told.case.reason not in ("", "absent") and told.case.there != "absent":
        assert told.said(told.case.reason.partition(": ")[2]) in text


def test_ensemble(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    status = write_ensemble_manifest(told.config)
    assert status.delivered == ((1,) if told.case.counts else ())
    if not told.case.counts:
        assert f"member 1 does not count: {told.said(told.case.reason)}" in caplog.text


def test_judgement_of_a_rented_job(told: Told) -> None:
    wrong = undelivered(told.config, [1])
    address = open_destination(told.config).address(told.config.objects.manifest(1))
    assert wrong == ({1: f"{address}: {told.said(told.case.reason)}"} if told.case.reason else {})


def test_closing_lines(told: Told) -> None:
    said = "\n".join(closing_lines(told.config, finished=True))
    if told.known_here():
        assert told.said(told.case.closing) in said
        assert (OTHERWISE in said) == (OTHERWISE in told.case.closing)
        assert (FILES in said) == (told.case.there != "absent" or told.case.closing == FILES)


def test_sync(told: Told) -> None:
    """What was computed as asked for is at the destination afterwards, whatever was there."""
    case, config = told.case, told.config
    code, text = told.command("sync")
    assert case.sync in text
    refused = case.sync.startswith("other settings")
    assert code == (VerificationError.exit_code if refused else ConfigError.exit_code if case.sync == NONE else 0)
    if case.here == "sound":
        assert at_destination(config, open_destination(config), 1).done


def test_one_listing_and_two_small_files_a_member_are_read(tmp_path: Path, gcs, bucket) -> None:  # type: ignore[no-untyped-def]
    config = make_config(tmp_path / "scratch", bucket())
    for member in config.members:
        make_member(config, member)
        deliver_member(config, member)
    gcs.schedule.log.clear()
    destination = Destination(config)
    assert all(one.done for one in destination.standings().values())
    first = gcs.schedule.log["requests"]
    assert first <= 1 + 2 * 2 * len(config.members)  # an object is described, then read
    destination.look()
    destination.standings()
    assert gcs.schedule.log["requests"] == first + 1
