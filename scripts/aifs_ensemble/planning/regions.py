"""Regions of bucket, images and machines: compared before a run, because bytes between regions cost money."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CloudError, PlanError, StorageError
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.planning.machines import Machines, machines_of

LOG = logging.getLogger(__name__)

# Multi- and predefined dual-regions and the regions in them (cloud.google.com/storage/docs/locations).
# Registries call eu europe.
_MULTI = {"us": ("us-",), "eu": ("europe-",), "europe": ("europe-",), "asia": ("asia-",)}
_DUAL = {
    "nam4": ("us-central1", "us-east1"),
    "eur4": ("europe-north1", "europe-west4"),
    "eur5": ("europe-west1", "europe-west2"),
    "eur7": ("europe-west2", "europe-west3"),
    "eur8": ("europe-west3", "europe-west6"),
    "asia1": ("asia-northeast1", "asia-northeast2"),
}
_REGISTRY_HOST = re.compile(r"(?:(?P<prefix>[a-z0-9-]+)-docker\.pkg\.dev|(?:(?P<old>[a-z]+)\.)?gcr\.io)/")
# London and Zurich are europe-*; Montreal and Sydney have names of their own continents.
_CONTINENTS = {"us": "america", "northamerica": "america", "europe": "europe", "eu": "europe"}


@dataclass(frozen=True)
class Mismatch:
    """Something that is not where the machines are, and what the bytes between cost for one run."""

    what: str
    place: str
    region: str
    gigabytes: float
    dollars: float

    def __str__(self) -> str:
        return (
            f"{self.what} is in {self.place}, machines in {self.region}: "
            f"{self.gigabytes:.1f} GB between them cost ${self.dollars:.2f} a run"
        )


def image_region(image: str | None) -> str | None:
    """Return the region (or multi-region) of a container image, None where its name does not say one."""
    match = _REGISTRY_HOST.match(image or "")
    if not match:
        return None
    return match["prefix"] or match["old"] or "us"


def near(place: str, region: str) -> bool:
    """Tell whether a bucket or registry at `place` serves `region` without a charge.

    `place` is a region, a dual-region (a configurable one reports its two joined by ``+``) or a multi-region.
    """
    place = place.lower()
    if region in place.split("+"):
        return True
    return region in _DUAL.get(place, ()) or region.startswith(_MULTI.get(place, ("\0",)))


def continent(place: str) -> str:
    """Return the continent of a region, dual- or multi-region."""
    place = _DUAL[place.lower()][0] if place.lower() in _DUAL else place.lower()
    first = place.split("-")[0]
    return _CONTINENTS.get(first, first)


def mismatches(config: Config, bucket_location: str | None, run_bytes: int, machines: Machines) -> list[Mismatch]:
    """Return what lies away from a region in which machines may be rented.

    Regions away from the bucket are left out where ``delivery.allow_cross_region`` is not set and others are near.
    `run_bytes` go to the bucket in a run, and each machine pulls its image. Sizes of images and prices are those of
    `machines`.
    """
    cloud = config.cloud
    found = []
    close = [region for region in cloud.regions if bucket_location and near(bucket_location, region)]
    left_out = close and not config.delivery.allow_cross_region
    for region in close if left_out else cloud.regions:
        if bucket_location and not near(bucket_location, region):
            found.append(_mismatch(machines, "the bucket", bucket_location.lower(), region, run_bytes))
        for kind, gigabytes in machines.assumptions.image_gb.items():
            place = image_region(getattr(cloud, f"{kind}_image"))
            if place and not near(place, region):
                pulled = round(gigabytes * 1e9) * cloud.vms
                found.append(_mismatch(machines, f"cloud.{kind}_image", place, region, pulled))
    return found


def _mismatch(table: Machines, what: str, place: str, region: str, size: int) -> Mismatch:
    service = "egress_same_continent_gb" if continent(place) == continent(region) else "egress_other_continent_gb"
    gigabytes = size / 1e9
    return Mismatch(what, place, region, gigabytes, gigabytes * table.service(service))


def check_regions(config: Config, run_bytes: int) -> list[Mismatch]:
    """Raise PlanError when bucket or images lie away from the machines, unless ``delivery.allow_cross_region``.

    Asks the destination where it is; `cloud.bucket_region` answers where it does not. Returns what was found
    and allowed.
    """
    found = mismatches(config, bucket_location(config), run_bytes, machines_of(config))
    if found and not config.delivery.allow_cross_region:
        text = "; ".join(str(one) for one in found)
        raise PlanError(f"config: cloud.regions: {text}; expected one region, or delivery.allow_cross_region: true")
    return found


def bucket_location(config: Config) -> str | None:
    """Return where the destination is (``US-CENTRAL1``, ``EU`` ...), None for a folder.

    Reading a bucket's description needs a right (storage.buckets.get) that reading and writing objects does not;
    `cloud.bucket_region` answers where it does not. Raises StorageError when neither says.
    """
    try:
        location: str | None = getattr(open_destination(config), "location", lambda: None)()
    except StorageError as error:
        location = config.cloud.bucket_region
        if location is None:
            raise StorageError(f"{error}; or set cloud.bucket_region") from error
        LOG.warning("%s: taken to be in %s, as cloud.bucket_region says (%s)", config.destination, location, error)
    return location


def usable_regions(regions: Sequence[str], bucket_location: str | None, allow_cross_region: bool) -> tuple[str, ...]:
    """Return the regions to try, in order.

    Those where the bucket is come first, each group in the order of preference. The others follow only
    when `allow_cross_region` is set: most of a terabyte an ensemble, billed by the gigabyte between regions.
    Where the location is unknown (None) the order stays. Raises CloudError when no region is left.
    """
    if bucket_location is None:
        return tuple(regions)
    close = [region for region in regions if near(bucket_location, region)]
    far = [region for region in regions if region not in close]
    usable = (*close, *far) if allow_cross_region else tuple(close)
    if not usable:
        raise CloudError(
            f"config: cloud.regions: {', '.join(regions)}, expected one where the bucket is ({bucket_location}); "
            "or set delivery.allow_cross_region and pay for the traffic"
        )
    return usable


def regions_of_run(config: Config) -> tuple[str, ...]:
    """Return the regions in which a run asks for machines, in order; a bucket is asked where it is."""
    location = bucket_location(config) if config.cloud_destination else None
    return usable_regions(config.cloud.regions, location, config.delivery.allow_cross_region)
