"""Opening the data sets of an ensemble: what users call."""

from __future__ import annotations

import icechunk
import xarray as xr

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.text import foreign
from aifs_ensemble.products.cube import codec  # noqa: F401 - known to Zarr from here on
from aifs_ensemble.products.cube.containers import absolute, credentials, repository_storage

_FOLDER = "products/ensemble.icechunk"


def open_virtual(cycle_url: str, *, anonymous: bool = False, leads_at: str | None = None) -> xr.Dataset:
    """Return all members, leads and fields of a delivered cycle, lazily, ``(number, step, ..., values)``.

    `cycle_url` is the folder or ``gs://bucket/prefix`` of the cycle, such as ``results/20250819_0000``. A bucket is
    read with the machine's own identity, or as `anonymous`. The leads are read from the cycle's destination, or from
    `leads_at`. Raises InputError where there is no such data set, and for one that refers to another place.
    """
    cycle_url = cycle_url.rstrip("/")
    url = f"{cycle_url}/{_FOLDER}"
    leads = leads_at or (cycle_url.rpartition("/")[0] if cycle_url.startswith("gs://") else f"{cycle_url}/..")
    try:
        storage = repository_storage(url, anonymous=anonymous)
        config = icechunk.Repository.fetch_config(storage)
        # no other place is read, whatever a data set says: nobody vouches for it
        _check_place(url, leads, list((config.virtual_chunk_containers if config else None) or ()))
        access = icechunk.containers_credentials({f"{absolute(leads)}/": credentials(leads, anonymous=anonymous)})
        repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
        store = repository.readonly_session("main").store
    except icechunk.IcechunkError as error:
        raise InputError(f"{url}: no data set of an ensemble ({foreign(error)})") from None
    return xr.open_zarr(store, consolidated=False, chunks=None)


def _check_place(url: str, leads: str, prefixes: list[str]) -> None:
    if prefixes and prefixes != [f"{absolute(leads)}/"]:
        named = foreign(", ".join(prefixes))
        raise InputError(f"{url}: refers to leads at {named}, expected {absolute(leads)}/: make it again here")
