"""The forecast of one member: from an initial state to one GRIB file per lead, killed and resumed as often as it is.

`run_forecast` looks into the member's work folder first. What is whole there stays; what is missing is computed
from the nearest restart state before it; a finished member returns at once, without importing torch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.common.errors import CheckpointError, DiskFullError, PassChangedError
from aifs_ensemble.common.files import digest
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.common.observers import Observer, Observers
from aifs_ensemble.common.overlays import use_packages
from aifs_ensemble.common.this_machine import machine, versions
from aifs_ensemble.fields.state import state_digest
from aifs_ensemble.forecast.early import begin_start_up
from aifs_ensemble.forecast.progress import ProgressLog
from aifs_ensemble.forecast.publish import member_manifest, publish
from aifs_ensemble.forecast.request import ForecastRequest, member_settings, read_initial
from aifs_ensemble.forecast.restarts import RestartStore
from aifs_ensemble.forecast.timings import Timings
from aifs_ensemble.forecast.work_folder import KnownFile, WorkFolder
from aifs_ensemble.model.checkpoint.digest import checkpoint_digest
from aifs_ensemble.model.forms import unknown_version


def run_forecast(request: ForecastRequest, observers: Sequence[Observer] = ()) -> MemberManifest:
    """Bring one member to its end and return its manifest.

    Raises
    ------
    InputError, CheckpointError, GpuMemoryError, DiskFullError, NotFiniteError, EncodingError
        One line each, with an exit code of its own; what was made before stays and counts.
    StoppedError
        The process received SIGTERM or Ctrl-C; the lead under way was finished.
    WorkflowError
        Another process works on the member.

    An exception of an observer stops the member in the same way.
    """
    everyone = Observers([*([ProgressLog()] if request.progress else []), *observers])
    try:
        work = WorkFolder(request.work, request.cycle, request.member)
        with _explained(request), work.lock():
            manifest = _bring_to_end(request, work, everyone)
        everyone.tell(Observer.finished, manifest)
    except BaseException as error:
        everyone.tell_failed(error)
        raise
    return manifest


@contextmanager
def _explained(request: ForecastRequest) -> Iterator[None]:
    """Turn a full disk, wherever it shows, into the error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = error.filename or request.work
            raise DiskFullError(f"{place}: no space left on device; finished leads stay, run again") from error
        raise


def _bring_to_end(request: ForecastRequest, work: WorkFolder, observers: Observers) -> MemberManifest:
    timings = Timings()
    with timings("total"):
        begin_start_up(request, work)
        request, settings, files, whole = _take_stock(request, work, timings)
        missing = [lead for lead in request.leads if lead not in whole]
        observers.tell(Observer.started, request.member, len(request.leads), len(whole))
        store = _restarts(request, work, settings)
        if missing:
            use_packages(request.model)
        attempt = work.begin_attempt({"began": _now(), "machine": machine(), "versions": versions()}) if missing else 0
        if missing:
            with _attempted(work, attempt):
                with timings("import"):
                    from aifs_ensemble.forecast import engine
                note = partial(work.record_attempt, attempt)
                reason = ""
                try:
                    whole |= engine.compute(engine.Computation(request, work, store, missing, observers, timings, note))
                except PassChangedError as changed:
                    if not work.empty:
                        raise
                    reason = changed.reason
                if reason:  # once more, and no error in hand whose traceback would keep the card's memory
                    request = replace(request, own_pass=reason)
                    settings = member_settings(request, files, settings["device"])
                    work.record_settings(settings, files)
                    store = _restarts(request, work, settings)
                    whole |= engine.compute(engine.Computation(request, work, store, missing, observers, timings, note))
    if attempt:
        work.record_attempt(attempt, {"ended": _now(), "outcome": "finished", "timings": timings.rounded})
    store.prune(request.restarts_kept, None)
    records = [whole[lead] for lead in request.leads]
    manifest = member_manifest(request, settings, files, records, work.attempts())
    publish(request, work, records, manifest)
    return manifest


