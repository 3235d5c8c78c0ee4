"""The forecast job as the workflow runs it: the forecast with everything that listens to it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import link
from aifs_ensemble.common.gpu import one_card
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.forecast.metrics import MetricsSampler
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.model.compile_cache import CompileCache

LOG = logging.getLogger(__name__)


def run_member(config: Config, member: int, *, initial_state: Path, checkpoint: Path, manifest: Path) -> MemberManifest:
    """Run one member's forecast, or find that it is done, and leave its manifest at `manifest`.

    Where the configuration says that the job delivers (``delivery.streaming``), what the destination
    already has counts as done, and the manifest appears only once everything is delivered.
    """
    request = ForecastRequest.from_config(config, member, checkpoint=checkpoint, initial=initial_state)
    observers: list[Observer] = []
    with ExitStack() as stack:
        if request.device != "cpu":
            stack.enter_context(one_card())
        if config["delivery"]["streaming"]:
            from aifs_ensemble.delivery.metrics import MetricsDelivery

            stack.enter_context(MetricsDelivery(config, member))
        sampler = MetricsSampler(config.scratch.metrics(member), config.leads[-1])
        observers.append(stack.enter_context(sampler))
        if request.settings.compile:
            observers.append(CompileCache.of(config))
        if config["delivery"]["streaming"]:
            from aifs_ensemble.delivery.restore import restore_member
            from aifs_ensemble.delivery.status import StatusObserver
            from aifs_ensemble.delivery.streaming import StreamingDelivery
            from aifs_ensemble.workflow.preflight import check_room

            check_room(config)
            observers.append(StatusObserver(config, member))
            restore_member(config, member)
            observers.append(StreamingDelivery(config, member))
        result = run_forecast(request, observers)
    if manifest.resolve() != request.manifest.resolve():
        link(request.manifest, manifest)
    return result
