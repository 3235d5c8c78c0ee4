"""The table of machines: complete, and every mistake in it is one line."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import yaml
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.planning.machines import TABLE, Machines, load_machines
from aifs_ensemble.workflow.googlebatch import resources

from planning import synthetic


def test_every_machine_has_a_price_in_two_regions(machines: Machines) -> None:
    for machine in machines.types.values():
        assert {"us-central1", "europe-west4"} <= machine.prices.keys(), machine.name
        for price in machine.prices.values():
            assert 0 < price.spot < price.on_demand


def test_the_machine_that_users_name_is_what_it_is(machines: Machines) -> None:
    machine = machines.machine("a2-ultragpu-1g")
    assert machine.gpu is not None
    assert (machine.gpu.name, machine.vcpus, machine.scratch_gb) == ("A100-80GB", 12, 375)
    assert machine.gpu.googlebatch == "nvidia-a100-80gb"


def test_published_lists_are_dated_and_named(machines: Machines) -> None:
    for entry in machines.lists.values():
        assert entry.source
        assert entry.status == "assumed" or entry.date is not None or "no date" in entry.source


def test_for_class_follows_the_configuration(machines: Machines, tmp_path: Path) -> None:
    config = synthetic.config(tmp_path, cloud={"gpu": "g2-standard-8"})
    assert machines.for_class("gpu", config).name == "g2-standard-8"
    assert machines.for_class("gpu").name == "a2-ultragpu-1g"
    wrong = synthetic.config(tmp_path, cloud={"gpu": "n2-standard-2"})
    with pytest.raises(ConfigError, match=r"cloud.gpu: n2-standard-2 is of class cpu, expected one of a2-ultragpu-1g"):
        machines.for_class("gpu", wrong)


def test_old_prices_say_so(machines: Machines) -> None:
    gpu = [machines.machine("a2-ultragpu-1g")]
    fresh = machines.price_notes(gpu, "us-central1", dt.date(2026, 9, 1))
    old = machines.price_notes(gpu, "us-central1", dt.date(2027, 5, 9))
    assert "gcp-machines 2026-08-20" in fresh
    assert "gcp-machines 2026-08-20 (OLD: 262 days)" in old
    assert "assumed (no published price)" in old


def test_attached_disks_cost_extra(machines: Machines) -> None:
    included, attached = machines.machine("a2-ultragpu-1g"), machines.machine("a2-highgpu-1g")
    extra = machines.disk_hour(attached) - machines.disk_hour(included)
    assert extra == pytest.approx(375 * machines.service("local_ssd_gb_month") / 730)


def test_coiled_fee_counts_processors_and_card(machines: Machines) -> None:
    assert machines.coiled_hour(machines.machine("a2-ultragpu-1g")) == pytest.approx(12 * 0.05 + 1.00)
    assert machines.coiled_hour(machines.machine("n2-standard-4")) == pytest.approx(4 * 0.05)


def test_disks_are_priced_as_they_are_rented(machines: Machines) -> None:
    """Google Batch's boot disk is the one that its jobs ask for; elsewhere it is the assumed one, and a local SSD."""
    config = synthetic.config(Path("none"), cloud={"gpu": "g2-standard-8"})
    for kind, service in (("gpu", "ssd_boot_disk_gb_month"), ("cpu", "boot_disk_gb_month")):
        asked = resources.resources(config, machines, kind)
        machine = machines.for_class(kind, config)
        assert asked["googlebatch_boot_disk_type"] == ("pd-ssd" if kind == "gpu" else "pd-balanced")
        month = int(asked["googlebatch_boot_disk_gb"]) * machines.service(service)
        assert machines.disk_hour(machine, "googlebatch") == pytest.approx(month / 730)
    assert machines.disk_hour(machines.machine("g2-standard-8")) == pytest.approx((100 * 0.10 + 375 * 0.08) / 730)


