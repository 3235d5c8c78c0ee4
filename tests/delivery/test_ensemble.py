"""The ensemble's state decides what a run says, leaves and finds to do; what vanishes is named and brought back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.ensemble import needs_writing, write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.delivery.verify import check_ensemble, verify_ensemble
from aifs_ensemble.workflow.closing import closing_lines

from delivery.corruptions import lasting, run_again
from delivery.members import make_config, make_member


def content(config: Config) -> dict[str, bytes]:
    """Return everything at the destination but the times and generations that a second delivery changes."""
    storage = open_destination(config)
    found = {info.key: storage.get_bytes(info.key) for info in storage.list(f"{config.cycle}/")}
    for key in [key for key in found if key.endswith("/manifest.json") or "/receipts/" in key]:
        found[key] = lasting(json.loads(found[key]))
    return found


def deliver(config: Config, settings: dict[str, Any] | None = None, noise: int = 0) -> None:
    """Make and deliver what the configuration asks for, and write the ensemble's manifest."""
    for member in config.members:
        write_member_manifest(
            config.scratch.manifest(member),
            replace(make_member(config, member, content=noise), settings=settings or {}),
        )
        deliver_member(config, member)
    write_ensemble_manifest(config)


@pytest.fixture
def config(tmp_path: Path, destination: str) -> Config:
    """Two delivered members and their ensemble."""
    config = make_config(tmp_path / "scratch", destination)
    deliver(config)
    return config


def test_a_failed_ensemble_is_an_error_is_told_and_is_made_again(config: Config) -> None:
    open_destination(config).delete(config.objects.lead(2, 12))
    status = write_ensemble_manifest(config)
    with pytest.raises(VerificationError, match=r"ensemble .*: failed, 1 of 2 members, missing 2 \(damaged: .*h012"):
        status.require()
    assert open_destination(config).stat(config.objects.success) is None
    assert needs_writing(Destination(config)) == "the ensemble is failed"
    said = "\n".join(closing_lines(config, finished=False))
    assert "ensemble 20250819_0000: failed, 1 of 2 members, missing 2" in said
    assert "members 2 do not count: damaged: " in said


def test_a_run_that_ends_well_says_the_ensembles_state(config: Config) -> None:
    if config.cloud_destination:  # the copy that Snakemake's job leaves
        write_ensemble_manifest(config, config.scratch.copy(config.objects.ensemble_manifest))
    assert "ensemble 20250819_0000: complete, 2 of 2 members" in list(closing_lines(config, finished=True))


def test_a_run_on_rented_machines_says_it_too(config: Config) -> None:
    """It has no copy of the manifest, nor members on scratch: the destination is asked."""
    coordinator = Config(config.to_dict() | {"scratch": f"{config.scratch.root}-of-the-coordinator"})
    said = list(closing_lines(coordinator, finished=True, rented=True))
    assert "ensemble 20250819_0000: complete, 2 of 2 members" in said
    assert f"{config.model.title}: these are not forecasts" in said
    open_destination(config).delete(config.objects.ensemble_manifest)
    assert not any("complete" in line for line in closing_lines(coordinator, finished=True, rented=True))


@pytest.mark.parametrize("rented", [False, True], ids=["here", "rented"])
def test_a_run_names_a_page_only_where_it_is(config: Config, rented: bool) -> None:
    """A run of one target makes none."""
    asked = Config(config.to_dict() | {"products": {"page": {"enabled": True}}})

    def said() -> str:
        return "\n".join(closing_lines(asked, finished=True, rented=rented))

    address = f"{config.destination}/{config.objects.page}"
    assert address not in said()
    open_destination(config).put_bytes(b"<html>", config.objects.page)
    if config.cloud_destination and not rented:  # the copy that Snakemake's job leaves
        assert address not in said()
        write_bytes(config.scratch.copy(config.objects.page), b"<html>")
    assert (f"its page is {address}" if config.cloud_destination else f"open {address} in a browser") in said()


