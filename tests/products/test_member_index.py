"""The indexes of a member in one object: believed only as far as the manifest tells the same."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.leftovers import find_orphans
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.member_index import parse_member_index, wants_member_index
from aifs_ensemble.products.delivered_fields import DeliveredFields

from products.conftest import make_ensemble


def copied(ensemble: Config, tmp_path: Path) -> Config:
    shutil.copytree(ensemble.destination or "", tmp_path / "results")
    return Config(ensemble.to_dict() | {"destination": str(tmp_path / "results")})


def there(config: Config, key: str) -> Path:
    return Path(config.destination or "") / key


def test_it_is_the_indexes_one_after_another(ensemble: Config) -> None:
    paths = [there(ensemble, ensemble.objects.index(2, lead)) for lead in ensemble.leads]
    data = there(ensemble, ensemble.objects.member_index(2)).read_bytes()
    assert gzip.decompress(data) == b"".join(path.read_bytes() for path in paths)
    records = DeliveredFields(ensemble, 2).leads.values()
    assert parse_member_index(data, records) == {path.name: path.read_bytes() for path in paths}
    assert len(data) < sum(path.stat().st_size for path in paths) / 10


def test_it_is_made_once_and_kept_by_gc(ensemble: Config, tmp_path: Path) -> None:
    config = copied(ensemble, tmp_path)
    deliver_member(config, 1)  # a copy's receipt names other generations
    assert deliver_member(config, 1).sent_objects == 0
    path = there(config, config.objects.member_index(1))
    before = path.read_bytes()
    path.unlink()
    assert deliver_member(config, 1).sent_objects == 1
    assert path.read_bytes() == before
    assert find_orphans(config, open_destination(config), timedelta(0)) == []


def of_another_member(config: Config) -> bytes:
    return there(config, config.objects.member_index(2)).read_bytes()


def stale(config: Config) -> bytes:
    """Of a shorter run: its first leads are these."""
    text = gzip.decompress(there(config, config.objects.member_index(1)).read_bytes())
    return gzip.compress(text[: len(text) // 2])


def shifted(config: Config) -> bytes:
    """As long as it must be, and of other offsets."""
    text = gzip.decompress(there(config, config.objects.member_index(1)).read_bytes())
    return gzip.compress(text.replace(b'"_offset": 1', b'"_offset": 2'))


def torn(config: Config) -> bytes:
    return there(config, config.objects.member_index(1)).read_bytes()[:-30]


@pytest.mark.parametrize(
    "make",
    [
        of_another_member,
        stale,
        shifted,
        torn,
        lambda _: b"",
        lambda _: b"x" * 100,
        lambda _: gzip.compress(bytes(10**8)),
    ],
)
def test_what_the_manifest_does_not_tell_is_not_believed(
    ensemble: Config, tmp_path: Path, make: Callable[[Config], bytes]
) -> None:
    config = copied(ensemble, tmp_path)
    there(config, config.objects.member_index(1)).write_bytes(make(config))
    fields, expected = DeliveredFields(config, 1), DeliveredFields(ensemble, 1)
    for lead in (6, 48):
        found, right = (one.read(lead, ["2t", "t_500"]) for one in (fields, expected))
        for variable in right:
            np.testing.assert_array_equal(found[variable], right[variable])


@pytest.mark.cloud
def test_a_reader_of_all_leads_asks_once_for_indexes(ensemble: Config, bucket, gcs, tmp_path: Path) -> None:
    config = make_ensemble(tmp_path / "scratch", bucket(), members="1-1")
    fields = DeliveredFields(config, 1)
    before = gcs.schedule.log["requests"]
    for lead in config.leads:
        fields.read(lead, ["2t"])
    assert gcs.schedule.log["requests"] - before == 1 + len(config.leads)


def test_it_is_for_products_of_leads(ensemble: Config) -> None:
    def wants(**over: object) -> bool:
        raw = ensemble.to_dict()
        merge(raw, over)
        return wants_member_index(Config(raw))

    off = {"members": {"enabled": False}, "weekly": {"enabled": False}}
    assert wants() and wants(products={"weekly": {"enabled": False}}) and wants(delivery={"layout": "both"})
    assert not wants(products=off) and not wants(products=off | {"coarse": {"enabled": True}})
    assert not wants(delivery={"layout": "blocks"})
