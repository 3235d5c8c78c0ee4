"""The computing part of a forecast: model, rollout, encoders and restart states put together.

Imported only when there is something to compute, because it imports torch.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import torch

from aifs_ensemble.common.errors import GpuMemoryError, InputError, InterruptedByUserError, StoppedError, WorkflowError
from aifs_ensemble.common.manifest import LeadRecord
from aifs_ensemble.common.names import member_name
from aifs_ensemble.common.observers import Observer, Observers
from aifs_ensemble.common.turns import Turn
from aifs_ensemble.fields.coarse_encoder import coarse_weights
from aifs_ensemble.fields.encoder_pool import GIVE_UP_SECONDS, EncoderPool, SilentEncodersError
from aifs_ensemble.fields.encoder_process import STOPS
from aifs_ensemble.fields.grib_encoder import output_spec
from aifs_ensemble.fields.state import State
from aifs_ensemble.forecast.card_turns import CardTurns
from aifs_ensemble.forecast.daily_fields import DailyFields
from aifs_ensemble.forecast.device_copy import FieldTransfer
from aifs_ensemble.forecast.early import import_libraries
from aifs_ensemble.forecast.pass_choice import PassChoice
from aifs_ensemble.forecast.request import ForecastRequest, read_initial
from aifs_ensemble.forecast.restarts import RestartStore, RestartWriter
from aifs_ensemble.forecast.rollout import Rollout, roll
from aifs_ensemble.forecast.sound_fields import missing_for_good
from aifs_ensemble.forecast.timings import Timings
from aifs_ensemble.forecast.work_folder import WorkFolder
from aifs_ensemble.model.compile_cache import CompileCache
from aifs_ensemble.model.forcings import ComputedForcings
from aifs_ensemble.model.imputers import filled_in
from aifs_ensemble.model.stepper import Stepper, TensorPlaces, prepare_environment, resolve_device

LOG = logging.getLogger(__name__)
_STOPPED_SILENCE_SECONDS = 15.0  # a preempted machine has 30 s
SLOTS = 3  # leads in flight: one filled, one encoded, one between


class StopSignal:
    """Remembers that SIGTERM or Ctrl-C came; as a context manager, in the main thread only.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> StopSignal:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = {number: signal.signal(number, self._receive) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, previous in self._previous.items():
                signal.signal(number, previous)

    def _receive(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        if self.received is signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            LOG.warning("stopping after this step, with a restart state; once more to stop at once")

    def error(self, where: str, left: str) -> StoppedError:
        """Return the error that says what was stopped, how, and what is left."""
        kind, how = (InterruptedByUserError, "Ctrl-C") if self.received is signal.SIGINT else (StoppedError, "SIGTERM")
        return kind(f"{where}: stopped by {how} with {left}; run again to go on")


@contextmanager
def gpu_memory(request: ForecastRequest) -> Iterator[None]:
    """Turn torch's error about GPU memory into one that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
        numerics = request.settings
        settings = f"precision {numerics.precision}, compile {str(numerics.compile).lower()}, chunks {numerics.chunks}"
        if request.own_pass:
            settings += f", the model's own pass ({request.own_pass})"
        raise GpuMemoryError(
            f"{member_name(request.member)}: out of GPU memory ({total / 1e9:.1f} GB, {free / 1e9:.1f} free) with "
            f"{settings}; change forecast.precision to 16, forecast.compile to true, raise forecast.chunks, "
            f"or raise forecast.gpu_mem_mb so that fewer members share the card{_fewer(request, total / 1e6)}"
        ) from error


def _fewer(request: ForecastRequest, card_mb: float) -> str:
    """Return with how many chunks the model's own pass fits a card, empty where that is not known or they are there."""
    chunks = request.model.chunks_within(card_mb) if request.own_pass else None
    if chunks is None or chunks <= request.settings.chunks:
        return ""
    return f"; forecast.chunks: {chunks} takes about {request.model.own_pass_mb(chunks) / 1000:.1f} GB"


@dataclass
class Loaded:
    """A model ready to step: forward pass, places of its variables, its computed forcings."""

    stepper: Stepper
    places: TensorPlaces
    forcings: ComputedForcings


def load(
    request: ForecastRequest,
    device: torch.device,
    timings: Timings | None = None,
    choice: PassChoice | None = None,
) -> Loaded:
    """Load the request's model onto `device`; CheckpointError if it cannot be, or is of another kind.

    `choice` says which forward pass it takes, by default the accelerated one where there is one.
    """
    timings = timings or Timings()
    with timings("import"):
        import_libraries()
        from anemoi.inference.checkpoint import Checkpoint

        from aifs_ensemble.model.checkpoint.load import load_model
    with timings("load"):
        # it looks at the metadata first, and says what is wrong with the file or its fit
        module = load_model(request.checkpoint, request.model, device=device, trust=request.trust)
        metadata = Checkpoint(str(request.checkpoint))._metadata
        places = TensorPlaces.of(metadata, request.model)
    with timings("prepare"):
        options = choice.options if choice else {}
        stepper = Stepper(module, device, request.settings, cuda_graph=request.cuda_graph, **options)
    return Loaded(stepper, places, ComputedForcings(metadata))


def open_pool(request: ForecastRequest, folder: Path, stop: StopSignal | None = None) -> EncoderPool:
    """Start the encoder processes of the request; once told to stop, it waits for silent ones only for a moment."""

    def longest_silence() -> float:
        return GIVE_UP_SECONDS if stop is None or stop.received is None else _STOPPED_SILENCE_SECONDS

    spec = output_spec(
        request.model,
        request.cycle,
        request.member,
        ensemble_size=request.ensemble_size,
        bits=request.bits,
        accumulate=request.settings.accumulate,
        coarse=request.coarse,
        variables=request.output,
        daily=request.daily,
        area=request.area,
    )
    return EncoderPool(spec, folder, request.encoders, SLOTS, longest_silence)


@dataclass(frozen=True)
class Computation:
    """What one process computes of a member.

    Attributes
    ----------
    missing : leads to make, in order
    observers : hear of steps, leads and restart states
    timings : receives the time spent by phase
    note : records facts about this attempt as soon as they are known
    """

    request: ForecastRequest
    work: WorkFolder
    store: RestartStore
    missing: Sequence[int]
    observers: Observers
    timings: Timings
    note: Callable[[Mapping[str, Any]], None]


def compute(computation: Computation) -> dict[int, LeadRecord]:
    """Compute the missing leads and return their records."""
    request, timings, note = computation.request, computation.timings, computation.note
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        with timings("encoders"):
            pool = stack.enter_context(open_pool(request, computation.work.leads, stop))
        reading = stack.enter_context(ThreadPoolExecutor(1, "state")).submit(_states, computation, pool)
        weights = stack.enter_context(ThreadPoolExecutor(1, "weights")).submit(_coarse_weights, request, pool)
        stack.enter_context(gpu_memory(request))
        prepare_environment(device=request.device, deterministic=request.settings.deterministic)
        with timings("import"):
            import_libraries()
        device = resolve_device(request.device)
        note({"device": device_name(device), "threads": torch.get_num_threads()})
        initial, after, restart = reading.result()
        note({"initial_conditions": initial.provenance, "resumed_from": after})
        checkpoint = (computation.work.recorded_settings() or {}).get("checkpoint", "")
        choice = stack.enter_context(PassChoice(request, checkpoint, device_name(device), note, stop))
        turns = CardTurns(request, device)
        with _mine(turns.starting, computation, stop), choice.turn():
            loaded = load(request, device, timings, choice)
            with timings("state"):
                rollout = start_rollout(request, loaded, initial, restart)
            if request.settings.compile:
                with timings("compile"):
                    loaded.stepper.warm_up(rollout.inputs, choice.records)
                if taken := CompileCache.origin():
                    note({"compiled_parts": taken})
                note({"cuda_graph": loaded.stepper.recorded})
            steps = _Steps(computation, stop, rollout, pool, turns.computing)
        computation.observers.tell(Observer.prepared, choice.made(loaded.stepper.acceleration))
        weights.result()
        steps.go(loaded, first=after // request.model.timestep_hours + 1)
        timings.seconds["wait_turn"] = turns.waited
        note({"computing": [datetime.fromtimestamp(seconds, UTC).isoformat() for seconds in steps.times]})
        note({"steps": len(steps.step_seconds), "step_seconds": [round(s, 5) for s in steps.step_seconds]})
        note({"peak_gpu_mb": round(torch.cuda.max_memory_reserved() / 1e6, 1)})
        return steps.records


def _states(computation: Computation, pool: EncoderPool) -> tuple[State, int, State | None]:
    """Return the initial state, the lead to go on from, and the restart state of that lead, None for the start.

    Runs beside imports, which leave files and memory alone.
    """
    request = computation.request
    with computation.timings("read_state"):
        initial = read_initial(request)
        before = computation.missing[0] - request.model.timestep_hours
        after, restart = computation.store.newest(before) or (0, None)
    if request.device != "cpu":
        pool.buffer.fill(0)  # memory that nobody has touched takes longer to lock for the card
    return initial, after, restart


def _coarse_weights(request: ForecastRequest, pool: EncoderPool) -> None:
    """Make the interpolation weights of the coarse leads; where they cannot be made, the leads alone are.

    MIR takes seconds, and a process of its own, where no earlier member left them in the cache.
    """
    if request.coarse is None:
        return
    try:
        coarse_weights(request.coarse, request.model.grid)
    except (WorkflowError, OSError, subprocess.SubprocessError) as error:
        LOG.warning("%s: no coarse leads: %s", member_name(request.member), error)
        pool.leave_out_coarse()


@contextmanager
def _mine(turn: Turn, computation: Computation, stop: StopSignal) -> Iterator[None]:
    """Wait for a turn and have it; StoppedError when SIGTERM or Ctrl-C comes before it."""
    with turn.taken(lambda: stop.received is not None) as mine:
        if not mine:
            raise stop.error(member_name(computation.request.member), f"{len(computation.missing)} leads to make")
        yield


def device_name(device: torch.device) -> str:
    """Return what the device is called, e.g. ``NVIDIA H100 80GB HBM3`` or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def start_rollout(request: ForecastRequest, loaded: Loaded, initial: State, restart: State | None) -> Rollout:
    """Return a rollout that holds the input of the first step to make."""
    points = loaded.places.points
    if initial.fields.shape[-1] != points:
        raise InputError(
            f"{request.initial}: {initial.fields.shape[-1]} grid points, expected the checkpoint's {points}"
        )
    if lacking := missing_for_good(initial, filled_in(loaded.stepper.model)):
        what = f"values of {', '.join(lacking)} are missing"
        raise InputError(f"{request.initial}: {what}, for which the checkpoint has no imputer; expected all of them")
    kept = [request.model.outputs.index(name) for name in request.rows]
    device = loaded.stepper.device
    daily = DailyFields(request.daily, request.model, loaded.places, device) if request.daily else None
    rollout = Rollout(loaded.places, loaded.forcings, device, accumulate=request.sums, kept=kept, daily=daily)
    rollout.load(initial, restart)
    return rollout


class _Steps:
    """The steps of one attempt: a sink of `roll` that delivers leads and writes restart states."""

    def __init__(self, computation: Computation, stop: StopSignal, rollout: Rollout, pool: EncoderPool, turn: Turn):
        request = computation.request
        self._request, self._work, self._store = request, computation.work, computation.store
        self._observers, self._timings, self._stop = computation.observers, computation.timings, stop
        self._rollout, self._pool = rollout, pool
        self._turn, self._my_turn = turn, partial(_mine, turn, computation, stop)
        self._missing = set(computation.missing)
        self._last = max(computation.missing)
        self._stopped = False
        self._restarts = RestartWriter(computation.store)
        where = f"{request.cycle} {member_name(request.member)}"
        self._transfer = FieldTransfer(pool, rollout, request.model, request.rows, where, request.daily)
        self.records: dict[int, LeadRecord] = {}
        self.step_seconds: list[float] = []
        self.times: list[float] = []  # when the first step began and the last one was over

    def go(self, loaded: Loaded, first: int) -> None:
        """Make the steps from `first` on until nothing is missing; StoppedError after a SIGTERM or Ctrl-C."""
        request = self._request
        steps = range(first, self._last // request.model.timestep_hours + 1)
        with self._restarts, self._transfer, self._my_turn():
            self.times.append(time())
            try:
                with self._timings("steps"):
                    self._timings.seconds["wait_forcings"] = roll(
                        loaded.stepper,
                        self._rollout,
                        loaded.forcings,
                        self,
                        start=request.start,
                        steps=steps,
                        seed=request.seed,
                    )
                with self._timings("drain"):
                    self._settle()
                    self.times.append(time())
                    self._turn.give_back()  # the card is done: the next member computes while this one's output is made
                    self._publish(self._pool.drain())
                    self._note_restarts(wait=True)
            except Exception as error:
                self._salvage()
                if self._stop.received is not None and isinstance(error, SilentEncodersError):
                    raise self._stop.error(member_name(self._request.member), f"leads given up ({error})") from None
                raise
            finally:
                self._timings.seconds["wait_output"] = self._transfer.waited
                self._timings.seconds["wait_device"] = self._transfer.watched
        if self._missing and self._stopped:
            done = len(self.records)
            left = f"{done} leads made by this process and {len(self._missing)} to make"
            raise self._stop.error(member_name(request.member), left)

    def step(self, step: int, output: torch.Tensor, seconds: Callable[[], float]) -> None:
        """Send a step's fields on their way, and take in what the encoders have finished."""
        lead = self._request.lead(step)
        self._turn.sign_of_life()
        self._settle()  # the step before: while it is waited for, the device computes this one
        if lead in self._missing:
            self._transfer.send(lead, output, seconds)
        else:
            self._transfer.skip(lead, seconds)
        self._settle(wait=False)
        self._publish(self._pool.completed())

    def advanced(self, step: int) -> bool:
        """Keep a restart state where one is due; go on unless told to stop."""
        lead = self._request.lead(step)
        if self._stop.received is not None and lead < self._last:
            self._stopped = True
        due = lead % self._request.restart_hours == 0
        if (due or self._stopped) and not self._store.path(lead).exists():
            with self._timings("restarts"):
                self._report_restarts(self._restarts.start(lead, self._rollout.snapshot()))
        else:
            self._note_restarts()
        return not self._stopped

    def _settle(self, *, wait: bool = True) -> None:
        for lead, seconds in self._transfer.arrivals(wait=wait):
            self.step_seconds.append(seconds)
            self._observers.tell(Observer.step, lead, seconds)

    def _publish(self, records: Sequence[LeadRecord]) -> None:
        # all go to the journal before any observer, which may raise, hears of one
        for record in records:
            self._work.journal.append(record)
            self.records[record.lead] = record
            self._missing.discard(record.lead)
        for record in records:
            self._observers.tell(Observer.lead_published, record, self._work.leads)

    def _note_restarts(self, *, wait: bool = False) -> None:
        self._report_restarts(self._restarts.finished(wait=wait))

    def _report_restarts(self, written: Sequence[tuple[int, Path]]) -> None:
        for lead, path in written:
            self._store.prune(self._request.restarts_kept, min(self._missing, default=None))
            self._observers.tell(Observer.restart_written, lead, path)

    def _salvage(self) -> None:
        """After an error, keep the leads that the encoders had in hand; observers hear of them next time."""
        for take in (self._pool.completed, self._pool.drain):
            with suppress(WorkflowError, OSError):
                for record in take():
                    self._work.journal.append(record)
