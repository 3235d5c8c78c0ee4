"""The forecast of one member: from an initial state to one GRIB file per lead, killed and resumed as often as it is.

`run_forecast` looks into the member's work folder first. What is whole there stays; what is missing is computed
from the nearest restart state before it; a finished member returns at once, without importing torch.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from aifs_ensemble import noise
from aifs_ensemble.checkpoint.digest import checkpoint_digest
from aifs_ensemble.config import Config
from aifs_ensemble.errors import (
    CheckpointError,
    DiskFullError,
    InputError,
)
from aifs_ensemble.journal import KnownFile, WorkFolder, digest, state_digest
from aifs_ensemble.manifest import LeadRecord, MemberManifest
from aifs_ensemble.models import Model
from aifs_ensemble.names import parse_cycle
from aifs_ensemble.observers import ForecastObserver
from aifs_ensemble.packing import bits_for
from aifs_ensemble.progress import ProgressLog
from aifs_ensemble.publication import link, machine, member_manifest, publish, versions
from aifs_ensemble.restarts import RestartStore, as_utc
from aifs_ensemble.state import State, read_state

__all__ = ["ForecastRequest", "Timings", "Watchers", "link", "read_initial", "run_forecast"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForecastRequest:
    """What to forecast, from what, where to and how. The config's section ``forecast`` explains the settings.

    Attributes
    ----------
    leads : wanted lead times in hours, in order
    work : the member's work folder
    forecasts : folder that receives links to the leads at the end
    manifest : file that receives the manifest at the very end
    local_leads : every lead must be in `forecasts` at the end, even one delivered and removed before
    """

    model: Model
    checkpoint: Path
    initial: Path
    cycle: str
    member: int
    leads: tuple[int, ...]
    work: Path
    forecasts: Path
    manifest: Path
    ensemble_size: int = 50
    device: str = "auto"
    precision: str = "32"
    compile: bool = False
    deterministic: bool = True
    chunks: int = 1
    cuda_graph: bool = False
    encoders: int = 2
    packing: Mapping[str, int] = field(default_factory=dict)
    accumulate: str = "from_start"
    restart_hours: int = 72
    restarts_kept: int = 2
    trust: bool = False
    progress: bool = True
    local_leads: bool = False

    @classmethod
    def from_config(
        cls, config: Config, member: int, *, checkpoint: Path | None = None, initial: Path | None = None
    ) -> ForecastRequest:
        """Return the request for `member` that a configuration makes.

        ConfigError when neither `checkpoint` nor the configuration names a checkpoint file on this machine.
        """
        settings = config["forecast"]
        return cls(
            model=config.model,
            checkpoint=checkpoint or _local_checkpoint(config),
            initial=initial or config.scratch.initial(member),
            cycle=config.cycle,
            member=member,
            leads=config.leads,
            work=config.scratch.work(member),
            forecasts=config.scratch.forecasts(),
            manifest=config.scratch.manifest(member),
            ensemble_size=config["ensemble_size"],
            trust=config["trust_checkpoint"],
            local_leads=config["declare_leads"] and not config["delivery"]["streaming"],
            **{
                name: settings[name]
                for name in (
                    "device",
                    "precision",
                    "compile",
                    "deterministic",
                    "chunks",
                    "cuda_graph",
                    "encoders",
                    "packing",
                    "accumulate",
                    "restart_hours",
                    "restarts_kept",
                    "progress",
                )
            },
        )

    @property
    def bits(self) -> dict[str, int]:
        """Bits per value of each variable; ConfigError for overrides that fit none."""
        return bits_for(self.model.outputs, self.packing)

    @property
    def start(self) -> datetime:
        """The cycle as a time."""
        return parse_cycle(self.cycle)

    def lead(self, step: int) -> int:
        """Return the lead in hours of a step, counted from 1."""
        return step * self.model.timestep_hours

    def seed(self, step: int) -> int:
        """Return the seed of a step's noise."""
        return noise.noise_seed(self.model.name, self.cycle, self.member, step)


def _local_checkpoint(config: Config) -> Path:
    named = config["checkpoint"]
    if named and "://" not in named:
        return Path(named)
    return Path(config["scratch"]) / "checkpoints" / f"{config.model.name}.ckpt"


def run_forecast(request: ForecastRequest, observers: Sequence[ForecastObserver] = ()) -> MemberManifest:
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
    told = Watchers([*([ProgressLog()] if request.progress else []), *observers])
    try:
        work = WorkFolder(request.work, request.cycle, request.member)
        with _explained(request), work.lock():
            manifest = _bring_to_end(request, work, told)
        told.finished(manifest)
    except BaseException as error:
        told.failed(error)
        raise
    return manifest


class Watchers:
    """Several observers as one: each is told in turn."""

    def __init__(self, observers: Sequence[ForecastObserver]):
        self._observers = observers

    def started(self, member: int, leads: int, done: int) -> None:
        for observer in self._observers:
            observer.started(member, leads, done)

    def step(self, lead: int, seconds: float) -> None:
        for observer in self._observers:
            observer.step(lead, seconds)

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        for observer in self._observers:
            observer.lead_published(record, folder)

    def restart_written(self, lead: int, path: Path) -> None:
        for observer in self._observers:
            observer.restart_written(lead, path)

    def finished(self, manifest: MemberManifest) -> None:
        for observer in self._observers:
            observer.finished(manifest)

    def failed(self, error: BaseException) -> None:
        """Tell all of them, whatever any of them raises: `error` is what matters."""
        for observer in self._observers:
            try:
                observer.failed(error)
            except Exception:
                LOG.exception("%s failed while it was told of a failure", type(observer).__name__)