def _restarts(request: ForecastRequest, work: WorkFolder, settings: Mapping[str, Any]) -> RestartStore:
    of = (request.model, request.cycle, request.member, digest(settings), request.sums, bool(request.daily))
    return RestartStore(work.restarts, *of)


def _with_pass(request: ForecastRequest, work: WorkFolder, device: str) -> ForecastRequest:
    """Return the request with the forward pass that a member keeps to once it was made with it, or had to take it."""
    settings = request.settings
    turned_off = settings.not_accelerated(device)
    planned = unknown_version(request.model.anemoi_models) if request.accelerate else "forecast.accelerate is false"
    settings.refuse(turned_off or planned)
    if turned_off or settings.precision == FLOAT8:  # what kept an earlier attempt from float8 may have passed
        return request
    own = planned or work.gave_up_acceleration()
    if not own and (work.recorded_settings() or {}).get("pass") == "own":
        own = "the member began with it"
    return replace(request, own_pass=own)


@contextmanager
def _attempted(work: WorkFolder, attempt: int) -> Iterator[None]:
    """Record the error with which an attempt ends."""
    try:
        yield
    except BaseException as error:
        work.record_attempt(attempt, {"ended": _now(), "outcome": f"{type(error).__name__}: {error}"[:500]})
        raise


def _take_stock(
    request: ForecastRequest, work: WorkFolder, timings: Timings
) -> tuple[ForecastRequest, dict[str, Any], dict[str, KnownFile], dict[int, LeadRecord]]:
    """Return request, settings, input files and the leads that are whole already; clear away everything else.

    The request that is returned knows which forward pass the member must take.
    """
    known = work.known_files()
    if not request.checkpoint.exists() and "checkpoint" not in known:
        raise CheckpointError(f"{request.checkpoint}: no such checkpoint, expected that of {request.model.name}")
    with timings("digests"), ThreadPoolExecutor(2) as both:
        state = both.submit(KnownFile.of, request.initial, known.get("initial_state"), state_digest)
        # not by what this member remembers: the record beside the file tells all members of it
        files = {"checkpoint": _checkpoint(request, known.get("checkpoint")), "initial_state": state.result()}
    device = request.device
    if device == "auto":  # a finished member is found without asking torch
        device = (work.recorded_settings() or {}).get("device") or _device_here(timings)
    request = _with_pass(request, work, device)
    settings = member_settings(request, files, device)
    if work.would_clear(settings):
        _check_it_can_be_made(request)
    work.adopt(settings, files)
    with timings("verify"):
        whole = work.finished(request.leads, local=request.local_leads)
    if request.device == "auto" and len(whole) < len(request.leads) and _device_here(timings) != device:
        request = _with_pass(request, work, _device_here(timings))
        settings = member_settings(request, files, _device_here(timings))
        _check_it_can_be_made(request)
        work.adopt(settings, files)
        whole = {}
    work.remove_leftovers(work.journal.read().values())
    return request, settings, files, whole


def _checkpoint(request: ForecastRequest, known: Mapping[str, Any] | None) -> KnownFile:
    there = request.checkpoint.exists()
    return KnownFile.of(request.checkpoint, None if there else known, checkpoint_digest)


def _check_it_can_be_made(request: ForecastRequest) -> None:
    """Raise what a forecast under these settings would, as far as it shows before computing.

    What an earlier setting or input made is cleared away only for one that can be followed.
    """
    from aifs_ensemble.model.checkpoint.describe import check_description, describe_checkpoint
    from aifs_ensemble.model.checkpoint.load import check_digest
    from aifs_ensemble.model.stepper import resolve_device

    resolve_device(request.device)
    check_description(describe_checkpoint(request.checkpoint), request.model)
    if not request.trust:
        check_digest(request.checkpoint, request.model)
    read_initial(request)


def _device_here(timings: Timings) -> str:
    with timings("import"):
        from aifs_ensemble.model.stepper import resolve_device

    return resolve_device("auto").type


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
