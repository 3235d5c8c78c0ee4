"""Regions in order of preference: which one to try, and when to try the next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aifs_ensemble.errors import CloudError

# What Compute Engine, Batch and Coiled answer when a zone or region has none of the machines left, or
# when the project may not have more of them there. Another region may help against either.
_NO_MACHINES = re.compile(
    r"ZONE_RESOURCE_POOL_EXHAUSTED|RESOURCE_POOL_EXHAUSTED|stock.?out|does not have enough resources"
    r"|resources? (is|are) not available|not enough (capacity|resources)|insufficient.{0,20}capacity"
    r"|unable to (get|obtain|launch).{0,40}(instance|capacity)|QUOTA_EXCEEDED|quota .{0,60}exceeded",
    re.IGNORECASE,
)
# Multi-region buckets and the prefixes of the regions that are inside them.
_MULTI_REGIONS = {"US": ("us-", "northamerica-northeast"), "EU": ("europe-",), "ASIA": ("asia-",)}
# Predefined dual-regions; a bucket of a configurable dual-region reports its two regions joined by "+".
_DUAL_REGIONS = {
    "NAM4": ("us-central1", "us-east1"),
    "EUR4": ("europe-north1", "europe-west4"),
    "ASIA1": ("asia-northeast1", "asia-northeast2"),
}


def is_stock_out(message: str) -> bool:
    """Return whether a message says that the region has no such machine to give now."""
    return bool(_NO_MACHINES.search(message))


def aligned(region: str, bucket_location: str) -> bool:
    """Return whether traffic between machines in `region` and the bucket stays inside one location."""
    location = bucket_location.upper()
    if location in _DUAL_REGIONS:
        return region in _DUAL_REGIONS[location]
    if location in _MULTI_REGIONS:
        return region.startswith(_MULTI_REGIONS[location])
    return region.upper() in location.split("+")


def usable_regions(regions: Sequence[str], bucket_location: str | None, allow_cross_region: bool) -> tuple[str, ...]:
    """Return the regions to try, in order.

    Those where the bucket is come first, each group in the order of preference. The others follow only
    when `allow_cross_region` is set: most of a terabyte an ensemble, billed by the gigabyte between regions.
    Where the location is unknown (None) the order stays. Raises CloudError when no region is left.
    """
    if bucket_location is None:
        return tuple(regions)
    near = [region for region in regions if aligned(region, bucket_location)]
    far = [region for region in regions if region not in near]
    usable = (*near, *far) if allow_cross_region else tuple(near)
    if not usable:
        raise CloudError(
            f"config: cloud.regions: {', '.join(regions)}, expected one where the bucket is ({bucket_location}); "
            "or set delivery.allow_cross_region and pay for the traffic"
        )
    return usable


def next_region(regions: Sequence[str], tried: Sequence[str]) -> str | None:
    """Return the first region that was not tried, or None."""
    return next((region for region in regions if region not in tried), None)
