"""Prices from public catalogues: put together for our machine types, dated, and refused in one line."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.planning.machines import Machines, load_machines
from aifs_ensemble.planning.price_catalogue import read_catalogue

# rows as SkyPilot's catalogue has them (schema 8): a row for each zone, cards in rows of their own
SKYPILOT = """InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,\
Price,SpotPrice
a2-ultragpu-1g,12.0,170.0,,,,us-central1,us-central1-a,1.09962,0.54978
a2-ultragpu-1g,12.0,170.0,,,,us-central1,us-central1-c,1.2,0.5
a2-ultragpu-1g,12.0,170.0,,,,us-east5,us-east5-a,1.0,0.3
n2-standard-2,2.0,8.0,,,,us-central1,us-central1-a,0.0971,0.0261
n2-standard-4,4.0,16.0,,,,us-central1,us-central1-a,0.1942,
other-1,1.0,1.0,,,,us-central1,us-central1-a,9.0,9.0
,,,A100-80GB,1.0,,us-central1,us-central1-a,3.92823,1.57129
,,,A100-80GB,8.0,,us-central1,us-central1-a,31.4,12.5
"""


def sku(what: str, usage: str, nanos: int, units: str = "0", region: str = "us-central1") -> dict:
    spot = usage == "Preemptible"
    return {
        "description": f"{'Spot Preemptible ' if spot else ''}{what} running in Iowa",
        "category": {"usageType": usage},
        "serviceRegions": [region],
        "pricingInfo": [
            {
                "effectiveTime": "2026-10-01T00:00:00Z",
                "pricingExpression": {"tieredRates": [{"unitPrice": {"units": units, "nanos": nanos}}]},
            }
        ],
    }


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "vms.csv"
    path.write_text(SKYPILOT)
    return path


def test_a_machine_costs_its_host_and_its_cards(csv_file: Path, machines: Machines) -> None:
    """The dearest zone; a row without a spot price, and a card in another number, count for nothing."""
    found = read_catalogue(str(csv_file), machines, ["us-central1"])
    prices = {one.machine: (one.on_demand, one.spot) for one in found.prices}
    assert prices == {
        "a2-ultragpu-1g": (pytest.approx(1.2 + 3.92823), pytest.approx(0.54978 + 1.57129)),
        "n2-standard-2": (0.0971, 0.0261),
    }
    assert found.date is None


def test_googles_parts_make_a_machine(tmp_path: Path, machines: Machines) -> None:
    skus = [
        sku("N2 Instance Core", "OnDemand", 31_611_000),
        sku("N2 Instance Ram", "OnDemand", 4_237_000),
        sku("N2 Instance Core", "Preemptible", 7_650_000),
        sku("N2 Instance Ram", "Preemptible", 1_030_000),
        sku("N2 Instance Ram", "Commit1Yr", 1),
        sku("A2 Instance Core", "OnDemand", 31_611_000),
        sku("A2 Instance Ram", "OnDemand", 4_237_000),
        sku("A2 Instance Core", "Preemptible", 10_000_000),
        sku("A2 Instance Ram", "Preemptible", 1_000_000),
        sku("Nvidia Tesla A100 80GB GPU", "OnDemand", 928_000_000, "3"),
        sku("Nvidia Tesla A100 80GB GPU", "Preemptible", 570_000_000, "1"),
    ]
    path = tmp_path / "skus.json"
    path.write_text(json.dumps({"skus": skus}))
    found = read_catalogue(str(path), machines, ["us-central1", "europe-west4"])
    prices = {one.machine: (one.on_demand, one.spot) for one in found.prices if one.region == "us-central1"}
    assert prices["n2-standard-2"][0] == pytest.approx(2 * 0.031611 + 8 * 0.004237)
    assert prices["n2-standard-8"][1] == pytest.approx(8 * 0.00765 + 32 * 0.00103)
    assert prices["a2-ultragpu-1g"][0] == pytest.approx(12 * 0.031611 + 170 * 0.004237 + 3.928)
    assert "a2-highgpu-1g" not in prices, "its card has no price"
    assert found.date == dt.date(2026, 10, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "no column InstanceType"),
        (SKYPILOT.replace("0.0971", "dear"), "line 5: 'dear', expected a number"),
        (SKYPILOT.replace("0.0971", "-1"), "line 5: -1, expected a price"),
        (SKYPILOT.replace("us-central1", "moon"), "no price of"),
        ('{"skus": [{"description": 1}]}', "not Google's list of SKUs"),
        ("{", "not Google's list of SKUs"),
        ("", "no column"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, machines: Machines, content: str, said: str) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_catalogue(str(path), machines, ["us-central1"])


@pytest.fixture
def server() -> Iterator[str]:
    """A server that has the catalogue, and says when it changed last."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/vms.csv") else 404)
            self.send_header("Last-Modified", "Fri, 20 Nov 2026 08:00:00 GMT")
            self.end_headers()
            self.wfile.write(SKYPILOT.encode())

        def log_message(self, *_: object) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def test_prices_are_written_with_date_and_source(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Other prices in the file stay, a key in the address is not kept, and the file stands over the table."""
    monkeypatch.chdir(root)
    file = tmp_path / "prices.yaml"
    own = {"lists": {"own": {"date": None, "status": "published", "source": "ours"}},
           "machines": {"n2-standard-8": {"us-central1": {"on_demand": 1.0, "spot": 0.5, "list": "own"}}}}  # fmt: skip
    file.write_text(yaml.safe_dump(own))
    assert main(["prices", "--update", f"{server}/vms.csv?key=secret", "--output", str(file)]) == 0
    said = capsys.readouterr().out
    assert "2026-11-20" in said
    assert "secret" not in said + file.read_text()
    table = load_machines(prices=file)
    assert table.machine("a2-ultragpu-1g").price("us-central1").on_demand == pytest.approx(5.12823)
    assert table.machine("n2-standard-8").price("us-central1").on_demand == 1.0
    assert table.lists["skypilot"].date == dt.date(2026, 11, 20)
    before = file.read_bytes()
    assert main(["prices", "--update", f"{server}/gone.csv", "--output", str(file)]) == 10
    assert "404, expected a catalogue" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_the_prices_in_use_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.chdir(root)
    assert main(["prices"]) == 0
    assert "a2-ultragpu-1g" in capsys.readouterr().out
    assert main(["prices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["machine"] == "a2-ultragpu-1g"
