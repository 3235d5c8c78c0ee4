"""The real workflow and forecast on rented machines: what a failed member costs, and what a second run adds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import xarray as xr
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.standing import undelivered
from coiled_server import CoiledServer

from workflow.rented.conftest import BUCKET, Project, published_on

pytestmark = [pytest.mark.cloud, pytest.mark.long, pytest.mark.timeout(1800)]
ARGUMENTS = ["--profile", "coiled-gpu", "--group-components", "members=2", "initial=1000", "--retries", "0"]


def forecasts(server: CoiledServer, since: int) -> list:
    return [c for c in server.clusters.values() if "forecast_member" in c.title and c.id > since]


def made(server: CoiledServer, config, since: int) -> dict[int, list[int]]:
    """Return the leads that machines rented after cluster `since` published, by member."""
    found: dict[int, list[int]] = {}
    for cluster in forecasts(server, since):
        for member, leads in published_on(cluster, config).items():
            found[member] = found.get(member, []) + leads
    return found


def products_made(server: CoiledServer, since: int) -> list[str]:
    """Return the rules of products that machines rented after cluster `since` have run."""
    logs = [(c.folder / "log").read_text() for c in server.clusters.values() if c.id > since]
    return sorted({rule for log in logs for rule in re.findall(r"rule (product_\w+):", log)})


def said_by(storage: Storage, key: str, folder: Path) -> str:
    """Return what a NetCDF file in the bucket says of its ensemble."""
    storage.get_file(key, folder / "product.nc")
    with xr.open_dataset(folder / "product.nc") as data:
        return str(data.attrs["ensemble"])


def test_a_failed_member_costs_itself_alone(whole: Project, coiled: CoiledServer, tmp_path: Path) -> None:
    """Two members share a machine and one has no readable initial state; then members and leads are added."""
    weekly = {"enabled": True, "hours": 6, "periods": [6]}
    settings = {"destination": f"gs://{BUCKET}/whole", "delivery": {"streaming": True}, "lead_hours": 12}
    settings |= {"min_members": 1, "products": {"weekly": weekly, "page": {"enabled": True}}}
    config = whole.configure(members="1-2", **settings)
    storage, state = open_destination(config), config.objects.initial(2)
    code, output = whole.run(*ARGUMENTS, "--until", "initial_members")
    assert code == 0, output
    sound = storage.get_bytes(state)
    storage.put_bytes(b"no state", state, overwrite=True)

    code, output = whole.run(*ARGUMENTS)
    assert code != 0
    assert made(coiled, config, since=0) == {1: [6, 12], 2: []}
    (machine,) = forecasts(coiled, since=0)
    said = re.findall(r"needed for (\d+) of (\d+) members at once", (machine.folder / "log").read_text())
    assert {members for _, members in said} == {"2"}, "jobs do not know who shares their machine"
    assert "missing 2" in output, output
    # the products of the member that is delivered, on a small machine
    product = config.objects.product("weekly/ensemble.nc")
    assert said_by(storage, product, tmp_path) == "1 of 2 members, short: without members 2"
    assert "Short ensemble: without member 2" in storage.get_bytes(config.objects.page).decode()
    stamp = json.loads(storage.get_bytes(config.objects.stamp("product_weekly")))
    assert list(stamp["members"]) == ["1"]
    assert products_made(coiled, since=0) == ["product_page", "product_weekly", "product_weekly_member"]
    before = len(coiled.clusters)
    code, output = whole.run(*ARGUMENTS, "products")
    assert code == 0 and "Nothing to be done" in output and len(coiled.clusters) == before, output

    storage.put_bytes(sound, state, overwrite=True)
    before = len(coiled.clusters)
    code, output = whole.run(*ARGUMENTS)
    assert code == 0, output
    assert made(coiled, config, since=before) == {2: [6, 12]}, "the sibling is delivered, and no machine looks at it"
    assert said_by(storage, product, tmp_path) == "2 of 2 members"
    assert "Short ensemble" not in storage.get_bytes(config.objects.page).decode()
    assert undelivered(config, config.members) == {}

    config = whole.configure(members="1-3", **settings | {"lead_hours": 18})
    before = len(coiled.clusters)
    code, output = whole.run(*ARGUMENTS)
    assert code == 0, output
    assert made(coiled, config, since=before) == {1: [18], 2: [18], 3: [6, 12, 18]}
    ensemble = json.loads(storage.get_bytes(config.objects.ensemble_manifest))
    assert (ensemble["state"], ensemble["wanted"], ensemble["lead_hours"]) == ("complete", "1-3", [6, 12, 18])
    code, output = whole.run(*ARGUMENTS)
    assert code == 0 and "Nothing to be done" in output, output

    # a damaged lead is found by a CPU machine, which reads no lead
    lead = config.objects.lead(1, 6)
    storage.put_bytes(b"damaged", lead, overwrite=True)
    before = len(coiled.clusters)
    code, output = whole.run(*ARGUMENTS, "--retries", "0", "verify")
    assert code != 0 and "run again to make members 1" in output, output
    (machine,) = [cluster for cluster in coiled.clusters.values() if cluster.id > before]
    assert "verify" in machine.title
    code, output = whole.run(*ARGUMENTS)
    assert code == 0, output
    code, output = whole.run(*ARGUMENTS, "verify")
    assert code == 0, output


def test_cycles_share_machines_and_one_that_fails_takes_none_with_it(whole: Project, coiled: CoiledServer) -> None:
    """Three cycles of two members on machines of four, named by a file that machines do not get."""
    cycles = ["20250805_0000", "20250812_0000", "20250819_0000"]
    (whole.folder / ".gitignore").write_text(".snakemake/\n__pycache__/\ncycles.txt\n")
    (whole.folder / "cycles.txt").write_text("".join(f"{cycle}\n" for cycle in cycles))
    arguments = [*ARGUMENTS[:2], "--group-components", "members=4", "initial=1000", "--retries", "0"]
    config = whole.configure(
        cycle=None, cycles="cycles.txt", destination=f"gs://{BUCKET}/cycles", delivery={"streaming": True},
        members="1-2", lead_hours=12,
    )  # fmt: skip
    broken = config.of_cycle(cycles[1])
    storage, state = open_destination(config), broken.objects.initial(2)
    code, output = whole.run(*arguments, "--until", "initial_members")
    assert code == 0, output
    tags = [cluster.title for cluster in coiled.clusters.values()]
    assert sum("initial_cycle" in title for title in tags) == 3, tags
    sound = storage.get_bytes(state)
    storage.put_bytes(b"no state", state, overwrite=True)

    code, output = whole.run(*arguments)
    assert code != 0
    titles = sorted(cluster.title for cluster in forecasts(coiled, since=0))
    assert titles == [
        "# forecast_member 20250805_0000 1-2, 20250812_0000 1-2, attempt 1",
        "# forecast_member 20250819_0000 1-2, attempt 1",
    ]
    assert [undelivered(one, one.members).keys() for one in config.of_each_cycle] == [set(), {2}, set()]
    for one in config.of_each_cycle[::2]:
        assert json.loads(storage.get_bytes(one.objects.ensemble_manifest))["state"] == "complete"
    assert f"{cycles[0]}, {cycles[2]}: complete, 2 of 2 members" in output
    assert f"{cycles[1]}: run again to make members 2" in output

    storage.put_bytes(sound, state, overwrite=True)
    before = len(coiled.clusters)
    code, output = whole.run(*arguments)
    assert code == 0, output
    assert made(coiled, broken, since=before) == {2: [6, 12]}
    assert not any(made(coiled, one, since=before) for one in config.of_each_cycle[::2])
    code, output = whole.run(*arguments)
    assert code == 0 and "Nothing to be done" in output, output


def test_two_models_have_machines_of_their_own(whole: Project, coiled: CoiledServer) -> None:
    """Each in its folder of the bucket, then compared; a second run finds all of it, and one of a model alone, too."""
    products = {"coarse": {"enabled": True, "variables": ["2t"]}, "page": {"enabled": True}}
    settings = {"members": "1", "lead_hours": 6, "delivery": {"streaming": True}, "products": products}
    config = whole.configure(model=["demo", "demo-v2"], destination=f"gs://{BUCKET}/both", **settings)
    code, output = whole.run(*ARGUMENTS)
    assert code == 0, output
    for one in config.of_each_model:
        assert undelivered(one, one.members) == {}
    titles = sorted(cluster.title for cluster in forecasts(coiled, since=0))
    assert len(titles) == 2 and all(
        f" {model}/{config.cycle} 1" in title for model, title in zip(("demo-v2", "demo"), titles, strict=True)
    ), titles
    storage = open_destination(config)
    page = storage.get_bytes(f"compare/{config.cycle}/index.html").decode()
    assert f"../../demo-v2/{config.cycle}/index.html" in page
    stamp = json.loads(storage.get_bytes(f"compare/{config.cycle}/stamp.json"))
    assert set(stamp["models"]) == {"demo", "demo-v2"}
    before = len(coiled.clusters)
    for model, folder in ((["demo", "demo-v2"], "both"), ("demo-v2", "both/demo-v2")):
        whole.configure(model=model, destination=f"gs://{BUCKET}/{folder}", **settings)
        code, output = whole.run(*ARGUMENTS)
        assert code == 0 and "Nothing to be done" in output and len(coiled.clusters) == before, output
