"""Snakemake's view of a bucket by listings, over snakemake-storage-plugin-gcs (1.1.4).

The plugin's inventory notes what it finds and not that it has looked, so every object that is missing is asked for
again, five requests each. Here one listing of a cycle tells Snakemake what is there and what is not, and one
listing of a member's leads answers for all of them when its job has ended.

What a job delivers itself, such as leads, its rule declares with ``retrieve=False`` (`internals.delivered_object`):
Snakemake neither retrieves nor stores it. Nor is it removed here: before a job runs Snakemake removes its outputs, and
those of a whole group when one of its jobs fails, but what is delivered stays. So does the manifest of a member that is
delivered as asked for: another member, perhaps of another cycle, that failed on the same machine says nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

import snakemake_storage_plugin_gcs as gcs
from snakemake_interface_storage_plugins.io import Mtime

from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.names import BENCHMARKS, Keys, member_in, parse_member_name, unit_name
from aifs_ensemble.common.units import split_unit
from aifs_ensemble.workflow import snakemake_internals as internals

_FIELDS = "items(name,updated,size),nextPageToken"
# A listing serves the questions of one moment; any that is older is never looked at.
_MOMENT_SECONDS = 5.0


class _Listing:
    """Objects by key, at one moment; it answers once for each of them."""

    def __init__(self, found: dict[str, Any]):
        self.found = found
        self.made = time.monotonic()
        self.answered: set[str] = set()

    def may_answer(self, key: str) -> bool:
        """Tell whether it is new for this key: who asks a second time wants to know what has changed."""
        return key not in self.answered and time.monotonic() - self.made < _MOMENT_SECONDS


class StorageProvider(gcs.StorageProvider):
    """The plugin's provider, which also knows the `units` and the `prefix` before them, empty or ending in a slash."""

    prefix = ""
    units: frozenset[str] = frozenset()
    # tells of a unit's member whether it is delivered as asked for
    delivered: Callable[[str, int], bool] | None = None
    # Snakemake's, once it has asked for an inventory
    cache: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lock = Lock()
        self._listings: dict[tuple[str, str], _Listing] = {}

    def listed(self, bucket: Any, prefix: str, key: str, *, again: bool) -> Any:
        """Return an object from a listing of those that begin with `prefix`, None when there is none.

        With `again` the question is a new one, and the listing at least as new.
        """
        with self._lock:
            listing = self._listings.get((bucket.name, prefix))
            if listing is None or (again and not listing.may_answer(key)):
                found = {blob.name: blob for blob in self.client.list_blobs(bucket, prefix=prefix, fields=_FIELDS)}
                listing = self._listings[bucket.name, prefix] = _Listing(found)
            if again:
                listing.answered.add(key)
            return listing.found.get(key)


