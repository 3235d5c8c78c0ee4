"""Which machine a rule runs on: from its class (``machine="gpu"`` or ``"cpu"``) to what a provider is asked for.

The Snakefile calls `route_rules` after its rules are read. Rules stay free of providers, and everything
follows from the configuration and machines.yaml.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.delivery.scratch import LAYER_ON_RENTED_DISK
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow.coiled.at_exit import stop_machines_at_exit
from aifs_ensemble.workflow.context import publish, use_this_library
from aifs_ensemble.workflow.googlebatch import resources
from aifs_ensemble.workflow.members_here import MembersHere

STANDARD, SPOT = "standard", "spot"


def provisioning(config: Config, attempt: int) -> str:
    """Return ``spot`` or ``standard`` for an attempt, the first being 1.

    Preemptible first, if at all; after ``cloud.spot_attempts`` attempts that ended early, on demand.
    """
    cloud = config["cloud"]
    return SPOT if cloud["spot"] and attempt <= cloud["spot_attempts"] else STANDARD


def provider(workflow: Any) -> str:
    """Return ``coiled`` or ``googlebatch``, which the profiles set as default resource `provider`, or ``local``."""
    resource = workflow.resource_settings._parsed_default_resources.get("provider")
    # an absent resource comes as None or, from 9.27 on, as one without a value
    raw = getattr(resource, "raw", None)
    return "local" if raw is None else str(raw).strip("'\"")


def route_rules(workflow: Any, config: Config, machines: Machines) -> None:
    """Add to every rule of a machine class the resources that its provider needs; nothing in the local profile."""
    name = provider(workflow)
    use_this_library()
    if name == "local":
        return
    publish(config)
    if name == "coiled" and not workflow.remote_exec:
        stop_machines_at_exit()
    if name == "googlebatch" and workflow.remote_exec:
        # its containers mount no disk: the boot disk, which holds their layer, was rented with scratch's size
        os.environ[LAYER_ON_RENTED_DISK] = "1"
    if name == "googlebatch" and workflow.is_main_process:
        coordinator.name_this_process()
    _limit_gpu_memory(workflow, config, machines)
    from snakemake.resources import Resources

    for rule in workflow.rules:
        machine = _machine_class(rule)
        if machine is None:
            continue
        added: dict[str, Any] = {"provisioning": _by_attempt(workflow, config)}
        if name == "googlebatch":
            added |= resources.resources(config, machines, machine, on_machine=workflow.remote_exec)
        rule.resources.update(Resources.from_mapping(added))


def _machine_class(rule: Any) -> str | None:
    # a missing resource reads as one whose value is None
    machine = rule.resources.get("machine")
    return None if machine is None or machine.value is None else str(machine.value)


def settle_googlebatch(workflow: Any, config: Config) -> None:
    """Set what the googlebatch plugin reads from Snakemake's settings and not from a rule's resources; for `onstart`.

    Snakemake makes the settings of a run after the Snakefile was read. They are what ``--googlebatch-project`` would
    say (for the logs of jobs), and with ``cloud.spot`` ``--preemptible-rules`` and ``--preemptible-retries``, unless
    these were given.
    """
    from snakemake.settings.types import PreemptibleRules

    workflow.executor_settings.project = config["cloud"]["project"] or workflow.executor_settings.project
    settings = workflow.remote_execution_settings
    given = settings.preemptible_rules.all or settings.preemptible_rules.rules
    if resources.asks_for_spot(config) and not given:
        rules = frozenset(rule.name for rule in workflow.rules if _machine_class(rule) is not None)
        settings.preemptible_rules = PreemptibleRules(rules=rules)
    if settings.preemptible_retries is None:
        # Snakemake compares this number with attempts, and has no default
        settings.preemptible_retries = workflow.execution_settings.retries


def _by_attempt(workflow: Any, config: Config) -> Callable[..., str]:
    # text rather than a number: Snakemake adds up the numbers of a group's jobs, and compares texts
    def resource(wildcards: Any, attempt: int) -> str:
        if workflow.remote_exec:
            # a rented machine's Snakemake calls no hook, and knows its jobs only now, before it starts them
            MembersHere.of(workflow, config).tell_jobs()
        return provisioning(config, attempt)

    return resource


def _limit_gpu_memory(workflow: Any, config: Config, machines: Machines) -> None:
    """Let as many members of a group run at once as fit in the memory of the machine's cards."""
    gpu = machines.for_class("gpu", config).gpu
    if gpu is not None and "gpu_mem_mb" not in workflow.global_resources:
        # what is left on each of several cards is no room for one more member
        wanted = config["forecast"]["gpu_mem_mb"] or gpu.memory_mb
        room = gpu.memory_mb if gpu.count == 1 else gpu.count * (gpu.memory_mb // wanted) * wanted
        workflow.register_resource("gpu_mem_mb", room)
