"""What is delivered stays, whatever scratch holds: jobs by name, for every change of members and leads."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.names import checkpoint_file
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.retention import apply_retention, plan_retention
from aifs_ensemble.delivery.standing import noted_here
from aifs_ensemble.planning.outstanding import outstanding
from aifs_ensemble.products.stamps import Stamp
from delivery.members import make_member
from doubles.gcs_server import gcs_server

from workflow.dry_runs import dry_run, jobs
from workflow.project import CYCLE, Project

pytestmark = [pytest.mark.workflow, pytest.mark.cloud]
PRODUCTS = {"members": {"enabled": True}, "weekly": {"enabled": True, "hours": 6, "periods": [6]}}
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a member more": {"members": "1-3"},
    "a member fewer": {"members": "1"},
    "more leads": {"lead_hours": 18},
    "fewer leads": {"lead_hours": 6},
}
# where, by which profile, and what its configuration says besides
PLACES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "folder": ("results", "local", {}),
    "streamed to a folder": ("results", "local", {"delivery": {"streaming": True}}),
    "bucket from here": ("gs://ensembles/here", "local", {}),
    "bucket from rented machines": (
        "gs://ensembles/rented", "coiled-gpu",
        {"delivery": {"streaming": True}, "cloud": {"project": "test", "gpu_image": "a/gpu", "cpu_image": "a/etl"}},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def emulator() -> Iterator[dict[str, str]]:
    with gcs_server() as url:
        yield {"STORAGE_EMULATOR_HOST": url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}


def expected(change: str, place: str, *, scratch: bool) -> dict[str, list[int]]:
    """Return the jobs of a run: those of members that are new, or to be longer, and what follows from them."""
    if change == "nothing":
        return {}
    if change == "fewer leads":
        return {"ensemble_manifest": []}
    if change == "a member fewer":
        found = {"ensemble_manifest": [], "product_weekly": []}
        # made from a copy here, which these bring back
        again = place == "bucket from here" and not scratch
        return found | ({"sync_member": [1], "product_weekly_member": [1]} if again else {})
    made = [3] if change == "a member more" else [1, 2]
    streams = bool(PLACES[place][2])
    found = dict.fromkeys(("forecast_member", "product_member", "product_weekly_member"), made)
    found |= {"product_weekly": [], "ensemble_manifest": []}
    if not streams:
        found["sync_member"] = made
    if not scratch or change == "a member more":
        found |= {"initial_member": made, "initial_members": []}
    if not scratch:
        found |= {"checkpoint_prepare": [], "initial_cycle": []}
        if place == "bucket from here" and change == "a member more":
            # the ensemble's product is made from copies here, which these bring back: see `products.deliver`
            found |= {"sync_member": [1, 2, 3], "product_weekly_member": [1, 2, 3]}
    return found


class Ensemble:
    """Two delivered members of 12 hours with their products, in a copy of the checkout."""

    def __init__(self, folder: Path, place: str):
        destination, self.profile, more = PLACES[place]
        self.project = Project.copy(
            folder,
            members="1-2",
            lead_hours=12,
            products=PRODUCTS,
            destination=destination + ("" if destination == "results" else f"/{folder.parent.name}"),
            **more,
        )
        (self.project.folder / "config" / "operational.yaml").write_text("scratch: scratch\n")
        self.rented = self.profile != "local"
        config = self.config()
        storage, keys = open_destination(config), config.objects
        initial = [
            checkpoint_file(config.model.name), keys.initial_cycle, *map(keys.initial, config.members),
            *map(keys.initial_summary, config.members), keys.initial_members,
        ]  # fmt: skip
        self.working = initial
        for key in initial:
            if self.rented:
                storage.put_bytes(b"{}", key)
            else:
                (config.scratch.root / key).parent.mkdir(parents=True, exist_ok=True)
                (config.scratch.root / key).write_bytes(b"{}")
        for member in config.members:
            make_member(config, member)
            deliver_member(config, member)
            if config.cloud_destination and not self.rented:
                copy = config.scratch.delivered(member)
                copy.parent.mkdir(parents=True, exist_ok=True)
                os.link(config.scratch.manifest(member), copy)
        here = bool(config.cloud_destination) and not self.rented
        write_ensemble_manifest(config, config.scratch.copy(keys.ensemble_manifest) if here else None)
        time.sleep(0.01)
        weekly = [keys.weekly(member) for member in config.members]
        grids = [keys.member_netcdf(member, config.products.grid) for member in config.members]
        for key in (*grids, *weekly, keys.product("weekly/ensemble.nc")):
            storage.put_bytes(b"a product", key)
            if here:
                config.scratch.copy(key).parent.mkdir(parents=True, exist_ok=True)
                config.scratch.copy(key).write_bytes(b"a product")
            time.sleep(0.01)
        Stamp.now(config, config.members).leave(config, "product_weekly")

    def config(self, **changes: Any) -> Config:
        """Return the configuration as this process sees it."""
        raw = read_files(self.project.folder / "config" / "config.yaml") | changes
        folder = self.project.folder
        raw["scratch"] = str(folder / "scratch")
        if not str(raw["destination"]).startswith("gs://"):
            raw["destination"] = str(folder / raw["destination"])
        return Config(raw)

    def lose_scratch(self) -> None:
        """Take everything away that is not a delivery."""
        shutil.rmtree(self.project.folder / "scratch")
        if self.rented:
            storage = open_destination(self.config())
            for key in self.working:
                storage.delete(key)


def cases() -> Iterator[Any]:
    """Yield the places, with scratch and without; `pytest -m "long or not long"` runs the whole table."""
    for place, scratch in itertools.product(PLACES, (True, False)):
        more = place == "streamed to a folder" or (
            place in ("bucket from here", "bucket from rented machines") and scratch
        )
        name = f"{place}, scratch {'there' if scratch else 'gone'}"
        yield pytest.param((place, scratch), id=name, marks=[pytest.mark.long] if more else [])


@pytest.fixture(scope="module", params=cases())
def delivered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, emulator: dict[str, str]
) -> Iterator[tuple[str, bool, Ensemble]]:
    place, scratch = request.param
    with pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.items():
            patch.setenv(name, value)
        ensemble = Ensemble(tmp_path_factory.mktemp("kept") / "project", place)
        if not scratch:
            ensemble.lose_scratch()
        yield place, scratch, ensemble


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_delivered_stays(change: str, delivered: tuple[str, bool, Ensemble], emulator: dict[str, str]) -> None:
    place, scratch, ensemble = delivered
    keys = CHANGES[change]
    asked = ["--config", *(f"{key}={value}" for key, value in keys.items())] if keys else []
    said = dry_run(ensemble.project.folder, *asked, profile=ensemble.profile, environment=emulator)
    found = jobs(said)
    assert found == expected(change, place, scratch=scratch), said[-6000:]
    # the plan says the same, in the dry-run and by itself
    work = outstanding(ensemble.config(**keys), destination=True)
    assert [each.member for each in work.to_forecast] == found.get("forecast_member", [])
    count = len(found.get("forecast_member", []))
    says = f"{count} of {len(work.members)} members to forecast" if count else "no member to forecast or deliver"
    assert f"plan: {CYCLE}: {says}" in said


def test_in_a_run_of_several_cycles_what_is_delivered_of_one_stays(
    delivered: tuple[str, bool, Ensemble], emulator: dict[str, str]
) -> None:
    place, scratch, ensemble = delivered
    other = "20250826_0000"
    asked = ["--config", "cycle=null", f"cycles={CYCLE},{other}"]
    said = dry_run(ensemble.project.folder, *asked, profile=ensemble.profile, environment=emulator)
    named = re.findall(r"^ +wildcards: (.*)$", said, re.MULTILINE)
    assert {name.partition(",")[0] for name in named} == {f"cycle={other}"}, said[-6000:]
    members = {"initial_member", "forecast_member", "product_member", "product_weekly_member"}
    alone = {"initial_cycle", "initial_members", "product_weekly", "ensemble_manifest"}
    members |= set() if PLACES[place][2] else {"sync_member"}
    alone |= set() if scratch else {"checkpoint_prepare"}
    counted = Counter(re.findall(r"^ *(?:local)?rule (\w+):$", said, re.MULTILINE))
    del counted["all"]
    assert counted == dict.fromkeys(members, 2) | dict.fromkeys(alone, 1)
    assert f"  {other}: 2 of 2 members to forecast (1-2), 4 steps, 2 members to deliver" in said
    assert f"  {CYCLE}: no member to forecast or deliver in this run" in said


SHORT = {"members": "1-3", "min_members": "2"}


@pytest.mark.parametrize("delivered", [("folder", True), ("bucket from rented machines", False)], indirect=True)
def test_products_of_a_short_ensemble_by_their_name(
    delivered: tuple[str, bool, Ensemble], emulator: dict[str, str]
) -> None:
    """Two of three members are delivered and a run has said so: `products` makes what these have, and no member."""
    place, scratch, ensemble = delivered
    config = ensemble.config(**SHORT | {"min_members": 2})
    storage, keys = open_destination(config), config.objects
    whole = storage.get_bytes(keys.ensemble_manifest)

    def planned(*targets: str, **asked: Any) -> dict[str, list[int]]:
        given = [*targets, "--config", *(f"{key}={value}" for key, value in (SHORT | asked).items())]
        said = dry_run(ensemble.project.folder, *given, profile=ensemble.profile, environment=emulator)
        says = "products of a short ensemble: 2 of 3 members, without members 3" in said
        assert says == (short and targets == ("products",) and not asked), said[-3000:]
        return {rule: members for rule, members in jobs(said).items() if rule != "products"}

    try:
        short = False
        assert planned("products")["forecast_member"] == [3], "nobody has accepted the ensemble as short"
        write_ensemble_manifest(config)
        short = True
        assert planned("products") == {}, "the products there are of the members that are delivered"
        if (place, scratch) == ("folder", True):
            assert planned()["forecast_member"] == [3], "a run makes the member that is missing first"
            assert planned("products", min_members=3)["forecast_member"] == [3]
            # of two cycles, one short: `products` makes members of the other, and a second pass is for the short one
            two = ("cycle=null", f"cycles={CYCLE},20250826_0000", "members=1-3", "min_members=2")
            said = dry_run(ensemble.project.folder, "products", "--config", *two)
            named = re.findall(r"^ +wildcards: (.*)$", said, re.MULTILINE)
            assert {name.partition(",")[0] for name in named} == {"cycle=20250826_0000"}
            assert f"{CYCLE}: products of a short ensemble: 2 of 3 members, without members 3" in said
            said = dry_run(ensemble.project.folder, "--config", *two, environment={environment.USED: f"{CYCLE}:1-2"})
            assert jobs(said) == {}, said[-3000:]
        Stamp({1: "other", 2: "digests"}).leave(config, "product_weekly")
        found = planned("products")
        assert "product_weekly" in found and not {"forecast_member", "ensemble_manifest"} & set(found), found
    finally:
        storage.put_bytes(whole, keys.ensemble_manifest, overwrite=True)
        Stamp.now(config, (1, 2)).leave(config, "product_weekly")


def test_what_is_in_the_bucket_is_noted_and_fetched_and_not_made(
    tmp_path: Path, emulator: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real run: this machine's copies are gone with scratch, and a product of the ensemble would need them."""
    for name, value in emulator.items():
        monkeypatch.setenv(name, value)
    ensemble = Ensemble(tmp_path / "project", "bucket from here")
    ensemble.lose_scratch()
    config = ensemble.config()
    wanted = config.scratch.copy(config.objects.weekly(1))
    said = ensemble.project.run(str(wanted.relative_to(ensemble.project.folder)), environment=emulator)
    assert jobs(said) == {"sync_member": [1], "product_weekly_member": [1]}
    assert wanted.read_bytes() == b"a product"
    assert noted_here(config, 1).done
    log = ensemble.project.folder / "logs" / "product_weekly_member" / CYCLE / "member001.log"
    assert "fetched" in log.read_text()


@pytest.mark.parametrize("place", ["folder", "bucket from rented machines"])
def test_nothing_is_planned_of_leads_that_retention_took(
    place: str, tmp_path: Path, emulator: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in emulator.items():
        monkeypatch.setenv(name, value)
    ensemble = Ensemble(tmp_path / "retention", place)
    ensemble.lose_scratch()
    config = ensemble.config(keep={"all": {"what": ["leads"], "days": 1}})
    storage = open_destination(config)
    plans = plan_retention(config, storage, [CYCLE], now=datetime.now(UTC) + timedelta(days=2))
    assert apply_retention(config, storage, plans) == 2 * (2 * 2 + 1)  # leads, their indexes, a member's own
    said = dry_run(ensemble.project.folder, profile=ensemble.profile, environment=emulator)
    assert jobs(said) == {}, said[-6000:]
    assert f"plan: {CYCLE}: no member to forecast or deliver" in said
    storage.delete(config.objects.retention(2))  # without its record, they are damage
    said = dry_run(ensemble.project.folder, profile=ensemble.profile, environment=emulator)
    assert jobs(said)["forecast_member"] == [2]
