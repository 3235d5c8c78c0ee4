"""How many members share this machine, which a job cannot see: the process that starts the jobs tells them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.units import model_of
from aifs_ensemble.workflow import snakemake_internals as internals

FORECAST_RULE = "forecast_member"
_TOLD = re.compile(r"([0-9]+) ([0-9]+)((?: [A-Za-z][^ ]*)*)")


@dataclass(frozen=True)
class MembersHere:
    """Members that this machine makes in all, and how many of them run at once; a job on its own is one of one.

    In a run of several models `models` are those whose members it makes, as many of each.
    """

    members: int = 1
    at_once: int = 1
    models: tuple[str, ...] = ()

    @classmethod
    def of(cls, workflow: Any, config: Config) -> MembersHere:
        """Return what Snakemake does on this machine: the ensemble, or on a rented machine the job's group.

        As many members run at once as encoders go into the processors, and gpu_mem_mb into the cards.
        """
        members = len(config.members) * len(config.units)
        models = config.models if len(config.models) > 1 else ()
        if internals.is_remote_job(workflow):
            jobs = internals.jobs_asked_for(workflow, FORECAST_RULE)
            members = len(jobs)
            asked = set(map(model_of, jobs))
            models = tuple(name for name in models if name in asked) or models
        at_once = internals.cores(workflow) // config.forecast.encoders
        # of two models, as many run at once as of the larger
        wanted = max(
            one.forecast.gpu_mem_mb for one in config.of_each_model if one.model.name in (models or config.models)
        )
        memory = internals.resource_limit(workflow, "gpu_mem_mb")
        if wanted and memory:
            at_once = min(at_once, memory // wanted)
        return cls(max(members, 1), max(min(at_once, members), 1), models)

    def encoders(self, config: Config, cards: int) -> int:
        """Return the encoder processes of a member here: the one that computes has the processors of those that wait.

        A member that waits for its turn on one of the `cards` needs no processor, and encodes nothing. Bytes do not
        depend on the number. Without a card members compute at once, unless the configuration says otherwise.
        """
        asked, section = config.forecast.encoders, config.forecast
        if section.device == "cpu" or not cards:
            cards, computing = 1, section.compute_at_once or self.at_once
        else:
            computing = section.compute_at_once or 1
        shared = asked * self.at_once // (computing * cards)
        return max(asked, min(shared, len(os.sched_getaffinity(0))))

    def tell_jobs(self) -> None:
        """Leave the numbers, and names of models, to the jobs that this process starts."""
        os.environ[environment.MEMBERS_HERE] = " ".join([str(self.members), str(self.at_once), *self.models])

    @classmethod
    def from_environment(cls) -> MembersHere:
        """Return what was left to this job."""
        text = os.environ.get(environment.MEMBERS_HERE, "1 1")
        found = _TOLD.fullmatch(text)
        if found is None:
            raise ConfigError(f"{environment.MEMBERS_HERE}: {text!r}, expected two numbers, and names of models if any")
        return cls(int(found[1]), int(found[2]), tuple(found[3].split()))
