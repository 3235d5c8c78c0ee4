"""Machine types that can be rented, their prices, and what a plan assumes of them: config/machines.yaml.

Light enough to be read while a Snakefile is parsed: nothing but YAML is imported.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.yaml_tables import check_keys, number, read_table

TABLE = Path(__file__).parents[3] / "config" / "machines.yaml"
HOURS_PER_MONTH = 730.0
OLD_AFTER_DAYS = 180
BATCH_SYSTEM_GB = 60
CLASSES = ("gpu", "cpu")
SERVICES = (
    "bucket_gb_month",
    "bucket_writes_per_1000",
    "bucket_reads_per_1000",
    "egress_internet_gb",
    "egress_same_continent_gb",
    "egress_other_continent_gb",
    "registry_gb_month",
    "local_ssd_gb_month",
    "boot_disk_gb_month",
    "ssd_boot_disk_gb_month",
    "coiled_cpu_hour",
)


@dataclass(frozen=True)
class PriceList:
    """Where prices came from; `status` is ``published`` or ``assumed``, `date` None when the source bears none."""

    name: str
    date: dt.date | None
    status: str
    source: str

    def label(self, today: dt.date) -> str:
        """Return the list's name and date, and whether it is assumed, undated or old."""
        if self.status == "assumed":
            return f"{self.name} (no published price)"
        if self.date is None:
            return f"{self.name} (undated)"
        old = f" (OLD: {(today - self.date).days} days)" if self.is_old(today) else ""
        return f"{self.name} {self.date.isoformat()}{old}"

    def is_old(self, today: dt.date) -> bool:
        """Tell whether its date was long ago; an undated list is not known to be."""
        return self.date is not None and (today - self.date).days > OLD_AFTER_DAYS


@dataclass(frozen=True)
class HourPrice:
    """USD per machine hour in one region."""

    on_demand: float
    spot: float
    list: str


@dataclass(frozen=True)
class Gpu:
    """The cards of a machine type; `memory_mb` (MiB), `tflops` (dense, 16 bit) and `bandwidth_gb_s` are of one card.

    `like` names the known card whose figures these are, where the card itself is not known, and `like_by` by what it is
    the nearest. `capability` is CUDA's compute capability, (0, 0) of what is no card.
    """

    name: str
    count: int
    memory_mb: int
    googlebatch: str
    tflops: float
    bandwidth_gb_s: float
    like: str = ""
    like_by: str = ""
    capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class MachineType:
    """A machine type. `prices` are by region; `scratch_gb` is the room that a job can write to."""

    name: str
    machine_class: str
    vcpus: int
    memory_mb: int
    scratch_gb: float
    scratch_kind: str
    gpu: Gpu | None
    prices: Mapping[str, HourPrice]

    @property
    def batch_disk(self) -> tuple[int, str]:
        """Size in GB and type of the boot disk that Google Batch is asked for: scratch is on it, beside the system."""
        return BATCH_SYSTEM_GB + round(self.scratch_gb), "pd-ssd" if self.gpu else "pd-balanced"

    def price(self, region: str) -> HourPrice:
        """Return the price in a region; ConfigError naming the regions that have one."""
        if region not in self.prices:
            raise ConfigError(
                f"machines.yaml: no price of {self.name} in {region!r}, {hint(region, self.prices)}; "
                "add one with cloud.prices"
            )
        return self.prices[region]


