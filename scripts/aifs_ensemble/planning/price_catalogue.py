"""Prices of machine types from a public catalogue: SkyPilot's CSV files, or Google's list of SKUs.

SkyPilot (github.com/skypilot-org/skypilot-catalog, schema 5 to 8, ``gcp/vms.csv``) has a row for each zone. A machine's
row bears no card: the cards are rows of their own, without a machine type. Google (Cloud Billing Catalog API,
``services/6F81-5844-456A/skus``) prices a vCPU, a GiB and a card apart. Here both are put together for each type of
config/machines.yaml. What belongs to neither, such as an attached local SSD, stays with the table's services.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import DownloadError, InputError
from aifs_ensemble.common.text import foreign
from aifs_ensemble.planning.machines import Machines, MachineType

MOST_BYTES = 256 << 20
TIMEOUT = (10, 60)  # seconds to connect, and without a byte
_SKYPILOT = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Region", "Price", "SpotPrice")
# the catalogue's names of cards
_SKYPILOT_CARDS = {"A100-40GB": "A100", "A100-80GB": "A100-80GB", "H100-80GB": "H100", "L4": "L4"}
_GOOGLE_CARDS = {
    "A100-40GB": "Nvidia Tesla A100 GPU",
    "A100-80GB": "Nvidia Tesla A100 80GB GPU",
    "H100-80GB": "Nvidia H100 80GB GPU",
    "L4": "Nvidia L4 GPU",
}
_DATE = re.compile(rb"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Found:
    """A price that a catalogue names, USD an hour."""

    machine: str
    region: str
    on_demand: float
    spot: float


@dataclass(frozen=True)
class Catalogue:
    """What a catalogue says of our machine types; `date` is None where neither it nor its server bears one."""

    kind: str
    source: str
    date: dt.date | None
    prices: tuple[Found, ...]

    def as_table(self, name: str) -> dict[str, Any]:
        """Return the prices in the form of the key ``prices`` of config/machines.yaml, their list called `name`."""
        machines: dict[str, dict[str, Any]] = {}
        for one in self.prices:
            price = {"on_demand": round(one.on_demand, 6), "spot": round(one.spot, 6), "list": name}
            machines.setdefault(one.machine, {})[one.region] = price
        made = {"date": self.date, "status": "published", "source": f"{self.kind}, {self.source}"}
        return {"lists": {name: made}, "machines": machines}


def read_catalogue(place: str, machines: Machines, regions: Iterable[str], date: dt.date | None = None) -> Catalogue:
    """Return the prices of all machine types in `regions` from a file or an ``http(s)`` address.

    `date` stands over that of the catalogue. Raises InputError for a file that is neither form, or names none of our
    machine types; DownloadError where an address does not answer.
    """
    data, dated = _download(place) if re.match(r"https?://", place) else _read(Path(place))
    google = data.lstrip()[:1] == b"{"
    parse = _google if google else _skypilot
    found, said = parse(data, place, machines, sorted(set(regions)))
    if not found:
        raise InputError(f"{place}: no price of {', '.join(machines.types)} in {', '.join(sorted(set(regions)))}")
    kind = "Google's billing catalogue" if google else "SkyPilot's catalogue"
    return Catalogue(kind, place.partition("?")[0], date or said or dated, tuple(found))


def _read(path: Path) -> tuple[bytes, None]:
    try:
        return path.read_bytes(), None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _download(address: str) -> tuple[bytes, dt.date | None]:
    import requests

    shown = address.partition("?")[0]  # what follows may be a key
    try:
        with requests.get(address, timeout=TIMEOUT, stream=True) as answer:
            answer.raise_for_status()
            data = b""
            for part in answer.iter_content(1 << 20):
                data += part
                if len(data) > MOST_BYTES:
                    raise DownloadError(f"{shown}: more than {MOST_BYTES >> 20} MB, expected a catalogue of prices")
            told = answer.headers.get("Last-Modified")
    except requests.RequestException as error:
        status = error.response.status_code if error.response is not None else type(error).__name__
        raise DownloadError(f"{shown}: {status}, expected a catalogue of prices") from None
    try:
        return data, parsedate_to_datetime(told).date() if told else None
    except ValueError:
        return data, None


def _skypilot(
    data: bytes, place: str, machines: Machines, regions: Sequence[str]
) -> tuple[list[Found], dt.date | None]:
    """Return the prices of SkyPilot's form, the dearest zone of a region; it bears no date."""
    rows = csv.DictReader(io.StringIO(data.decode("utf-8", "replace")))
    missing = [name for name in _SKYPILOT if name not in (rows.fieldnames or ())]
    if missing:
        raise InputError(f"{place}: no column {missing[0]}, expected SkyPilot's vms.csv or Google's SKUs as JSON")
    hosts: dict[tuple[str, str], tuple[float, float]] = {}
    cards: dict[tuple[str, str], tuple[float, float]] = {}
    for number, row in enumerate(rows, 2):
        region = row["Region"]
        if region not in regions:
            continue
        type_, card = row["InstanceType"], row["AcceleratorName"]
        if type_ in machines.types and not card:
            _dearest(hosts, (type_, region), row, f"{place}: line {number}")
        elif not type_ and _number(row["AcceleratorCount"], f"{place}: line {number}") == 1:
            _dearest(cards, (card, region), row, f"{place}: line {number}")
    found = []
    for (name, region), host in hosts.items():
        price = _with_cards(machines.types[name], region, host, cards, _SKYPILOT_CARDS)
        if price:
            found.append(Found(name, region, *price))
    return found, None


