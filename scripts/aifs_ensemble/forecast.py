"""The forecast of one member: from an initial state to one GRIB file per lead, killed and resumed as often as it is.

`run_forecast` looks into the member's work folder first. What is whole there stays; what is missing is computed
from the nearest restart state before it; a finished member returns at once, without importing torch.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from aifs_ensemble import noise
from aifs_ensemble.checkpoint.digest import checkpoint_digest
from aifs_ensemble.config import Config
from aifs_ensemble.errors import (
    CheckpointError,
    DiskFullError,
    InputError,
)
from aifs_ensemble.files import temporary
from aifs_ensemble.journal import KnownFile, WorkFolder, digest, state_digest
from aifs_ensemble.manifest import LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.models import Model
from aifs_ensemble.names import parse_cycle
from aifs_ensemble.observers import ForecastObserver
from aifs_ensemble.packing import bits_for
from aifs_ensemble.progress import ProgressLog
from aifs_ensemble.restarts import RestartStore, as_utc
from aifs_ensemble.state import State, read_state

if TYPE_CHECKING:
    pass

LOG = logging.getLogger(__name__)
PACKAGES = ("torch", "anemoi-inference", "anemoi-models", "earthkit-data", "eccodes", "numpy", "torch-geometric")


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
        The process received SIGTERM; the lead under way was finished.
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
    began = perf_counter()
    settings, files, whole = _take_stock(request, work)
    verify_seconds = perf_counter() - began
    missing = [lead for lead in request.leads if lead not in whole]
    told.started(request.member, len(request.leads), len(whole))
    store = restart_store(request, digest(settings))
    if missing:
        from aifs_ensemble import engine

        attempt = work.begin_attempt(_attempt())
        timings = {"verify": verify_seconds}
        try:
            note = partial(work.record_attempt, attempt)
            job = engine.Job(request, work, store, missing, told, engine.Timings(timings), note)
            whole |= engine.compute(job)
        except BaseException as error:
            work.record_attempt(attempt, {"ended": _now(), "outcome": f"{type(error).__name__}: {error}"[:500]})
            raise
        timings["total"] = perf_counter() - began
        rounded = {name: round(seconds, 4) for name, seconds in timings.items()}
        work.record_attempt(attempt, {"ended": _now(), "outcome": "finished", "timings": rounded})
    store.prune(request.restarts_kept, None)
    records = [whole[lead] for lead in request.leads]
    manifest = _manifest(request, settings, files, records, work.attempts())
    _publish(request, work, records, manifest)
    return manifest


def restart_store(request: ForecastRequest, fingerprint: str) -> RestartStore:
    """Return the member's restart states."""
    folder = request.work / "restarts"
    sums = request.accumulate == "from_start"
    return RestartStore(folder, request.model, request.cycle, request.member, fingerprint, sums)


def _take_stock(
    request: ForecastRequest, work: WorkFolder
) -> tuple[dict[str, Any], dict[str, KnownFile], dict[int, LeadRecord]]:
    """Return the settings, the input files and the leads that are whole already; clear away everything else."""
    known = work.known_files()
    if not request.checkpoint.exists() and "checkpoint" not in known:
        raise CheckpointError(f"{request.checkpoint}: no such checkpoint, expected that of {request.model.name}")
    files = {
        "checkpoint": KnownFile.of(request.checkpoint, known.get("checkpoint"), checkpoint_digest),
        "initial_state": KnownFile.of(request.initial, known.get("initial_state"), state_digest),
    }
    recorded = work.recorded_settings() or {}
    device = request.device if request.device != "auto" else recorded.get("device") or _device_here()
    settings = _settings(request, files, device)
    work.adopt(settings, files)
    whole = work.finished(request.leads, local=request.local_leads)
    if request.device == "auto" and len(whole) < len(request.leads) and _device_here() != device:
        settings = _settings(request, files, _device_here())
        work.adopt(settings, files)
        whole = {}
    work.remove_leftovers([*work.journal.read().values()])
    return settings, files, whole


def _device_here() -> str:
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


def _attempt() -> dict[str, Any]:
    return {"began": _now(), "machine": machine(), "versions": versions()}


def machine() -> dict[str, Any]:
    """Return what this machine is: name, processor, cores available, memory in bytes."""
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _manifest(
    request: ForecastRequest,
    settings: Mapping[str, Any],
    files: Mapping[str, KnownFile],
    records: Sequence[LeadRecord],
    attempts: Sequence[Mapping[str, Any]],
) -> MemberManifest:
    """Return the manifest: the same whenever it is made from the same work folder."""
    told: dict[str, Any] = {}
    for attempt in attempts:
        told |= attempt
    long = ("versions", "initial_conditions", "step_seconds")
    return MemberManifest(
        model=request.model.name,
        untrained=request.model.untrained,
        cycle=request.cycle,
        member=request.member,
        ensemble_size=request.ensemble_size,
        grid=request.model.grid,
        leads=tuple(records),
        seed={
            "scheme": noise.SCHEME,
            "of": ["model", "cycle", "member", "step"],
            "first_step": request.seed(1),
        },
        checkpoint={"name": Path(files["checkpoint"].path).name, "sha256": files["checkpoint"].sha256},
        initial_conditions={**told.get("initial_conditions", {}), "sha256": files["initial_state"].sha256},
        versions=told.get("versions", {}),
        settings=settings,
        device=told.get("device", ""),
        machine=told.get("machine", {}),
        timings=told.get("timings", {}),
        step_seconds=tuple(told.get("step_seconds", ())),
        attempts=tuple({key: value for key, value in attempt.items() if key not in long} for attempt in attempts),
    )


def _publish(
    request: ForecastRequest, work: WorkFolder, records: Sequence[LeadRecord], manifest: MemberManifest
) -> None:
    """Link the leads into the forecasts folder, then write the manifest.

    A manifest that is there already goes first: it never stands beside leads that it does not describe.
    """
    request.forecasts.mkdir(parents=True, exist_ok=True)
    request.manifest.unlink(missing_ok=True)
    for record in records:
        for file in (record.grib, record.index):
            source = work.leads / file.name
            if source.exists():  # else delivered, and removed since
                link(source, request.forecasts / file.name)
    write_member_manifest(request.manifest, manifest)


def link(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy where there can be none, replacing it atomically.

    Its time of change becomes now, as of any file that a rule has just made.
    """
    if not (target.exists() and target.samefile(source)):
        part = temporary(target)
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            try:
                shutil.copyfile(source, part)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(target)
    os.utime(target)