def test_prices_of_ones_own_stand_over_the_table(tmp_path: Path) -> None:
    over = tmp_path / "prices.yaml"
    over.write_text(
        "lists: {mine: {date: 2026-11-20, status: published, source: our contract}}\n"
        "machines: {a2-ultragpu-1g: {us-central1: {on_demand: 3.0, spot: 1.0, list: mine}}}\n"
    )
    machines = load_machines(prices=over)
    assert machines.machine("a2-ultragpu-1g").price("us-central1").on_demand == 3.0
    assert machines.machine("a2-ultragpu-1g").price("europe-west4").on_demand > 5
    assert "mine 2026-11-20" in machines.price_notes(
        [machines.machine("a2-ultragpu-1g")], "us-central1", dt.date(2026, 11, 23)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lists:", "lists: None, expected keys and values"),
        ("lists: [a]", "lists: ['a'], expected keys and values"),
        ("machines: {a2-ultragpu-1g: null}", "machines.a2-ultragpu-1g: None, expected regions"),
        ("machines: {a2-ultragpu-1g: {us-central1: 3}}", "a2-ultragpu-1g.us-central1: 3, expected keys and values"),
        ("machines: {a2-ultragpu-1g: {us-central1: {on_demand: .nan, list: assumed}}}", "on_demand: nan, expected a"),
        ("machines: {a2-ultragpu-1g: {us-central1: {on_demand: .inf, list: assumed}}}", "on_demand: inf, expected a"),
        ("machines: {a2-ultragpu-1g: {us-central1: {on_demand: 3}}}", "us-central1: list is missing"),
        ("services: {coiled_cpu_hour: {price: 0.1}}", "services.coiled_cpu_hour: list is missing"),
    ],
)
def test_wrong_prices_of_ones_own_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    over = tmp_path / "prices.yaml"
    over.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_machines(prices=over)
    assert message in str(error.value) and "\n" not in str(error.value)


def _set(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for part in parents:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


WRONG = [
    ("machine_types/a2-ultragpu-1g/vcpu", 12, "unknown key 'vcpu', did you mean 'vcpus'"),
    ("machine_types/a2-ultragpu-1g/vcpus", None, "machine_types.a2-ultragpu-1g: vcpus is missing"),
    ("machine_types/a2-ultragpu-1g/vcpus", "twelve", "vcpus: 'twelve', expected a number of at least 1"),
    ("machine_types/a2-ultragpu-1g/class", "tpu", "class: 'tpu', expected one of gpu, cpu"),
    ("machine_types/a2-ultragpu-1g/gpu", None, "class gpu needs key gpu"),
    ("machine_types/n2-standard-2/gpu", {}, "class cpu has no key gpu"),
    ("machine_types/g2-standard-8/gpu/memory_gb", 24, "unknown key 'memory_gb', did you mean 'memory_mb'"),
    ("machine_types/g2-standard-8/gpu/capability", "8.9a", "gpu.capability: '8.9a', expected a number of at least 1"),
    ("machine_types/g2-standard-8/gpu/capability", None, "gpu: capability is missing"),
    ("cards/T4/capability", None, "cards.T4: capability is missing"),
    ("classes/gpu", "a2-ultragpu-2g", "classes.gpu: 'a2-ultragpu-2g', did you mean 'a2-ultragpu-1g'"),
    ("classes/gpus", "a2-ultragpu-1g", "unknown key 'gpus', did you mean 'gpu'"),
    ("prices/machines/a2-ultragpu-1", {}, "unknown key 'a2-ultragpu-1', did you mean 'a2-ultragpu-1g'"),
    ("prices/machines/a2-ultragpu-1g/us-central1/spot", -1, "us-central1.spot: -1, expected a number of at least 0"),
    ("prices/machines/a2-ultragpu-1g/us-central1/list", "gcp", "us-central1.list: 'gcp', known are assumed, coiled"),
    ("prices/lists/coiled/date", "last week", "prices.lists.coiled.date: 'last week', expected a date"),
    ("prices/lists/coiled/status", "guessed", "status: 'guessed', expected published or assumed"),
    ("prices/services/egress_gb", {}, "unknown key 'egress_gb', did you mean 'egress_internet_gb'"),
    ("prices/coiled_gpu_hour/L4", None, "prices.coiled_gpu_hour.L4 is missing"),
    ("assumptions/vm_boot_seconds", None, "assumptions: vm_boot_seconds is missing"),
    ("assumptions/preemptions_per_hour/usual", 1, "unknown key 'usual'"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[case[0] for case in WRONG])
def test_a_wrong_table_is_one_line(tmp_path: Path, path: str, value: Any, message: str) -> None:
    content = yaml.safe_load(TABLE.read_text())
    _set(content, path, value)
    file = tmp_path / "machines.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load_machines(file)
    assert message in str(error.value)
    assert "machines.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_compute_capabilities_are_nvidias_two_numbers(machines: Machines) -> None:
    """As https://developer.nvidia.com/cuda-gpus lists them."""
    known = {name: machines.gpu_specs[name].capability for name in ("T4", "A100-40GB", "A10", "L4", "H200")}
    assert known == {"T4": (7, 5), "A100-40GB": (8, 0), "A10": (8, 6), "L4": (8, 9), "H200": (9, 0)}


def test_an_unknown_region_names_the_known_ones(machines: Machines) -> None:
    with pytest.raises(ConfigError, match="no price of a2-ultragpu-1g in 'us-central', did you mean 'us-central1'"):
        machines.machine("a2-ultragpu-1g").price("us-central")
