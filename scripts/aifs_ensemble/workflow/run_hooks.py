"""What a run does around its jobs: it has its cycle for itself, says which were missed, and tells how it ended."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import suppress

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycle_words import CycleWord
from aifs_ensemble.common.errors import OtherRunError, WorkflowError
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.cycles_there import missed
from aifs_ensemble.delivery.lease import RunLease
from aifs_ensemble.workflow.notify import check_notify, notice, notify

# they leave nothing at the destination: any number of runs may do them, beside one that writes
READ_ONLY = frozenset({"all", "forecasts", "products", "evaluation", "plan", "report", "verify"})
_REPORTS = "report_"
_LOOK_SECONDS = 60.0
Say = Callable[[str], None]


def writes(rule: str) -> bool:
    """Tell whether jobs of a rule leave something at the destination."""
    return rule not in READ_ONLY and not rule.startswith(_REPORTS)


class RunHooks:
    """The begin and the end of a run on the coordinator; `say` prints lines."""

    def __init__(self, config: Config, say: Say):
        self._config, self._say = config, say
        self._began = clock.now()
        self._leases: list[RunLease] = []
        self._told: tuple[str, ...] = ()

    def begin(self, word: CycleWord | None, written: Sequence[str], start: Callable[[], None]) -> None:
        """Call what checks whether the run can be, and have the cycles that it writes for this run alone.

        A run that is refused tells those whom ``notify`` names, but for one that is in another run's way.
        """
        check_notify(self._config)
        try:
            start()
            if written and self._config.destination:
                storage = open_destination(self._config, within=_LOOK_SECONDS)
                self._told = self._missed(word, storage)
                self._leases = [self._lease(self._config.of_unit(unit), storage) for unit in written]
                atexit.register(self._give_back)
                for lease in self._leases:
                    lease.take()
        except OtherRunError:
            raise
        except WorkflowError as error:
            self.refused(error)
            raise

    @staticmethod
    def _lease(config: Config, storage: Storage) -> RunLease:
        """Return the lease of a unit: with several models, where a run of the model alone takes it."""
        return RunLease(config, open_destination(config, within=_LOOK_SECONDS) if config.model_folder else storage)

    def refused(self, error: WorkflowError) -> None:
        """Tell that the run does not begin."""
        reason = " ".join(str(error).split())
        for config in self._config.of_each_cycle:
            notify(config, notice(config, finished=False, began=self._began, reason=reason), self._say)

    def end(self, *, finished: bool) -> None:
        """Let other runs have the cycles, and tell of each how it ended."""
        self._give_back()
        if not (self._config.notify.command or self._config.notify.url):
            return
        # of several cycles nobody knows whose product failed: each is as its manifest says
        finished = finished or len(self._config.units) > 1
        for config in self._config.of_each_cycle:
            notify(config, notice(config, finished=finished, began=self._began, told=self._told), self._say)

    def _give_back(self) -> None:
        for lease in self._leases:
            lease.give_back()

    def _missed(self, word: CycleWord | None, storage: Storage) -> tuple[str, ...]:
        """Say which earlier cycles of a word were missed, as far as the destination answers."""
        lines: tuple[str, ...] = ()
        if word is None:
            return lines
        with suppress(WorkflowError):
            for one in self._config.of_each_model:
                there = open_destination(one, within=_LOOK_SECONDS) if one.model_folder else storage
                told = missed(word, one.cycle_time, there)
                lines += tuple(f"{one.model.name}: {line}" if one.model_folder else line for line in told)
        for line in lines:
            self._say(line)
        return lines
