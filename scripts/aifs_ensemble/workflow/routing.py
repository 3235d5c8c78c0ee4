"""Which machine a rule runs on: from its class (``machine="gpu"`` or ``"cpu"``) to what a provider is asked for.

The Snakefile calls `route_rules` after its rules are read. Rules stay free of providers, and everything
follows from the configuration and machines.yaml.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.units import model_of
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.context import publish, use_this_library
from aifs_ensemble.workflow.googlebatch import resources
from aifs_ensemble.workflow.members_here import MembersHere

STANDARD, SPOT = "standard", "spot"


def provisioning(config: Config, attempt: int) -> str:
    """Return ``spot`` or ``standard`` for an attempt, the first being 1.

    Preemptible first, if at all; after ``cloud.spot_attempts`` attempts that ended early, on demand.
    """
    cloud = config.cloud
    return SPOT if cloud.spot and attempt <= cloud.spot_attempts else STANDARD


def provider(workflow: Any) -> str:
    """Return ``coiled`` or ``googlebatch``, which the profiles set as default resource `provider`, or ``local``."""
    return internals.default_resource(workflow, "provider") or "local"


def route_rules(workflow: Any, config: Config, machines: Machines) -> None:
    """Add to every rule of a machine class the resources that its provider needs; nothing in the local profile."""
    name, rented = provider(workflow), internals.is_remote_job(workflow)
    use_this_library()
    if name == "local":
        return
    publish(config)
    if name == "googlebatch" and rented:
        # its containers mount no disk: the boot disk, which holds their layer, was rented with scratch's size
        os.environ[environment.LAYER_ON_RENTED_DISK] = "1"
    if name == "googlebatch" and internals.is_coordinator(workflow):
        coordinator.name_this_process()
    _limit_gpu_memory(workflow, config, machines)
    for rule in workflow.rules:
        machine = internals.rule_resource(rule, "machine")
        if machine is None:
            continue
        added: dict[str, Any] = {"provisioning": _by_attempt(workflow, config)}
        if len(config.models) > 1 and machine == "gpu":
            added["model"] = _model  # whose software the machine is to have
        if name == "googlebatch":
            added |= resources.resources(config, machines, machine, on_machine=rented)
        internals.add_resources(rule, added)


def settle_googlebatch(workflow: Any, config: Config) -> None:
    """Set what the googlebatch plugin reads from Snakemake's settings and not from a rule's resources; for `onstart`.

    Snakemake makes the settings of a run after the Snakefile was read. They are what ``--googlebatch-project`` would
    say (for the logs of jobs), and with ``cloud.spot`` ``--preemptible-rules`` and ``--preemptible-retries``, unless
    these were given.
    """
    internals.set_executor_project(workflow, config.cloud.project)
    if resources.asks_for_spot(config):
        internals.make_preemptible(
            workflow, (rule.name for rule in workflow.rules if internals.rule_resource(rule, "machine") is not None)
        )
    internals.set_preemptible_retries(workflow)


def _by_attempt(workflow: Any, config: Config) -> Callable[..., str]:
    # text rather than a number: Snakemake adds up the numbers of a group's jobs, and compares texts
    def resource(wildcards: Any, attempt: int) -> str:
        if internals.is_remote_job(workflow):
            # a rented machine's Snakemake calls no hook, and knows its jobs only now, before it starts them
            MembersHere.of(workflow, config).tell_jobs()
            # a member that fails on a machine, perhaps another cycle's, is no reason to leave out those that wait
            internals.keep_going(workflow)
        return provisioning(config, attempt)

    return resource


def _model(wildcards: Any) -> str:
    return model_of(wildcards)


def _limit_gpu_memory(workflow: Any, config: Config, machines: Machines) -> None:
    """Let as many members of a group run at once as fit in the memory of the machine's cards."""
    gpu = machines.for_class("gpu", config).gpu
    if gpu is not None:
        # what is left on each of several cards is no room for one more member
        wanted = max(one.forecast.gpu_mem_mb for one in config.of_each_model) or gpu.memory_mb
        room = gpu.memory_mb if gpu.count == 1 else gpu.count * (gpu.memory_mb // wanted) * wanted
        internals.limit_resource(workflow, "gpu_mem_mb", room)