@dataclass(frozen=True)
class Assumptions:
    """What a plan assumes where nothing was measured: seconds, GB, MB/s and preemptions per machine hour."""

    vm_boot_seconds: float
    vm_wait_seconds: float
    image_gb: Mapping[str, float]
    image_pull_mb_s: float
    boot_disk_gb: float
    initial_member_seconds: float
    sync_mb_s: float
    idle_tail_seconds: float
    preemptions_per_hour: Mapping[str, float]
    product_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Machines:
    """The table of machines and prices."""

    path: Path
    classes: Mapping[str, str]
    types: Mapping[str, MachineType]
    lists: Mapping[str, PriceList]
    services: Mapping[str, tuple[float, str]]
    coiled_gpu: Mapping[str, tuple[float, str]]
    assumptions: Assumptions
    cards: Mapping[str, Gpu]

    def machine(self, name: str) -> MachineType:
        """Return a machine type; ConfigError naming the nearest one when there is none."""
        if name not in self.types:
            raise ConfigError(f"cloud: machine type {name!r} is not in {self.path.name}, {hint(name, self.types)}")
        return self.types[name]

    def for_class(self, machine_class: str, config: Config | None = None) -> MachineType:
        """Return the machine type of class ``gpu`` or ``cpu`` that the configuration (or else this table) names."""
        if machine_class not in CLASSES:
            raise ConfigError(f"machines.yaml: class {machine_class!r}, expected one of {', '.join(CLASSES)}")
        name = self.classes[machine_class] if config is None else getattr(config.cloud, machine_class)
        machine = self.machine(name)
        if machine.machine_class != machine_class:
            raise ConfigError(
                f"config: cloud.{machine_class}: {name} is of class {machine.machine_class}, "
                f"expected one of {', '.join(self.names(machine_class))}"
            )
        return machine

    def names(self, machine_class: str) -> tuple[str, ...]:
        """Return the names of the machine types of a class."""
        return tuple(name for name, machine in self.types.items() if machine.machine_class == machine_class)

    def service(self, name: str) -> float:
        """Return the price of a service in USD per unit."""
        return self.services[name][0]

    def bucket_month(self, size: float) -> float:
        """Return what so many bytes cost in a bucket of Standard class, USD a month."""
        return size / 1e9 * self.service("bucket_gb_month")

    def coiled_hour(self, machine: MachineType) -> float:
        """Return Coiled's fee for one hour of a machine, USD: its vCPUs and its cards."""
        fee = machine.vcpus * self.service("coiled_cpu_hour")
        if machine.gpu is not None:
            fee += machine.gpu.count * self.coiled_gpu[machine.gpu.name][0]
        return fee

    def disk_hour(self, machine: MachineType, profile: str = "") -> float:
        """Return the price of a machine's disks that are not part of its own price, USD per hour."""
        if profile == "googlebatch":
            size, kind = machine.batch_disk
            service = "ssd_boot_disk_gb_month" if kind == "pd-ssd" else "boot_disk_gb_month"
            return size * self.service(service) / HOURS_PER_MONTH
        month = self.assumptions.boot_disk_gb * self.service("boot_disk_gb_month")
        if "attached" in machine.scratch_kind:
            month += machine.scratch_gb * self.service("local_ssd_gb_month")
        return month / HOURS_PER_MONTH

    @cached_property
    def gpu_specs(self) -> Mapping[str, Gpu]:
        """Cards by name: of the machine types, and those that only a machine of one's own may have."""
        rented = {machine.gpu.name: machine.gpu for machine in self.types.values() if machine.gpu is not None}
        return {**self.cards, **rented}

    def price_notes(self, machines: Iterable[MachineType], region: str, today: dt.date) -> list[str]:
        """Return the label of each price list that a plan on `machines` uses."""
        return [one.label(today) for one in self.price_lists(machines, region)]

    def price_lists(self, machines: Iterable[MachineType], region: str) -> list[PriceList]:
        """Return the price lists that a plan on `machines` uses."""
        used = {machine.price(region).list for machine in machines if region in machine.prices}
        used |= {name for _, name in self.services.values()}
        return [self.lists[name] for name in sorted(used)]


