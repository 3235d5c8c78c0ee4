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
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import format_members
from aifs_ensemble.delivery.standing import undelivered
from aifs_ensemble.forecast import settings as forecast_settings
from aifs_ensemble.planning.machines import load_machines, machines_of
from aifs_ensemble.planning.regions import regions_of_run
from aifs_ensemble.workflow.coiled.spending import spending_line
from aifs_ensemble.workflow.context import current
from aifs_ensemble.workflow.members_here import FORECAST_RULE
from aifs_ensemble.workflow.routing import SPOT


def work_of(config: Config) -> dict[str, Any]:
    """Return what tells a job from one of the same targets in another run: targets name the member and no more."""
    return {
        "destination": (config.destination or "").rstrip("/"),
        "cycle": config.cycle,
        "model": config.model.name,
        "checkpoint": config.checkpoint,
        "lead_hours": config.leads[-1],
        "settings": forecast_settings.settings_digest(config),
        "layout": [getattr(config.delivery, key) for key in ("layout", "block_hours")],
    }


def members_of(targets: Sequence[str]) -> dict[int, str]:
    """Return the targets that forecast a member, by member."""
    found = ((re.search(r"\bmember=(\d+)", target), target) for target in targets)
    return {int(match[1]): target for match, target in found if match and target.startswith(f"{FORECAST_RULE}:")}


def spending_of(config: Config) -> str | None:
    """Return what is rented on Coiled for the ensemble from this folder, None when nothing was."""
    return spending_line(Journal().of_work(work_of(config)), config, machines_of(config))


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
        """Return what a person calls the job, e.g. ``forecast_member 1-7``."""
        members = sorted(members_of(targets))
        return super().title(targets) + (f" {format_members(members)}" if members else "")

    def tags(self, targets: Sequence[str]) -> dict[str, str]:
        """Return by what machines are found in Coiled's dashboard."""
        return {"cycle": self.config.cycle, "rule": super().title(targets), "workflow": "aifs-ensemble"}

    def environment(self, job_id: str) -> dict[str, str]:
        """Return the job's id, which a member's status names."""
        return {environment.JOB: job_id}

    def judge(self, targets: Sequence[str]) -> dict[str, str]:
        """Return why members are not delivered. An exit code is what a shell says; the manifest is the forecast's.

        Raises StorageError when the destination does not answer.
        """
        members = members_of(targets)
        wrong = undelivered(self.config, sorted(members)) if members else {}
        return {target: wrong.get(member, "") for member, target in members.items()}

    def rented(self, records: Sequence[JobRecord]) -> str | None:
        """Return what is rented now, its price and what was spent."""
        return spending_line(records, self.config, machines_of(self.config))
