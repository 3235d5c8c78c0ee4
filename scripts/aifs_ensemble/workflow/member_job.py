"""The forecast job as the workflow runs it: the forecast with everything that listens to it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import link
from aifs_ensemble.common.gpu import one_card, visible_cards
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.observers import Observer, Observers
from aifs_ensemble.delivery.metrics import MetricsDelivery
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.status import StatusObserver
from aifs_ensemble.delivery.streaming import StreamingDelivery
from aifs_ensemble.forecast.metrics import MetricsSampler
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.model.compile_cache import CompileCache
from aifs_ensemble.workflow.members_here import MembersHere
from aifs_ensemble.workflow.preflight import check_room


def run_member(
    config: Config,
    member: int,
    *,
    initial_state: Path,
    checkpoint: Path,
    manifest: Path,
    run: Config | None = None,
) -> MemberManifest:
    """Run one member's forecast, or find that it is done, and leave its manifest at `manifest`.

    `run` is the configuration of the run, whose other units may share the machine.

    Where the configuration says that the job delivers (``delivery.streaming``), what the destination
    already has counts as done, and the manifest appears only once everything is delivered.
    """
    here = MembersHere.from_environment()
    request = ForecastRequest.from_config(config, member, checkpoint=checkpoint, initial=initial_state)
    request = replace(request, encoders=here.encoders(config, len(visible_cards())))
    with ExitStack() as stack:
        if request.device != "cpu":
            stack.enter_context(one_card())
        observers = listeners(config, member)
        try:
            if config.delivery.streaming:
                check_room(run or config, here, own=config)
                restore_member(config, member)
            for observer in observers:
                stack.enter_context(observer)
        except BaseException as error:
            Observers(observers).tell_failed(error)
            raise
        result = run_forecast(request, observers)
    if manifest.resolve() != request.manifest.resolve():
        link(request.manifest, manifest)
    return result


def listeners(config: Config, member: int) -> list[Observer]:
    """Return what listens to a member's forecast; nothing of it works before it is entered."""
    streams = config.delivery.streaming
    found: list[Observer] = [MetricsDelivery(config, member)] if streams else []
    found.append(MetricsSampler(config.scratch.metrics(member), config.leads[-1]))
    if config.forecast.compile:
        found.append(CompileCache.of(config))
    if streams:
        found += [StatusObserver(config, member), StreamingDelivery(config, member)]
    return found