class StorageObject(gcs.StorageObject):
    """An object, of which a listing tells whether it is there; directories are not known."""

    @property
    def _folder(self) -> str | None:
        """The folder that is listed as a whole, a unit's; None for another object."""
        prefix, unit = self.provider.prefix, self._unit
        return f"{prefix}{unit}/" if unit in self.provider.units and self.key.startswith(prefix) else None

    @property
    def _unit(self) -> str:
        """The unit of the object: the first part of its key, or with several models the first two."""
        parts = 1 + next(iter(self.provider.units), "").count("/")  # all units of a run are of one form
        return "/".join(str(self.key).removeprefix(self.provider.prefix).split("/")[:parts])

    @property
    def _of_model(self) -> tuple[str, Keys]:
        """What the keys of its model begin with, and the keys of its cycle after that."""
        model, cycle = split_unit(self._unit)
        return f"{self.provider.prefix}{unit_name(model, '')}", Keys(cycle)

    @property
    def _together(self) -> str | None:
        """What the keys of objects begin with that are asked for together, so that one listing answers for all.

        Those are what one job delivers itself, and while jobs are planned the benchmarks of a rule. Any other object
        is asked for alone.
        """
        folder = f"{self.key.rpartition('/')[0]}/"
        if self._folder and not self.retrieve:
            member = member_in(self.key)
            return self.key[: self.key.rindex(member) + len(member)] if member else folder
        planning = self.provider.cache is not None and internals.is_active(self.provider.cache)
        model = split_unit(self._unit)[0]
        benchmarks = f"{self.provider.prefix}{unit_name(model, BENCHMARKS)}/"
        return folder if planning and self.key.startswith(benchmarks) else None

    def get_inventory_parent(self) -> str | None:
        """Return the folder of which one listing tells everything, as Snakemake spells it."""
        return None if self._folder is None else self.cache_key(self._local_suffix_from_key(self._folder))

    async def inventory(self, cache: Any) -> None:
        """Note everything that is in the object's folder, and that nothing else is."""
        self.provider.cache = cache
        parent = self.get_inventory_parent()
        if parent is None or internals.has_inventory(cache, parent):
            return
        for key, (updated, size) in self._everything().items():
            name = self.cache_key(self._local_suffix_from_key(key))
            cache.exists_in_storage[name] = True
            cache.mtime[name] = Mtime(storage=updated)
            cache.size[name] = size
        internals.note_inventory(cache, parent)

    @gcs.retry.Retry(predicate=gcs.google_cloud_retry_predicate)
    def _everything(self) -> dict[str, tuple[float, int]]:
        """Return time of change and size of every object in the folder.

        A lead is as new as the manifest that vouches for it: an initial state that was made again for the sake of one
        lost lead does not make the others old.
        """
        listed = self.client.list_blobs(self.bucket, prefix=self._folder, fields=_FIELDS)
        found = {blob.name: (blob.updated.timestamp(), blob.size) for blob in listed}
        prefix, keys = self._of_model
        leads = prefix + keys.folder("forecasts")
        for key, (updated, size) in found.items():
            member = parse_member_name(member_in(key) or "") if key.startswith(leads) else None
            manifest = found.get(prefix + keys.manifest(member)) if member is not None else None
            if manifest:
                found[key] = max(updated, manifest[0]), size
        return found

    @gcs.retry.Retry(predicate=gcs.google_cloud_retry_predicate)
    def exists(self) -> bool:
        """Return whether the object is there, now."""
        if self._together is None:
            return bool(self.blob.exists())
        return self.provider.listed(self.bucket, self._together, self.key, again=True) is not None

    @gcs.retry.Retry(predicate=gcs.google_cloud_retry_predicate)
    def mtime(self) -> float:
        """Return the time of change, seconds since 1970."""
        return float(self._described().updated.timestamp())

    @gcs.retry.Retry(predicate=gcs.google_cloud_retry_predicate)
    def size(self) -> int:
        """Return the size in bytes."""
        return int(self._described().size)

    def _described(self) -> Any:
        """Return the object with its description: of a lead, from the listing that said it is there."""
        found = None
        if self._together is not None:
            found = self.provider.listed(self.bucket, self._together, self.key, again=False)
        found = found or self.bucket.get_blob(self.key)
        if found is None:
            raise FileNotFoundError(self.query)
        return found

    def is_directory(self) -> bool:
        """Return False: an object is a file."""
        return False

    def remove(self) -> None:
        """Remove the object, unless a job delivered it: those are `aifs-ensemble gc`'s to remove."""
        if self.retrieve and not self._is_of_delivered():
            super().remove()

    def _is_of_delivered(self) -> bool:
        """Tell whether this is the manifest of a member that is delivered as asked for; when in doubt it is not."""
        member = parse_member_name(self.key.rpartition("/")[2].removesuffix(".json"))
        if not (self._folder and self.provider.delivered and member is not None):
            return False
        prefix, keys = self._of_model
        if self.key != prefix + keys.manifest(member):
            return False
        with suppress(WorkflowError):
            return bool(self.provider.delivered(self._unit, member))
        return False

    def ensure_bucket_exists(self) -> None:
        """Leave the bucket to those who own it: one that is not there is refused before any job."""
