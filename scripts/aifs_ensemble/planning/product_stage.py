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
    fields : read by byte range, of leads or of coarse leads
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
    return {rule: members if read.of_member else read.jobs for rule, read in reads.items()}


def product_stage(
    config: Config, jobs: Mapping[str, int], *, field_bytes: float, points: int, assume: Assumptions
) -> ProductStage:
    """Return what `jobs` by rule take; `points` are those of the model's grid, by which reading grows."""
    reads = product_reads(config)
    counted = {rule: _count(jobs, rule) for rule in reads}
    mine = {rule: count for rule, count in counted.items() if count}
    native = sum(count * reads[rule].fields for rule, count in mine.items())
    regular = sum(count * reads[rule].regular for rule, count in mine.items())
    share = _coarse_points(config) / points if config.products.coarse.enabled else 1.0
    whole = native + share * regular  # fields of the model's grid that take as long
    seconds = whole * assume.product_seconds["field_of_million_points"] * points / 1e6
    seconds += sum(mine.values()) * assume.product_seconds["job"]
    return ProductStage(mine, round(native + regular), whole * field_bytes, seconds)


def _count(jobs: Mapping[str, int], rule: str) -> int:
    return sum(count for name, count in jobs.items() if name == rule or name.startswith(f"{rule}_h"))


def _coarse_points(config: Config) -> float:
    east, north = map(float, config.coarse_grid.split("x"))
    return 360 / east * (180 / north + 1)
