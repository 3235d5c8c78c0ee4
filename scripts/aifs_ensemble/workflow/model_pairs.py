"""Two models of one run side by side: which jobs compare them, from what, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import EACH_CYCLE
from aifs_ensemble.common.errors import ConfigError, StorageError
from aifs_ensemble.common.names import benchmark_file, log_file, unit_name
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.products.compare.files import comparison_files, comparison_key, is_compared, stamp_key
from aifs_ensemble.products.compare.stamp import PairStamp
from aifs_ensemble.products.evaluation.due import evaluation_due
from aifs_ensemble.products.stamps import why_again
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.paths import delivered_here

if TYPE_CHECKING:
    from aifs_ensemble.workflow.cycle_run import CycleRun


def check_alike(each: Sequence[CycleRun]) -> None:
    """Raise ConfigError where products of the models would have other names: their rules are the same.

    `each` are the units of a run.
    """
    by_model: dict[str, dict[str, list[str]]] = {}
    for one in each:
        by_model.setdefault(one.config.model_folder, one.jobs_of_ensemble if one.config.model_folder else {})
    (first, wanted), *others = by_model.items()
    for name, jobs in others:
        for job in wanted:
            if set(wanted[job]) != set(jobs.get(job, ())):
                raise ConfigError(
                    f"config: model: {job} of {first} makes other files than of {name}, expected the same: "
                    "run each alone, with a destination and a scratch of its own"
                )


class Pairs:
    """The comparisons of a run: one of each cycle, where `model` names two models.

    Attributes
    ----------
    config : that of the run
    wanted : whether the models are compared
    """

    def __init__(self, workflow: Any, config: Config, cycles: dict[str, CycleRun], *, rented: bool, blind: bool):
        self._workflow, self._cycles = workflow, cycles
        self.config, self._rented, self._blind = config, rented, blind
        self.wanted = is_compared(config)

    def of(self, cycle: str) -> list[CycleRun]:
        """Return the units of a cycle, in the order of the models."""
        return [self._cycles[unit_name(model, cycle)] for model in self.config.models]

    def path(self, key: str) -> str:
        """Return where a job leaves a file of a comparison, as `Paths.delivered` does for those of a model."""
        return key if self._rented else delivered_here(self.config, key, self.config.scratch_root.joinpath)

    def outputs(self, cycle: str = EACH_CYCLE) -> list[str]:
        """Return the files of a comparison, the page first."""
        return [self.path(comparison_key(cycle, name)) for name in comparison_files(self.config)]

    def log(self) -> str:
        """Return the log of a comparison."""
        return log_file(EACH_CYCLE, "compare")

    def benchmark(self) -> str:
        """Return the table of what a comparison took."""
        return benchmark_file(EACH_CYCLE, "compare")

    def inputs(self, wildcards: Any) -> list[Any]:
        """Return what a comparison is made from: the members of both, and their scores where there may be some."""
        found: list[Any] = []
        for one in self.of(wildcards.cycle):
            found += one.manifests()
            if one.config.products.evaluation.enabled and evaluation_due(one.config):
                found += one.in_place(one.evaluation()[:1])
        return found

    def members(self, wildcards: Any) -> list[tuple[int, ...]]:
        """Return the members used of each model."""
        return [one.used for one in self.of(wildcards.cycle)]

    def again(self, wildcards: Any) -> list[str]:
        """Return nothing, and have the comparison made again that is of other members; see `Run.of_other_members`."""
        pair = self.of(wildcards.cycle)
        if self._blind or not internals.is_coordinator(self._workflow):
            return []
        key = stamp_key(wildcards.cycle)

        def differs(data: bytes) -> str | None:
            asked = {one.config.model.name: (one.used, one.delivered.digests) for one in pair}
            return PairStamp.read(data, key).differs(asked)

        if why_again(self._content(key), differs):
            internals.force_job(self._workflow, self.outputs(wildcards.cycle)[0])
        return []

    def _content(self, key: str) -> bytes | None:
        path = Path(self.path(key))
        if not self._rented:
            return path.read_bytes() if path.is_file() else None
        with suppress(StorageError):  # one that is missing, too
            return open_destination(self.config, within=20.0).get_bytes(key)
        return None