@pytest.mark.parametrize("finished", [False, True], ids=["stopped", "finished"])
def test_a_run_names_the_destination_only_for_what_is_there(tmp_path: Path, destination: str, finished: bool) -> None:
    """A run that Ctrl-C stops before its first lead leaves the ensemble's manifest there, and no files of members."""
    config = make_config(tmp_path / "scratch", destination)
    where = f"files are in {config.destination}/{config.cycle}"
    write_ensemble_manifest(config)
    assert where not in list(closing_lines(config, finished=finished))
    deliver(config)
    assert where in list(closing_lines(config, finished=finished))


@pytest.mark.parametrize("asked", [{"forecast": {"accumulate": "per_step"}}, {"members": "3-4"}], ids=str)
def test_a_run_of_which_nothing_counts_leaves_anothers_ensemble_alone(
    asked: dict[str, Any], tmp_path: Path, destination: str
) -> None:
    first = make_config(tmp_path / "scratch", destination)
    deliver(first, {"accumulate": "from_start"})
    before = content(first)
    other = make_config(tmp_path / "other", destination, **asked)
    status = write_ensemble_manifest(other)
    assert status.state == "failed"
    list(closing_lines(other, finished=False))
    assert content(first) == before
    assert needs_writing(Destination(first)) is None


def test_ones_own_ensemble_fails_when_nothing_of_it_counts_any_more(config: Config) -> None:
    storage = open_destination(config)
    for member in config.members:
        storage.delete(config.objects.lead(member, 6))
    assert write_ensemble_manifest(config).state == "failed"
    assert storage.stat(config.objects.success) is None
    assert json.loads(storage.get_bytes(config.objects.ensemble_manifest))["state"] == "failed"


Change = Callable[[Storage, Config], None]


