"""The stage after the forecasts: jobs, fields, bytes and processor time of the products that a run makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.product_reads import product_reads
from aifs_ensemble.planning.machines import Assumptions


@dataclass(frozen=True)
class ProductStage:
    """What the products of a run take.

    Attributes
    ----------
    jobs : by rule
    fields : read by byte range
    bytes : of these fields
    cpu_seconds : of one processor core, over all jobs
    """

    jobs: Mapping[str, int]
    fields: int
    bytes: float
    cpu_seconds: float


def jobs_of_products(config: Config, members: int) -> dict[str, int]:
    """Return the jobs by rule that follow when `members` members are delivered anew; none when none is."""
    reads = product_reads(config) if members else {}
    return {rule: members if read.of_member else 1 for rule, read in reads.items()}


def product_stage(
    config: Config, jobs: Mapping[str, int], *, field_bytes: float, points: int, assume: Assumptions
) -> ProductStage:
    """Return what `jobs` by rule take; `points` are those of the model's grid, by which reading grows."""
    reads = product_reads(config)
    mine = {rule: jobs[rule] for rule in reads if jobs.get(rule)}
    fields = sum(count * reads[rule].fields for rule, count in mine.items())
    each = assume.product_seconds["field_of_million_points"] * points / 1e6
    seconds = fields * each + sum(mine.values()) * assume.product_seconds["job"]
    return ProductStage(mine, fields, fields * field_bytes, seconds)