def _dearest(
    known: dict[tuple[str, str], tuple[float, float]], key: tuple[str, str], row: Mapping[str, str], where: str
) -> None:
    if not row["Price"] or not row["SpotPrice"]:
        return
    price, spot = _number(row["Price"], where), _number(row["SpotPrice"], where)
    before = known.get(key, (0.0, 0.0))
    known[key] = max(price, before[0]), max(spot, before[1])


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {foreign(repr(text))}, expected a number") from None
    if not 0 <= value < 1e6:
        raise InputError(f"{where}: {value:g}, expected a price in USD an hour")
    return value


def _with_cards(
    machine: MachineType,
    region: str,
    host: tuple[float, float],
    cards: Mapping[tuple[str, str], tuple[float, float]],
    names: Mapping[str, str],
) -> tuple[float, float] | None:
    """Return a machine's price with its cards, None where these have none."""
    if machine.gpu is None:
        return host
    card = cards.get((names.get(machine.gpu.name, machine.gpu.name), region))
    if card is None:
        return None
    return host[0] + machine.gpu.count * card[0], host[1] + machine.gpu.count * card[1]


def _google(data: bytes, place: str, machines: Machines, regions: Sequence[str]) -> tuple[list[Found], dt.date | None]:
    """Return the prices of Google's SKUs, and the newest date from which one holds."""
    try:
        skus = json.loads(data)["skus"]
        parts = {kind: _google_parts(skus, regions, usage) for kind, usage in _USAGES.items()}
        dates = [str(info["effectiveTime"])[:10] for sku in skus for info in sku.get("pricingInfo", ())]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{place}: not Google's list of SKUs ({type(error).__name__}: {error})") from None
    dates = [text for text in dates if _DATE.fullmatch(text.encode())]
    found = []
    for machine in machines.types.values():
        for region in regions:
            prices = [_google_price(machine, region, parts[kind]) for kind in _USAGES]
            if None not in prices:
                found.append(Found(machine.name, region, prices[0] or 0.0, prices[1] or 0.0))
    return found, dt.date.fromisoformat(max(dates)) if dates else None


_USAGES = {"on_demand": "OnDemand", "spot": "Preemptible"}


def _google_parts(skus: Iterable[Any], regions: Sequence[str], usage: str) -> dict[tuple[str, str], float]:
    """Return USD an hour by part, such as ``N2 Instance Core``, and region."""
    parts: dict[tuple[str, str], float] = {}
    for sku in skus:
        if sku["category"]["usageType"] != usage:
            continue
        what = str(sku["description"]).partition(" running in ")[0]
        what = re.sub(r"^(Spot Preemptible|Preemptible) | attached to Spot Preemptible VMs$", "", what)
        for region in set(sku["serviceRegions"]) & set(regions):
            price = sku["pricingInfo"][-1]["pricingExpression"]["tieredRates"][-1]["unitPrice"]
            parts[what, region] = int(price["units"]) + price["nanos"] / 1e9
    return parts


def _google_price(machine: MachineType, region: str, parts: Mapping[tuple[str, str], float]) -> float | None:
    family = machine.name.partition("-")[0].upper()
    core, ram = parts.get((f"{family} Instance Core", region)), parts.get((f"{family} Instance Ram", region))
    if core is None or ram is None:
        return None
    host = machine.vcpus * core + machine.memory_mb / 1024 * ram
    cards = {(name, region): (price, price) for (name, place), price in parts.items() if place == region}
    price = _with_cards(machine, region, (host, host), cards, _GOOGLE_CARDS)
    return None if price is None else price[0]
