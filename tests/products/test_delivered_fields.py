"""Reading delivered members by byte range."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.products.delivered_fields import DeliveredFields
from delivery.members import finish_member, make_config
from fields.members import write_member

from products.conftest import make_ensemble, spec_of, true_fields

ASKED = ["2t", "tp", "t_500", "stl1", "tcc"]


def test_fields_are_those_of_the_file(ensemble: Config) -> None:
    fields = DeliveredFields(ensemble, 2)
    found = fields.read(24, ASKED)
    path = Path(ensemble.destination or "") / ensemble.objects.lead(2, 24)
    named = {"2t": {"param": "2t"}, "tp": {"param": "tp"}, "t_500": {"param": "t", "levelist": 500},
             "stl1": {"param": "sot", "levelist": 1}, "tcc": {"param": "tcc"}}  # fmt: skip
    assert list(found) != [] and set(found) == set(ASKED)
    for variable in ASKED:
        np.testing.assert_array_equal(found[variable], read_fields(path, **named[variable])[0])
        true = true_fields(ensemble, 2, 24)[variable]
        assert np.abs(found[variable] - true).max() <= (true.max() - true.min()) / 2**15
    assert fields.untrained


@pytest.mark.cloud
def test_blocks_and_buckets_give_the_same(ensemble: Config, bucket, gcs, tmp_path: Path) -> None:
    """A block holds several leads; one request reads neighbours in a file."""
    there = make_ensemble(
        tmp_path / "scratch", bucket(), members="1-1", delivery={"layout": "blocks", "block_hours": 24}
    )
    expected = DeliveredFields(ensemble, 1)
    gcs.schedule.log.clear()
    fields = DeliveredFields(there, 1)
    before = gcs.schedule.log["requests"]
    for lead in (6, 24, 30, 48):
        for variable, values in fields.read(lead, ["10u", "10v"]).items():
            np.testing.assert_array_equal(values, expected.read(lead, [variable])[variable])
    # two blocks, each with one index read once, and one range a lead
    assert gcs.schedule.log["requests"] - before == 2 + 4


def copied(ensemble: Config, tmp_path: Path) -> Config:
    shutil.copytree(ensemble.destination or "", tmp_path / "results")
    raw: dict[str, Any] = ensemble.to_dict() | {"destination": str(tmp_path / "results")}
    config = Config(raw)
    (tmp_path / "results" / config.objects.member_index(1)).unlink()  # which would do instead of a spoilt index
    return config


def spoiled_index(config: Config, change) -> None:
    path = Path(config.destination or "") / config.objects.index(1, 6)
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda entry: entry | {"param": "other"}, "h006.index: no 2t at 6 h"),
        (lambda entry: entry | {"step": "12"}, "h006.index: no 2t at 6 h"),
        (lambda entry: entry | {"step": "six"}, "not an index of a forecast"),
        (lambda entry: entry | {"_offset": -1}, "expected a message"),
        (lambda entry: entry | {"_offset": 10**400}, "expected a message of at most"),
        (lambda entry: entry | {"_offset": float("inf")}, "not an index of a forecast"),
        (lambda entry: entry | {"_length": 1 << 60}, "expected a message of at most"),
        (lambda entry: entry | {"_length": 1 << 70}, "expected a message of at most"),
        (lambda entry: entry | {"_offset": entry["_offset"] + 1}, "2t at byte .*no whole GRIB2 message"),
        (lambda entry: entry | {"_length": entry["_length"] - 1}, "2t at byte .*no whole GRIB2 message"),
    ],
)
def test_an_index_that_is_wrong_is_one_line(ensemble: Config, tmp_path: Path, change, says: str) -> None:
    config = copied(ensemble, tmp_path)
    fields = DeliveredFields(config, 1)
    spoiled_index(config, change)
    with pytest.raises(InputError, match=says):
        fields.read(6, ["2t"])


def test_a_member_that_is_not_delivered_is_refused(ensemble: Config, tmp_path: Path) -> None:
    config = copied(ensemble, tmp_path)
    open_destination(config).delete(config.objects.lead(1, 12))
    with pytest.raises(InputError, match=r"member001\.json: damaged: .*h012\.grib2: missing, expected a delivered"):
        DeliveredFields(config, 1)


def test_a_member_of_another_area_is_refused(tmp_path: Path, weights_cache: Path) -> None:
    """Neither cut nor read as if it were the globe: one line says which area it has, and which is asked for."""

    def of(area: Any) -> Config:
        return make_config(
            tmp_path / "scratch", str(tmp_path / "to"), members="1",
            forecast={"output": {"variables": ["2t"], "every_hours": 24, "area": area}},
            initial_conditions={"source": "idealised", "cache": str(weights_cache)},
        )  # fmt: skip

    europe = of("europe")
    leads = europe.scratch.work(1) / "leads"
    leads.mkdir(parents=True)
    spec = replace(spec_of(europe, 1), variables=("2t",), selected=True, area=europe.area)
    made = finish_member(europe, 1, write_member(spec, leads, europe.leads))
    settings = {"output": ["2t"], "area": list(europe.area or ())}
    write_member_manifest(europe.scratch.manifest(1), replace(made, settings=settings))
    deliver_member(europe, 1)
    assert np.isfinite(DeliveredFields(europe, 1).read(24, ["2t"])["2t"]).any()
    for area, text in (("africa", "38/-20/-36/55"), ([72, -25, 33, 44], "72/-25/33/44"), (None, "the globe")):
        with pytest.raises(InputError, match=rf"leads of 72/-25/33/45, not of {text} \(forecast\.output\.area\)"):
            DeliveredFields(of(area), 1)