def load_machines(path: Path = TABLE, prices: Path | None = None) -> Machines:
    """Return the machine table, with the prices in `prices` over its own.

    `prices` is a YAML file with the keys that ``prices`` has in the table, as few as one.
    Raises ConfigError in one line for an unknown key (naming the nearest), a missing one or a wrong value.
    """
    content = read_table(path, "a table of machines or prices")
    if prices is not None:
        over = read_table(prices, "a table of machines or prices")
        check_keys(over, prices.name, optional=_PRICE_KEYS)
        for key, value in over.items():
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prices.name}: {key}: {value!r}, expected keys and values")
        _own_sources(over, prices.name)
        merge(content.setdefault("prices", {}), over)
    name = path.name
    check_keys(content, name, ("classes", "machine_types", "prices", "assumptions"), optional=("cards",))
    table = content["prices"]
    check_keys(table, f"{name}: prices", _PRICE_KEYS)
    for key in _PRICE_KEYS:
        if not isinstance(table[key], Mapping):
            raise ConfigError(f"{name}: prices.{key}: {table[key]!r}, expected keys and values")
    lists = {key: _price_list(key, item, f"{name}: prices.lists.{key}") for key, item in table["lists"].items()}
    check_keys(table["services"], f"{name}: prices.services", SERVICES)
    types = _types(content["machine_types"], table["machines"], lists, name)
    check_keys(content["classes"], f"{name}: classes", CLASSES)
    for machine_class, machine in content["classes"].items():
        if machine not in types:
            raise ConfigError(f"{name}: classes.{machine_class}: {machine!r}, {hint(machine, types)}")
    for machine in types.values():
        if machine.gpu is not None and machine.gpu.name not in table["coiled_gpu_hour"]:
            raise ConfigError(f"{name}: prices.coiled_gpu_hour.{machine.gpu.name} is missing")
    return Machines(
        path=path,
        classes=content["classes"],
        types=types,
        lists=lists,
        services={key: _unit(item, lists, f"{name}: prices.services.{key}") for key, item in table["services"].items()},
        coiled_gpu={
            key: _unit(item, lists, f"{name}: prices.coiled_gpu_hour.{key}")
            for key, item in table["coiled_gpu_hour"].items()
        },
        assumptions=_assumptions(content["assumptions"], name),
        cards={key: _card(key, item, f"{name}: cards.{key}") for key, item in (content.get("cards") or {}).items()},
    )


def machines_of(config: Config) -> Machines:
    """Return the machine table with the configuration's own prices (``cloud.prices``) over it."""
    prices = config.cloud.prices
    return load_machines(prices=Path(prices) if prices else None)


_PRICE_KEYS = ("lists", "machines", "services", "coiled_gpu_hour")
_TYPE_KEYS = ("class", "vcpus", "memory_mb", "scratch_gb", "scratch_kind")
_CARD_KEYS = ("memory_mb", "tflops", "bandwidth_gb_s", "capability")
_GPU_KEYS = ("name", "count", "googlebatch", *_CARD_KEYS)


def _own_sources(over: Mapping[str, Any], name: str) -> None:
    """Require every user price to name its price list; else it would inherit the date of the price it overrides."""
    groups = {"machines." + str(key): value for key, value in over.get("machines", {}).items()}
    for where, group in groups.items():
        if not isinstance(group, Mapping):
            raise ConfigError(f"{name}: {where}: {group!r}, expected regions and their prices")
    groups |= {key: over[key] for key in ("services", "coiled_gpu_hour") if key in over}
    for where, group in groups.items():
        for key, price in group.items():
            if not isinstance(price, Mapping):
                raise ConfigError(f"{name}: {where}.{key}: {price!r}, expected keys and values")
            if "list" not in price:
                raise ConfigError(f"{name}: {where}.{key}: list is missing, the one of `lists` that the price is from")


def _price_list(name: str, item: Any, where: str) -> PriceList:
    check_keys(item, where, ("date", "status", "source"))
    if item["date"] is not None and not isinstance(item["date"], dt.date):
        raise ConfigError(f"{where}.date: {item['date']!r}, expected a date such as 2025-03-06, or null")
    if item["status"] not in ("published", "assumed"):
        raise ConfigError(f"{where}.status: {item['status']!r}, expected published or assumed")
    return PriceList(name, item["date"], item["status"], " ".join(str(item["source"]).split()))


def _known_list(name: Any, lists: Mapping[str, PriceList], where: str) -> str:
    if name not in lists:
        raise ConfigError(f"{where}.list: {name!r}, {hint(str(name), lists)}")
    return str(name)


def _unit(item: Any, lists: Mapping[str, PriceList], where: str) -> tuple[float, str]:
    check_keys(item, where, ("price", "list"))
    return number(item["price"], f"{where}.price"), _known_list(item["list"], lists, where)


