"""The storage provider over the plugin's: what it asks of a bucket, what it makes of answers, what it leaves alone."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.names import Keys
from aifs_ensemble.common.storage import Storage, open_storage
from doubles.gcs_fault_proxy import FaultProxy, fault_proxy
from doubles.gcs_server import gcs_server
from snakemake.io import IOCache

pytestmark = pytest.mark.cloud
CYCLE = "20250819_0000"
KEYS = Keys(CYCLE)


@dataclass
class Bucket:
    """A bucket, the provider that looks at it, and the requests since the last question."""

    storage: Storage
    provider: Any
    proxy: FaultProxy
    seen: int = field(default=0)

    def object(self, key: str, *, retrieve: bool = False) -> Any:
        return self.provider.object(f"gs://ensembles/p/{key}", retrieve=retrieve)

    def requests(self) -> int:
        before, self.seen = self.seen, self.proxy.schedule.log["requests"]
        return self.seen - before


@pytest.fixture(params=["calm", "faults"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from aifs_ensemble.workflow.listed_bucket import StorageProvider
    from snakemake_storage_plugin_gcs import StorageProviderSettings

    with gcs_server() as server, fault_proxy(server) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        settings = StorageProviderSettings(project="test")
        provider = StorageProvider(local_prefix=tmp_path, logger=None, settings=settings)
        provider.prefix, provider.units = "p/", frozenset({CYCLE})
        made = Bucket(open_storage("gs://ensembles/p"), provider, proxy)
        if request.param == "faults":
            proxy.schedule.rate, proxy.schedule.kinds = 0.2, ("status", "reset")
        yield made


def calm(bucket: Bucket) -> bool:
    return not bucket.proxy.schedule.rate


def leads(member: int) -> list[str]:
    return [KEYS.lead(member, lead) for lead in range(6, 66, 6)]


def test_one_listing_tells_what_is_there_and_what_is_not(bucket: Bucket) -> None:
    bucket.storage.put_bytes(b"x" * 3000, KEYS.lead(1, 6))
    bucket.storage.put_bytes(b"{}", KEYS.manifest(2))
    cache = IOCache(10)
    bucket.requests()
    for key in (*leads(1), *leads(2), KEYS.manifest(2)):
        asyncio.run(bucket.object(key).inventory(cache))
    assert bucket.requests() == 1 or not calm(bucket)
    there = bucket.object(KEYS.lead(1, 6))
    assert set(cache.exists_in_storage) == {there.cache_key(), bucket.object(KEYS.manifest(2)).cache_key()}
    assert cache.exists_in_storage.has_inventory == {there.get_inventory_parent()}
    assert cache.size[there.cache_key()] == 3000
    # another cycle, and what is beside the cycles, is none of this folder
    for key in ("20250820_0000/forecasts/x.grib2", "checkpoints/demo.ckpt", f"{CYCLE}x/y"):
        assert bucket.object(key).get_inventory_parent() is None


def test_a_lead_is_as_new_as_the_manifest_that_vouches_for_it(bucket: Bucket) -> None:
    """Else an initial state that was made again for one lost lead would have its member made at every run."""
    for member in (1, 2):
        bucket.storage.put_bytes(b"lead", KEYS.lead(member, 6))
    bucket.storage.put_bytes(b"old", KEYS.initial(1))
    time.sleep(0.01)
    bucket.storage.put_bytes(b"state", KEYS.initial(1), overwrite=True)
    bucket.storage.put_bytes(b"{}", KEYS.manifest(1))
    cache = IOCache(10)
    asyncio.run(bucket.object(KEYS.lead(1, 6)).inventory(cache))
    names = (KEYS.manifest(1), KEYS.initial(1), KEYS.lead(1, 6), KEYS.lead(2, 6))
    manifest, state, lead, other = (cache.mtime[bucket.object(key).cache_key()].storage() for key in names)
    assert lead == manifest > state > other, "a lead without a manifest has its own time"


def test_a_job_is_judged_by_what_is_there_when_it_has_ended(bucket: Bucket) -> None:
    """One listing a look at all of a member's leads: before the job, when it is to be cleared away, and after it."""
    objects = [bucket.object(key) for key in leads(1)]
    bucket.requests()
    for _ in range(2):
        assert not any(each.exists() for each in objects)
    assert bucket.requests() == 2 or not calm(bucket)
    for number, key in enumerate(leads(1)):
        bucket.storage.put_bytes(b"x" * number, key)
    bucket.requests()
    assert all(each.exists() for each in objects), "a listing from before the job answered"
    assert [each.size() for each in objects] == list(range(len(objects)))
    assert all(each.mtime() > time.time() - 600 for each in objects)
    assert bucket.requests() == 1 or not calm(bucket)
    bucket.storage.delete(leads(1)[3])
    assert [each.exists() for each in objects].count(False) == 1
    # another member's job asks for itself
    assert not bucket.object(leads(2)[0]).exists()