def rewrite(key: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """Return a change of a JSON object that leaves it JSON."""

    def edit(storage: Storage, config: Config) -> None:
        name = f"{config.cycle}/{key}"
        value = json.loads(storage.get_bytes(name))
        change(value)
        storage.put_bytes(json.dumps(value, indent=1).encode() + b"\n", name, overwrite=True)

    return edit


def remove(*keys: str) -> Change:
    return lambda storage, config: [storage.delete(f"{config.cycle}/{key}") for key in keys]  # type: ignore[return-value]


def put(key: str, data: bytes) -> Change:
    return lambda storage, config: storage.put_bytes(data, f"{config.cycle}/{key}", overwrite=True)  # type: ignore[return-value]


def member_manifest_of_another_time(storage: Storage, config: Config) -> None:
    """A sound manifest of the same leads, which is not the one that the ensemble's names."""
    path = config.scratch.root / "other.json"
    manifest = replace(make_member(config, 1), timings={"total": 2.0})
    write_member_manifest(path, manifest)
    storage.put_bytes(path.read_bytes(), config.objects.manifest(1), overwrite=True)


UNTRUE: dict[str, tuple[Change, str]] = {
    "manifest.json removed": (remove("manifest.json"), "manifest.json: missing"),
    "_SUCCESS removed": (remove("_SUCCESS"), "_SUCCESS: missing, the manifest says complete"),
    "both removed": (remove("manifest.json", "_SUCCESS"), "manifest.json: missing"),
    "a member's manifest removed": (remove("manifests/member001.json"), "member001.json: missing, .* names it"),
    "manifest and receipt removed": (
        remove("manifests/member001.json", "receipts/member001.json"),
        "member001.json: missing, .* names it",
    ),
    "_SUCCESS edited": (put("_SUCCESS", b"x"), "_SUCCESS: says something else"),
    "manifest.json torn": (put("manifest.json", b'{"schema"'), "manifest.json: not JSON"),
    "manifest.json empty": (put("manifest.json", b""), "manifest.json: not JSON"),
    "state edited": (
        rewrite("manifest.json", lambda c: c.update(state="short")),
        "manifest.json: differs from its own",
    ),
    "digest edited": (
        rewrite("manifest.json", lambda c: c["members"][0].update(content_digest="0")),
        "manifest.json: differs from its own digest",
    ),
    "an old one, state edited": (
        rewrite("manifest.json", lambda c: c.update(schema="aifs-ensemble/ensemble-manifest/1", state="short")),
        "_SUCCESS: says something else",
    ),
    "another member's manifest": (member_manifest_of_another_time, "member001.json: other than .*manifest.json says"),
}


@pytest.mark.parametrize("case", UNTRUE)
def test_what_vanishes_or_is_edited_is_named_and_brought_back(case: str, config: Config) -> None:
    change, words = UNTRUE[case]
    before = content(config)
    change(open_destination(config), config)
    with pytest.raises(VerificationError, match=words) as error:
        check_ensemble(config).require_sound(mended=False)
    assert "verify --mend" in str(error.value)
    with_snakemakes_copies(config)
    check_ensemble(config, mend=True)
    if config.cloud_destination:  # what Snakemake compares of a bucket is on this machine
        there = open_destination(config)
        for key in (config.objects.ensemble_manifest, config.objects.manifest(1)):
            assert config.scratch.copy(key).exists() <= (there.stat(key) is not None)
    run_again(config)
    assert not check_ensemble(config).ensemble
    if case != "another member's manifest":  # as true as the one before, only not the same
        assert content(config) == before
    assert needs_writing(Destination(config)) is None


def with_snakemakes_copies(config: Config) -> None:
    """Leave what jobs leave on a machine that delivers to a bucket."""
    keys = config.objects
    for key in (keys.ensemble_manifest, *(keys.manifest(member) for member in config.members)):
        path = config.scratch.copy(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")


def test_a_run_finds_an_edited_success_by_itself(config: Config) -> None:
    open_destination(config).put_bytes(b"x", config.objects.success, overwrite=True)
    before = content(config)
    run_again(config)
    after = content(config)
    assert (
        after.pop(config.objects.success)
        == b"20250819_0000: complete, 2 of 2 members\n"
        != before.pop(config.objects.success)
    )
    assert after == before


def test_a_damaged_member_of_other_settings_is_mended_too(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination, members="1", forecast={"accumulate": "per_step"})
    deliver(config, {"accumulate": "per_step"})
    asked = make_config(tmp_path / "scratch", destination, members="1")
    open_destination(config).delete(config.objects.lead(1, 12))
    [check] = check_ensemble(asked, places=["destination"], mend=True).members
    assert check.state == "damaged"
    assert "made with accumulate per_step, not from_start" in "; ".join(check.lines())
    assert open_destination(config).stat(config.objects.manifest(1)) is None
    deliver_member(config, 1)
    write_ensemble_manifest(config)
    assert verify_ensemble(config).of("sound", "destination")


@pytest.mark.parametrize("layout", ["leads", "blocks"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "freed"])
def test_one_mend_is_enough_where_local_copies_went(keep: bool, layout: str, tmp_path: Path) -> None:
    """A lead that neither scratch nor the destination has is the forecast's to make, not the delivery's."""
    over = {"keep_scratch": keep, "delivery": {"layout": layout, "block_hours": 12}}
    config = make_config(tmp_path / "scratch", str(tmp_path / "there"), **over)
    deliver(config)
    before = content(config)
    storage = open_destination(config)
    key = config.objects.lead(1, 12) if layout == "leads" else config.objects.block(1, 0, 12)
    storage.put_bytes(b"GRIB", key, overwrite=True)
    check_ensemble(config, mend=True)
    assert config.scratch.manifest(1).exists() == keep
    run_again(config)
    assert content(config) == before


def test_the_command_names_it_and_mends_it(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in config.to_dict().items() if value is not None}))
    open_destination(config).delete(config.objects.success)
    assert main(["verify", "--configfile", str(file)]) == VerificationError.exit_code
    shown = capsys.readouterr()
    assert "ensemble: 20250819_0000/_SUCCESS: missing" in shown.out
    assert main(["verify", "--mend", "--configfile", str(file)]) == 0
    assert "written anew" in capsys.readouterr().out
    assert main(["verify", "--configfile", str(file)]) == 0
