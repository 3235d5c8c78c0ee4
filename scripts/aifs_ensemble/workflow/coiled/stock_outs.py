"""Which regions have no machine of a type at present, and where to ask next."""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def next_region(regions: Sequence[str], tried: Sequence[str]) -> str | None:
    """Return the first region that was not tried, or None."""
    return next((region for region in regions if region not in tried), None)
