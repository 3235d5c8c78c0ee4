"""What a forecast is asked for: the request for one member, and its initial state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from aifs_ensemble.common.areas import Box
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.daily import LeadField
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import digest
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.names import checkpoint_file, parse_cycle
from aifs_ensemble.common.parameters import parts_of
from aifs_ensemble.fields.grib_encoder import CoarseSpec
from aifs_ensemble.fields.state import State, read_state
from aifs_ensemble.forecast.restarts import as_utc
from aifs_ensemble.forecast.settings import ForecastSettings
from aifs_ensemble.forecast.work_folder import KnownFile
from aifs_ensemble.model import noise


@dataclass(frozen=True)
class ForecastRequest:
    """What to forecast, from what, where to and how. The config's section ``forecast`` explains the settings.

    `settings` are those that decide the bytes; with others the member is the same.

    Attributes
    ----------
    leads : wanted lead times in hours, in order
    work : the member's work folder
    forecasts : folder that receives links to the leads at the end
    manifest : file that receives the manifest at the very end
    output : variables of the leads, in the model's order; None for all that it makes
    daily : statistics of the leads that end a day
    area : north, west, south and east in degrees of what leads hold of the globe, None for all of it
    own_pass : why the member is made with the model's own forward pass, empty where the accelerated one may be taken
    coarse : the second file of each lead to come, None for none; with another one the member is the same
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
    settings: ForecastSettings = field(default_factory=ForecastSettings)
    accelerate: bool = True
    own_pass: str = ""
    cuda_graph: bool = False
    gpu_mem_mb: int = 0
    compute_at_once: int | None = None
    encoders: int = 2
    restart_hours: int = 72
    restarts_kept: int = 2
    trust: bool = False
    progress: bool = True
    coarse: CoarseSpec | None = None
    output: tuple[str, ...] | None = None
    daily: tuple[LeadField, ...] = ()
    area: Box | None = None
    local_leads: bool = False

    @classmethod
    def from_config(
        cls, config: Config, member: int, *, checkpoint: Path | None = None, initial: Path | None = None
    ) -> ForecastRequest:
        """Return the request for `member` that a configuration makes.

        ConfigError when neither `checkpoint` nor the configuration names a checkpoint file on this machine.
        """
        section = config.forecast
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
            ensemble_size=config.ensemble_size,
            settings=ForecastSettings.of(config),
            trust=config.trust_checkpoint,
            local_leads=config.declare_leads and not config.delivery.streaming,
            device=section.device,
            accelerate=section.accelerate,
            cuda_graph=section.cuda_graph,
            gpu_mem_mb=section.gpu_mem_mb,
            compute_at_once=section.compute_at_once,
            encoders=section.encoders,
            restart_hours=section.restart_hours,
            restarts_kept=section.restarts_kept,
            progress=section.progress,
            coarse=coarse_spec(config),
            output=None if config.output_variables == config.model.delivered else config.output_variables,
            daily=config.daily,
            area=config.area,
        )

    @property
    def coarse_leads(self) -> Path:
        """Folder that receives links to the coarse leads at the end."""
        return self.forecasts.with_name("coarse")

    @property
    def bits(self) -> dict[str, int]:
        """Bits per value of each variable; ConfigError for overrides that fit none."""
        return self.settings.bits(self.model)

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables of the leads."""
        return self.model.delivered if self.output is None else self.output

    @property
    def rows(self) -> tuple[str, ...]:
        """Outputs of the model that the leads are made of: as `OutputSpec.rows`."""
        parts = {part for variable in self.variables for part in parts_of(variable)}
        return tuple(name for name in self.model.outputs if name in parts)

    @property
    def sums(self) -> bool:
        """Whether accumulated variables are sums since the start."""
        return self.settings.accumulate == "from_start"

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


def coarse_spec(config: Config) -> CoarseSpec | None:
    """Return what the coarse leads are that a configuration asks for, None for none."""
    variables = config.coarse_variables
    if not variables:
        return None
    methods = {name: way for name, way in config.coarse_methods.items() if name == "default" or name in variables}
    return CoarseSpec(config.coarse_grid, variables, methods, str(config.cache.absolute()))


def _local_checkpoint(config: Config) -> Path:
    named = config.checkpoint
    if named and "://" not in named:
        return Path(named)
    return config.scratch_root / checkpoint_file(config.model.name)


def member_settings(request: ForecastRequest, files: Mapping[str, KnownFile], device: str) -> dict[str, Any]:
    """Return everything that decides the content of the leads, JSON-compatible: the fingerprint is its digest.

    ``pass`` is ``own`` where the settings would have an accelerated pass and the member is made without it.
    """
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
        **request.settings.record(model),
        **({"output": list(request.output)} if request.output is not None else {}),
        **({"area": list(request.area)} if request.area else {}),
        **({"daily": [list(field) for field in request.daily]} if request.daily else {}),
        **({"pass": "own"} if request.own_pass else {}),
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
    may_miss = request.model.missing
    bad = []
    for row, name in enumerate(state.variables):
        fields = state.fields[:, row]
        if not (np.isfinite(fields) | (np.isnan(fields) & (name in may_miss))).all():
            bad.append(name)
    if bad:
        raise InputError(f"{request.initial}: NaN or infinity in {', '.join(bad)}, expected numbers")
    return state
