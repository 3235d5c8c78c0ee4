"""Two models of one run side by side: which jobs compare them, from what, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import EACH_CYCLE
from aifs_ensemble.common.errors import ConfigError, StorageError, VerificationError
from aifs_ensemble.common.names import benchmark_file, log_file
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.products.compare.files import comparison_files, comparison_key, stamp_key
from aifs_ensemble.products.compare.stamp import PairStamp
from aifs_ensemble.products.evaluation.due import evaluation_due
from aifs_ensemble.workflow import snakemake_internals as internals

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
        self.wanted = len(config.models) > 1 and config.products.compare.enabled

    def of(self, cycle: str) -> list[CycleRun]:
        """Return the units of a cycle, in the order of the models."""
        return [self._cycles[f"{model}/{cycle}"] for model in self.config.models]

    def path(self, key: str) -> str:
        """Return where a job leaves a file of a comparison, as `Paths.delivered` does for those of a model."""
        if self._rented:
            return key
        if self.config.cloud_destination or not self.config.destination:
            return str(self.config.scratch_root / key)
        return f"{self.config.destination}/{key}"

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
        if self._of_others(wildcards.cycle, pair):
            internals.force_job(self._workflow, self.outputs(wildcards.cycle)[0])
        return []

    def _of_others(self, cycle: str, pair: Sequence[CycleRun]) -> bool:
        data = self._stamp(cycle)
        if data is None:
            return False
        try:
            stamp = PairStamp.read(data, stamp_key(cycle))
        except VerificationError:
            return True
        return stamp.differs({one.config.model.name: (one.used, one.delivered.digests) for one in pair}) is not None

    def _stamp(self, cycle: str) -> bytes | None:
        path = Path(self.path(stamp_key(cycle)))
        if not self._rented:
            return path.read_bytes() if path.is_file() else None
        with suppress(StorageError):
            storage = open_destination(self.config, within=20.0)
            if storage.stat(stamp_key(cycle)) is not None:
                return storage.get_bytes(stamp_key(cycle))
        return None
