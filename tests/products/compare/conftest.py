"""Two delivered ensembles of one cycle, each in its model's folder, and their comparison."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.products.compare.write import write_comparison
from chromium import browser  # noqa: F401 - a fixture
from delivery.members import finish_member, make_config
from fields.members import make_fields

from products.conftest import spec_of

MODELS = ["demo", "demo-v2"]
PRODUCTS: dict[str, Any] = {
    "compare": {"variables": ["2t", "msl", "tp"], "every_hours": 12},
    "evaluation": {"areas": {"globe": [90, 0, -90, 360], "south": [-30, 0, -60, 360]}},
    "pictures": {
        "enabled": True, "variables": ["2t", "tp", "10si"], "step_hours": 24, "areas": ["globe", "east-africa"],
    },
    "page": {"enabled": True},
}  # fmt: skip
# what the second model's members have over the fields of the first: a mean of its own, and another spread
SHIFT = {1: 1.0, 2: 4.0, 3: 5.5}
SCORES = """\
# AIFS ENS evaluation
variable,units,area,lead_hours,period,valid_time,crps,rmse,spread,bias,rpss
2t,K,globe,24,,2025-08-20T00:00Z,{0},2,1.5,0.1,
2t,K,globe,48,,2025-08-21T00:00Z,1.75,3,2.5,0.2,
2t,1,globe,,h024,,,,,,{1}
"""


def write_scores(config: Config, crps: str, rpss: str) -> None:
    """Leave a table of scores where an evaluation does."""
    path = Path(str(config.destination)) / config.objects.evaluation("scores.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCORES.format(crps, rpss))


def make_pair(folder: Path, cache: Path, **over: Any) -> Config:
    """Return the configuration of two models whose members are delivered: 1-3 of 48 hours."""
    config = make_config(
        folder / "scratch", str(folder / "results"), model=MODELS, members="1-3", lead_hours=48, products=PRODUCTS,
        initial_conditions={"source": "idealised", "cache": str(cache)}, **over,
    )  # fmt: skip
    for one in config.of_each_model:
        for member in one.members:
            deliver(one, member)
    return config


def deliver(config: Config, member: int) -> None:
    """Make and deliver a member."""
    spec, leads = spec_of(config, member), config.scratch.work(member) / "leads"
    leads.mkdir(parents=True)
    shift = SHIFT[member] if config.model.name == MODELS[1] else 0.0
    still = np.array([name in spec.accumulated or name[-2:] == "cc" for name in spec.rows])
    with EncoderPool(spec, leads, 1) as pool:
        records = []
        for lead in config.leads:
            slot = pool.acquire(120)
            slot.array[:] = make_fields(spec, lead) + np.where(still, 0, shift)[:, None].astype("f4")
            pool.submit(slot, lead)
            records += pool.completed()
        records += pool.drain()
    finish_member(config, member, sorted(records, key=lambda record: record.lead))
    deliver_member(config, member)


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Config:
    """Two models with the members 1-3 delivered, and scores of both. Don't change them."""
    config = make_pair(tmp_path_factory.mktemp("pair"), weights_cache)
    for one, crps, rpss in zip(config.of_each_model, ("1.25", "0.75"), ("0.1", "-0.05"), strict=True):
        write_scores(one, crps, rpss)
    return config


@pytest.fixture(scope="package")
def compared(pair: Config) -> Path:
    """The folder of the comparison of all members. Don't change it."""
    folder = Path(str(pair.destination)) / "compare" / pair.cycle
    write_comparison(pair, folder, [pair.members, pair.members])
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of the comparison."""
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))
    return list(csv.DictReader(io.StringIO(text)))
