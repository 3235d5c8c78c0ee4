"""Where the rules find and leave files: of one unit of a run, or with wildcards (``{cycle}``, ``{model}``) of any.

Names are those of `common.names`, with the wildcard ``{member}`` as the member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import benchmark_file, log_file, report_folder, unit_name

EACH = "{member}"
# folders of objects at the destination that jobs deliver themselves, checksums and all
_DELIVERED_BY_JOBS = ("forecasts", "products/maps", "products/meteograms")


@dataclass(frozen=True)
class Paths:
    """Where rules find and leave files.

    With `rented` machines every relative path is an object under the destination: paths are keys. On one machine they
    are files on scratch or in the destination's folder. The configuration is that of a unit, or of `units.each_unit`.
    Keys are relative to the destination of the run: with several models, the model's folder comes first.
    """

    config: Config
    rented: bool

    def between_machines(self, key: str) -> str:
        """Return a file that one job leaves for another: on scratch, or an object where machines share no files."""
        return self.of_run(key) if self.rented else f"{self.config.scratch_root}/{key}"

    def of_run(self, key: str) -> str:
        """Return a key below the destination of the run for one below that of its model."""
        return unit_name(self.config.model_folder, key)

    def delivered(self, key: str) -> str:
        """Return a file at the destination; of a bucket that this machine syncs to, the copy on scratch."""
        if self.rented:
            return self.of_run(key)
        return delivered_here(self.config, key, self.config.scratch.copy)

    def receipt(self, member: str) -> str:
        """Return what says how a member is delivered: at the destination, or the copy on scratch of a bucket's."""
        if self.config.cloud_destination and not self.rented:
            return str(self.config.scratch.receipt(member))
        return self.delivered(self.config.objects.receipt(member))

    def manifest(self) -> str:
        """Return the manifest of each member at the destination."""
        return self.delivered(self.config.objects.manifest(EACH))

    def forecast_outputs(self) -> list[str]:
        """Return what each member's forecast declares, its manifest first.

        On rented machines, its leads are objects that the job delivers itself; a job that streams to a folder declares
        none, since Snakemake would remove what is delivered before it runs.
        """
        leads = self.config.leads if self.config.declare_leads else ()
        if self.config.delivery.streaming:
            if not self.rented or self.config.delivery.layout == "blocks":
                leads = ()
            return [self.manifest(), *(self.of_run(self.config.objects.lead(EACH, lead)) for lead in leads)]
        scratch = self.config.scratch
        return [str(scratch.manifest(EACH)), *(str(scratch.lead(EACH, lead)) for lead in leads)]

    def sync_outputs(self) -> list[str]:
        """Return what the delivery of each member declares, its manifest first."""
        declared = self.config.declare_leads and not self.config.cloud_destination
        leads = self.config.leads if declared and self.config.delivery.layout != "blocks" else ()
        return [self.manifest(), *(self.delivered(self.config.objects.lead(EACH, lead)) for lead in leads)]

    def by_job(self, path: str) -> bool:
        """Tell whether a path is an object that jobs deliver themselves: Snakemake only looks whether it is there."""
        return self.rented and path.startswith(self._by_jobs)

    @cached_property
    def _by_jobs(self) -> tuple[str, ...]:
        return tuple(self.of_run(self.config.objects.folder(part)) for part in _DELIVERED_BY_JOBS)

    def member_files(self) -> list[str]:
        """Return what says that each member is delivered; where leads are declared, a missing one is missed."""
        return self.forecast_outputs() if self.config.delivery.streaming else self.sync_outputs()

    def log(self, rule: str, member: str = "") -> str:
        """Return the log of a rule's job."""
        return log_file(self.config.cycle, rule, member, self.config.model_folder)

    def report(self) -> str:
        """Return the folder of the report's pages, on this machine whatever the profile."""
        return report_folder(self.config.cycle, self.config.model_folder)

    def benchmark(self, rule: str, member: str = "") -> str:
        """Return the table of what a rule's job took."""
        if self.rented:  # an object below the destination, where a run of the model alone leaves it
            return self.of_run(benchmark_file(self.config.cycle, rule, member))
        return benchmark_file(self.config.cycle, rule, member, self.config.model_folder)


def delivered_here(config: Config, key: str, copy: Callable[[str], Path]) -> str:
    """Return a file in the destination's folder; of a bucket that this machine syncs to, its `copy` on scratch."""
    if config.cloud_destination or not config.destination:
        return str(copy(key))
    return f"{config.destination}/{key}"
