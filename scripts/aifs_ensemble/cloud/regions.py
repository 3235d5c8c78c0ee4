"""Regions in order of preference: which one to try, and when to try the next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aifs_ensemble.config import Config
from aifs_ensemble.errors import CloudError
from aifs_ensemble.regions import bucket_location, near

# What Compute Engine, Batch and Coiled answer when a zone or region has none of the machines left, or
# when the project may not have more of them there. Another region may help against either.
_NO_MACHINES = re.compile(
    r"ZONE_RESOURCE_POOL_EXHAUSTED|RESOURCE_POOL_EXHAUSTED|stock.?out|does not have enough resources"
    r"|resources? (is|are) not available|not enough (capacity|resources)|insufficient.{0,20}capacity"
    r"|unable to (get|obtain|launch).{0,40}(instance|capacity)|QUOTA_EXCEEDED|quota .{0,60}exceeded",
    re.IGNORECASE,
)


def is_stock_out(message: str) -> bool:
    """Return whether a message says that the region has no such machine to give now."""
    return bool(_NO_MACHINES.search(message))


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
    return usable_regions(config["cloud"]["regions"], location, config["delivery"]["allow_cross_region"])


def next_region(regions: Sequence[str], tried: Sequence[str]) -> str | None:
    """Return the first region that was not tried, or None."""
    return next((region for region in regions if region not in tried), None)
