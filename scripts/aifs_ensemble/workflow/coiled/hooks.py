"""What this workflow tells the Coiled executor: machines by the configuration, and success by manifests.

The executor plugin is the coordinator's: rented machines do not have it, and nothing that they import comes here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_executor_plugin_coiled import ExecutorSettings, Hooks
from snakemake_executor_plugin_coiled.records import JobRecord, Journal

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import EACH_CYCLE, format_cycles
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import format_members, unit_name
from aifs_ensemble.delivery.standing import undelivered
from aifs_ensemble.forecast import settings as forecast_settings
from aifs_ensemble.planning.machines import load_machines, machines_of
from aifs_ensemble.planning.regions import regions_of_run
from aifs_ensemble.workflow.coiled.spending import spending_line
from aifs_ensemble.workflow.context import current
from aifs_ensemble.workflow.members_here import FORECAST_RULE
from aifs_ensemble.workflow.routing import SPOT


def work_of(config: Config) -> dict[str, Any]:
    """Return what tells a job from one of the same targets in another run.

    Targets name the member and no more; in a run of several cycles the cycle, and of several models the model, too.
    """
    models = config.of_each_model
    several = len(config.units) > 1
    return {
        "destination": (config.destination or "").rstrip("/"),
        "cycle": EACH_CYCLE if several else config.cycle,
        "model": ",".join(config.models),
        "checkpoint": config.checkpoint if len(models) == 1 else [one.checkpoint for one in models],
        "lead_hours": config.leads[-1],
        "settings": ",".join(map(forecast_settings.settings_digest, models)),
        "layout": [getattr(config.delivery, key) for key in ("layout", "block_hours")],
    }


def forecasts_of(targets: Sequence[str]) -> dict[tuple[str, int], str]:
    """Return the targets that forecast a member, by unit (empty in a run of one) and member."""
    found = {}
    for target in targets:
        rule, _, wildcards = target.partition(":")
        named = dict(item.split("=", 1) for item in wildcards.split(",") if "=" in item)
        if rule == FORECAST_RULE and "member" in named:
            found[unit_name(named.get("model", ""), named.get("cycle", "")), int(named["member"])] = target
    return found


def cycles_of(targets: Sequence[str]) -> set[str]:
    """Return the cycles that targets name; none in a run of one cycle and model."""
    return set(re.findall(r"[:,]cycle=([^, ]+)", " ".join(targets)))


def is_of(record: JobRecord, config: Config) -> bool:
    """Tell whether a record is of the work of a configuration, and of one of its cycles."""
    named = cycles_of(record.targets)
    return record.work == work_of(config) and (not named or bool(named & {*config.cycles}))


def spending_of(config: Config) -> str | None:
    """Return what is rented on Coiled for the ensemble from this folder, None when nothing was."""
    records = [record for record in Journal().all() if is_of(record, config)]
    return spending_line(records, config, machines_of(config))


class EnsembleHooks(Hooks):
    """The configuration's key `cloud` as the executor's settings, and a member's manifest as its judge."""

    def __init__(self, settings: ExecutorSettings):
        super().__init__(settings)
        self.config = current()
        self.machines = load_machines()
        cloud = self.config.cloud
        settings.workspace = cloud.workspace or settings.workspace
        settings.scheduler_vm_type = cloud.cpu
        settings.max_hours, settings.idle_minutes, settings.wait_hours = (
            cloud.max_hours,
            cloud.idle_minutes,
            cloud.wait_hours,
        )
        settings.secrets = [*(settings.secrets or []), *cloud.secrets]
        settings.tags = [*(settings.tags or []), *(f"{key}={value}" for key, value in cloud.labels.items())]

    def machine(self, resources: Mapping[str, Any]) -> dict[str, Any]:
        """Return the machine of a rule's class ``gpu`` or ``cpu``; ConfigError for an unknown type or no image."""
        kind, cloud = str(resources.get("machine", "cpu")), self.config.cloud
        if model := str(resources.get("model") or ""):  # of several
            cloud = self.config.of_model(model).cloud
        image = getattr(cloud, f"{kind}_image")
        if not image:
            raise ConfigError(
                f"config: cloud.{kind}_image is missing: a container image (with a / in its name) or a Coiled "
                "software environment made by `aifs-ensemble environments`"
            )
        vm_type = self.machines.machine(getattr(cloud, kind)).name
        return {"vm_type": vm_type, "image": image, "spot": resources.get("provisioning") == SPOT}

    def work(self) -> dict[str, Any]:
        """Return what decides the content of a member."""
        return work_of(self.config)

    def regions(self) -> Sequence[str]:
        """Return the regions in which to ask, those of the bucket first; the bucket is asked where it is."""
        return regions_of_run(self.config)

    def title(self, targets: Sequence[str]) -> str:
        """Return what a person calls the job, e.g. ``forecast_member 1-7``, with each unit where there are several."""
        by_cycle: dict[str, list[int]] = {}
        for cycle, member in sorted(forecasts_of(targets)):
            by_cycle.setdefault(cycle, []).append(member)
        named = [f"{cycle} {format_members(members)}".strip() for cycle, members in by_cycle.items()]
        named = named or sorted(cycles_of(targets))
        return " ".join([super().title(targets), *filter(None, [", ".join(named)])])

    def tags(self, targets: Sequence[str]) -> dict[str, str]:
        """Return by what machines are found in Coiled's dashboard."""
        cycles = sorted(cycles_of(targets)) or self.config.cycles
        return {"cycle": format_cycles(cycles), "rule": super().title(targets), "workflow": "aifs-ensemble"}

    def environment(self, job_id: str) -> dict[str, str]:
        """Return the job's id, which a member's status names."""
        return {environment.JOB: job_id}

    def judge(self, targets: Sequence[str]) -> dict[str, str]:
        """Return why members are not delivered. An exit code is what a shell says; the manifest is the forecast's.

        Raises StorageError when the destination does not answer.
        """
        forecasts = forecasts_of(targets)
        wrong: dict[tuple[str, int], str] = {}
        for cycle in {cycle for cycle, _ in forecasts}:
            config = self.config.of_unit(cycle) if cycle else self.config
            members = sorted(member for of, member in forecasts if of == cycle)
            wrong |= {(cycle, member): why for member, why in undelivered(config, members).items()}
        return {target: wrong.get(forecast, "") for forecast, target in forecasts.items()}

    def rented(self, records: Sequence[JobRecord]) -> str | None:
        """Return what is rented now, its price and what was spent."""
        return spending_line(records, self.config, machines_of(self.config))
