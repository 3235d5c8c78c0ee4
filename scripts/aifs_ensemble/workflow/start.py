"""What is looked at, said and prepared when a run on rented machines starts, before any is rented."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import check_listed
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.workflow import bucket, refusals, routing
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.googlebatch import jobs as batch_jobs
from aifs_ensemble.workflow.googlebatch import resources
from aifs_ensemble.workflow.preflight import check_places


def prepare_start(workflow: Any, config: Config, seen: Mapping[str, Destination | None] | None = None) -> None:
    """Raise what a machine, or the provider, would refuse; print what a user should know of what is left running.

    `seen` is what was seen of the destination when jobs were planned, by unit.
    """
    bucket.refuse_without_bucket(config)
    _refuse_fixed_order()
    here = Path.cwd()
    refusals.check(
        refusals.checkout_problem(here),
        refusals.outside(internals.config_files(workflow), here),
        refusals.home_problem(),
        refusals.images_problem(config),
        *(refusals.time_problem(found, time.time()) for found in _changed(config, seen or {})),
    )
    check_places(config)
    if internals.rules_to_run(workflow) & {"checkpoint_prepare", "forecast_member"}:
        for one in config.of_each_model:
            check_listed(one.model, trust=one.trust_checkpoint)
    on_batch = routing.provider(workflow) == "googlebatch"
    lines = [*resources.start_lines(config), *batch_jobs.left_running(config)] if on_batch else left_open(config)
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201
    if on_batch:
        routing.settle_googlebatch(workflow, config)
        batch_jobs.delete_jobs_at_exit()


def _changed(config: Config, seen: Mapping[str, Destination | None]) -> Iterator[dict[str, float]]:
    """Yield when checkpoint and initial states of each cycle changed, of which no time may be in the future."""
    for one in config.of_each_cycle:
        yield refusals.changed(one, seen.get(one.unit))


def _refuse_fixed_order() -> None:
    """Raise ConfigError where runs of one checkout would name their sources in the bucket alike.

    Snakemake names the archive by its bytes, which differ by the order of a set, and removes it when a run ends: the
    machines of another cycle's run could not fetch theirs.
    """
    seed = os.environ.get("PYTHONHASHSEED", "")
    if seed not in ("", "random"):
        raise ConfigError(
            f"PYTHONHASHSEED: {seed!r} in the environment, expected none for rented machines: runs beside each other "
            "would share their sources in the bucket, and the first to end removes them"
        )


def left_open(config: Config) -> Iterator[str]:
    """Yield what a run says at its start of machines on Coiled whose end is not known and nobody takes up."""
    from snakemake_executor_plugin_coiled.records import Journal

    from aifs_ensemble.workflow.coiled.hooks import is_of

    journal = Journal()
    jobs = [
        record.id
        for record in journal.unfinished()
        if record.state != "running" or (not is_of(record, config) and not journal.lives(record.owner))
    ]
    if jobs:
        yield (
            f"machines of {len(jobs)} jobs that nobody waits for may still run; "
            f"`aifs-ensemble coiled-cancel {' '.join(jobs)}` stops them"
        )