def _hour_price(item: Any, lists: Mapping[str, PriceList], where: str) -> HourPrice:
    check_keys(item, where, ("on_demand", "spot", "list"))
    return HourPrice(
        number(item["on_demand"], f"{where}.on_demand"),
        number(item["spot"], f"{where}.spot"),
        _known_list(item["list"], lists, where),
    )


def _types(items: Any, prices: Any, lists: Mapping[str, PriceList], name: str) -> dict[str, MachineType]:
    check_keys(prices, f"{name}: prices.machines", optional=items)
    return {
        key: _machine(key, item, prices.get(key, {}), lists, f"{name}: machine_types.{key}")
        for key, item in items.items()
    }


def _machine(key: str, item: Any, prices: Any, lists: Mapping[str, PriceList], where: str) -> MachineType:
    check_keys(item, where, _TYPE_KEYS, optional=("gpu",))
    if not isinstance(prices, Mapping):
        raise ConfigError(f"{where.split(':', maxsplit=1)[0]}: prices.machines.{key}: {prices!r}, expected prices")
    if item["class"] not in CLASSES:
        raise ConfigError(f"{where}.class: {item['class']!r}, expected one of {', '.join(CLASSES)}")
    if (item["class"] == "gpu") != ("gpu" in item):
        raise ConfigError(f"{where}: class {item['class']} {'needs' if item['class'] == 'gpu' else 'has no'} key gpu")
    gpu = None
    if "gpu" in item:
        check_keys(item["gpu"], f"{where}.gpu", _GPU_KEYS)
        card = item["gpu"]
        gpu = Gpu(
            str(card["name"]),
            int(number(card["count"], f"{where}.gpu.count", minimum=1)),
            int(number(card["memory_mb"], f"{where}.gpu.memory_mb", minimum=1)),
            str(card["googlebatch"]),
            number(card["tflops"], f"{where}.gpu.tflops", minimum=1),
            number(card["bandwidth_gb_s"], f"{where}.gpu.bandwidth_gb_s", minimum=1),
            capability=_capability(card["capability"], f"{where}.gpu.capability"),
        )
    return MachineType(
        name=key,
        machine_class=item["class"],
        vcpus=int(number(item["vcpus"], f"{where}.vcpus", minimum=1)),
        memory_mb=int(number(item["memory_mb"], f"{where}.memory_mb", minimum=1)),
        scratch_gb=number(item["scratch_gb"], f"{where}.scratch_gb"),
        scratch_kind=str(item["scratch_kind"]),
        gpu=gpu,
        prices={
            region: _hour_price(price, lists, f"{where.split(':', maxsplit=1)[0]}: prices.machines.{key}.{region}")
            for region, price in prices.items()
        },
    )


def _card(key: str, item: Any, where: str) -> Gpu:
    check_keys(item, where, _CARD_KEYS)
    memory, tflops, bandwidth = (number(item[part], f"{where}.{part}", minimum=1) for part in _CARD_KEYS[:3])
    capability = _capability(item["capability"], f"{where}.capability")
    return Gpu(key, 1, int(memory), "", tflops, bandwidth, capability=capability)


def _capability(value: Any, where: str) -> tuple[int, int]:
    """Return a compute capability such as 8.9, YAML's number, as NVIDIA's two."""
    tenths = round(10 * number(value, where, minimum=1))
    return tenths // 10, tenths % 10


def _assumptions(item: Any, name: str) -> Assumptions:
    where = f"{name}: assumptions"
    check_keys(item, where, Assumptions.__dataclass_fields__)
    values: dict[str, Any] = {}
    for key, value in item.items():
        if key == "image_gb":
            check_keys(value, f"{where}.{key}", CLASSES)
        elif key == "preemptions_per_hour":
            check_keys(value, f"{where}.{key}", ("low", "expected", "high"))
        if isinstance(value, Mapping):
            values[key] = {part: number(amount, f"{where}.{key}.{part}") for part, amount in value.items()}
        else:
            values[key] = number(value, f"{where}.{key}")
    return Assumptions(**values)