class Timings:
    """Seconds by phase, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to `phase`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start

    @property
    def rounded(self) -> dict[str, float]:
        """The seconds to a tenth of a millisecond."""
        return {phase: round(seconds, 4) for phase, seconds in self.seconds.items()}


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


def _bring_to_end(request: ForecastRequest, work: WorkFolder, told: Watchers) -> MemberManifest:
    timings = Timings()
    with timings("total"):
        settings, files, whole = _take_stock(request, work, timings)
        missing = [lead for lead in request.leads if lead not in whole]
        told.started(request.member, len(request.leads), len(whole))
        store = restart_store(request, digest(settings))
        attempt = work.begin_attempt({"began": _now(), "machine": machine(), "versions": versions()}) if missing else 0
        if missing:
            with _attempted(work, attempt):
                with timings("import"):
                    from aifs_ensemble import engine
                note = partial(work.record_attempt, attempt)
                whole |= engine.compute(engine.Job(request, work, store, missing, told, timings, note))
    if attempt:
        work.record_attempt(attempt, {"ended": _now(), "outcome": "finished", "timings": timings.rounded})
    store.prune(request.restarts_kept, None)
    records = [whole[lead] for lead in request.leads]
    manifest = member_manifest(request, settings, files, records, work.attempts())
    publish(request, work, records, manifest)
    return manifest


@contextmanager
def _attempted(work: WorkFolder, attempt: int) -> Iterator[None]:
    """Record the error with which an attempt ends."""
    try:
        yield
    except BaseException as error:
        work.record_attempt(attempt, {"ended": _now(), "outcome": f"{type(error).__name__}: {error}"[:500]})
        raise


def restart_store(request: ForecastRequest, fingerprint: str) -> RestartStore:
    """Return the member's restart states."""
    folder = request.work / "restarts"
    sums = request.accumulate == "from_start"
    return RestartStore(folder, request.model, request.cycle, request.member, fingerprint, sums)


def _take_stock(
    request: ForecastRequest, work: WorkFolder, timings: Timings
) -> tuple[dict[str, Any], dict[str, KnownFile], dict[int, LeadRecord]]:
    """Return the settings, the input files and the leads that are whole already; clear away everything else."""
    known = work.known_files()
    if not request.checkpoint.exists() and "checkpoint" not in known:
        raise CheckpointError(f"{request.checkpoint}: no such checkpoint, expected that of {request.model.name}")
    with timings("digests"):
        files = {
            "checkpoint": KnownFile.of(request.checkpoint, known.get("checkpoint"), checkpoint_digest),
            "initial_state": KnownFile.of(request.initial, known.get("initial_state"), state_digest),
        }
    device = request.device
    if device == "auto":  # a finished member is found without asking torch
        device = (work.recorded_settings() or {}).get("device") or _device_here(timings)
    settings = _settings(request, files, device)
    if work.would_clear(settings):
        _check_it_can_be_made(request)
    work.adopt(settings, files)
    with timings("verify"):
        whole = work.finished(request.leads, local=request.local_leads)
    if request.device == "auto" and len(whole) < len(request.leads) and _device_here(timings) != device:
        settings = _settings(request, files, _device_here(timings))
        _check_it_can_be_made(request)
        work.adopt(settings, files)
        whole = {}
    work.remove_leftovers(work.journal.read().values())
    return settings, files, whole


def _check_it_can_be_made(request: ForecastRequest) -> None:
    """Raise what a forecast under these settings would, as far as it shows before computing.

    What an earlier setting or input made is cleared away only for one that can be followed.
    """
    from aifs_ensemble.checkpoint.describe import check_description, describe_checkpoint
    from aifs_ensemble.checkpoint.load import check_digest
    from aifs_ensemble.rollout import resolve_device

    resolve_device(request.device)
    check_description(describe_checkpoint(request.checkpoint), request.model)
    if not request.trust:
        check_digest(request.checkpoint, request.model)
    read_initial(request)


def _device_here(timings: Timings) -> str:
    with timings("import"):
        from aifs_ensemble.rollout import resolve_device

    return resolve_device("auto").type


def _settings(request: ForecastRequest, files: Mapping[str, KnownFile], device: str) -> dict[str, Any]:
    """Return everything that decides the content of the leads, JSON-compatible."""
    model = request.model
    return {
        "model": model.name,
        "grid": model.grid,
        "cycle": request.cycle,
        "member": request.member,
        "ensemble_size": request.ensemble_size,
        "checkpoint": files["checkpoint"].sha256,
        "initial_state": files["initial_state"].sha256,
        "variables": digest({"outputs": model.outputs, "accumulated": model.accumulated, "name": model.grib_model}),
        "seed": noise.SCHEME,
        "device": device,
        "precision": request.precision,
        "compile": request.compile,
        "deterministic": request.deterministic,
        "chunks": request.chunks,
        "packing": request.bits,
        "accumulate": request.accumulate,
    }


def read_initial(request: ForecastRequest) -> State:
    """Return the initial state; InputError unless it is this member's, whole and of this model."""
    state = read_state(request.initial, variables=request.model.inputs, grid=request.model.grid)
    step = timedelta(hours=request.model.timestep_hours)
    expected_times = [(request.start - step).isoformat(), request.start.isoformat()]
    for what, found, expected in (
        ("cycle", state.cycle, request.cycle),
        ("member", state.member, request.member),
        ("times", [as_utc(time).isoformat() for time in state.times], expected_times),
    ):
        if found != expected:
            raise InputError(f"{request.initial}: {what} {found}, expected {expected}")
    bad = [name for row, name in enumerate(state.variables) if not np.isfinite(state.fields[:, row]).all()]
    if bad:
        raise InputError(f"{request.initial}: NaN or infinity in {', '.join(bad)}, expected numbers")
    return state


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