def test_a_listing_grows_old(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that was not asked for in the last look is not judged by it much later."""
    first, second = (bucket.object(key) for key in leads(1)[:2])
    assert not first.exists()
    bucket.storage.put_bytes(b"x", leads(1)[1])
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert second.exists()


def test_the_manifest_of_a_delivered_member_is_not_removed_because_another_failed(bucket: Bucket) -> None:
    def delivered(cycle: str, member: int) -> bool:
        if member == 3:
            raise StorageError("gs://: no answer")
        return (cycle, member) == (CYCLE, 1)

    bucket.provider.delivered = delivered
    other = Keys("20250820_0000").manifest(1)  # of no cycle of the run
    keys = [KEYS.manifest(member) for member in (1, 2, 3)] + [KEYS.initial(1), KEYS.initial_summary(1), other]
    for key in keys:
        bucket.storage.put_bytes(b"{}", key)
        bucket.object(key, retrieve=True).remove()
    assert [key for key in keys if bucket.storage.stat(key)] == [KEYS.manifest(1)]


def test_models_of_a_run_have_folders_of_their_own(bucket: Bucket) -> None:
    """Two listings tell what both have; a manifest of the one says nothing of the other."""
    bucket.provider.units = frozenset({f"demo/{CYCLE}", f"demo-v2/{CYCLE}"})
    bucket.provider.delivered = lambda unit, member: unit == f"demo/{CYCLE}"
    keys = {model: [f"{model}/{key}" for key in (KEYS.lead(1, 6), KEYS.manifest(1))] for model in ("demo", "demo-v2")}
    for key in (key for each in keys.values() for key in each):
        bucket.storage.put_bytes(b"{}", key)
    cache = IOCache(10)
    bucket.requests()
    for model in keys:
        asyncio.run(bucket.object(f"{model}/{KEYS.manifest(2)}").inventory(cache))
    assert bucket.requests() == 2 or not calm(bucket)
    assert len(cache.exists_in_storage) == 4
    assert bucket.object(f"{CYCLE}/manifests/member001.json").get_inventory_parent() is None
    assert bucket.object(f"compare/{CYCLE}/index.html").get_inventory_parent() is None
    for model in keys:
        bucket.object(f"{model}/{KEYS.manifest(1)}", retrieve=True).remove()
    assert bucket.storage.stat(f"demo/{KEYS.manifest(1)}") and not bucket.storage.stat(f"demo-v2/{KEYS.manifest(1)}")
    benchmark = f"demo/logs/benchmarks/forecast_member/{CYCLE}/member001.tsv"
    bucket.requests()
    assert not any(bucket.object(name, retrieve=True).exists() for name in (benchmark, benchmark.replace("001", "002")))
    assert bucket.requests() == 1 or not calm(bucket)


def test_what_a_job_delivers_is_never_removed_and_the_rest_is(bucket: Bucket) -> None:
    """Products are declared as leads are."""
    delivered = (KEYS.lead(1, 6), f"{CYCLE}/products/spread_h006.nc")
    stored = (KEYS.manifest(1), KEYS.initial(1), f"logs/benchmarks/forecast_member/{CYCLE}/member001.tsv")
    for key in (*delivered, *stored):
        bucket.storage.put_bytes(b"x", key)
        one = bucket.object(key, retrieve=key in stored)
        assert one.exists() and one.mtime() and one.size() == 1 and not one.is_directory()
        one.remove()
        assert (bucket.storage.stat(key) is not None) == (key in delivered)


def test_what_is_absent_has_no_description(bucket: Bucket) -> None:
    for key, retrieve in ((KEYS.lead(1, 6), False), (KEYS.manifest(1), True)):
        one = bucket.object(key, retrieve=retrieve)
        assert not one.exists()
        with pytest.raises(FileNotFoundError, match=key):
            one.mtime()


def test_benchmarks_are_listed_while_jobs_are_planned_and_asked_for_after_them(bucket: Bucket) -> None:
    benchmarks = [f"logs/benchmarks/forecast_member/{CYCLE}/member{member:03d}.tsv" for member in (1, 2, 3)]
    objects = [bucket.object(key, retrieve=True) for key in benchmarks]
    cache = IOCache(10)
    asyncio.run(bucket.object(KEYS.manifest(1)).inventory(cache))
    bucket.requests()
    assert not any(each.exists() for each in objects)
    assert bucket.requests() == 1 or not calm(bucket)
    cache.deactivate()
    bucket.storage.put_bytes(b"x", benchmarks[1])
    assert [each.exists() for each in objects] == [False, True, False]


def test_importing_the_workflow_imports_no_google_library() -> None:
    """The provider is imported where a bucket is used."""
    import subprocess

    code = "import sys, aifs_ensemble.workflow.snakefile; sys.exit('google.cloud.storage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
