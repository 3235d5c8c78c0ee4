"""Initial conditions from ECMWF open data: members of the IFS ensemble at T-6h and T.

The control is the ensemble's own (type ``cf``). A time at which the ensemble's index has none, as from 12 May 2026 on,
has it as the deterministic forecast, ``oper`` ``fc``: the same analysis.

Constants (land-sea mask, orography and its subgrid statistics) are those of the control forecast at T, the
same for every member; they are fetched and interpolated once per cycle.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DownloadError, InputError
from aifs_ensemble.common.names import CONTROL
from aifs_ensemble.common.parameter_rows import WAVES
from aifs_ensemble.common.parameters import FieldName, field_name, parameter_of, split_variable, variable_name
from aifs_ensemble.fields.state import State, read_state, write_state
from aifs_ensemble.initial.constants import GRAVITY
from aifs_ensemble.initial.download import Downloader, Fetched, FetchedFields, FieldRequest, NoFieldsError
from aifs_ensemble.initial.source import Inputs, Regridder, Values, as_modelled, in_model_units, input_times

LOG = logging.getLogger(__name__)

# stream and type of the control: where it is with the members, and where it is a forecast of its own
CONTROL_KIND, ALONE = ["enfo", "cf"], ["oper", "fc"]
_WAVE_STREAMS = {"enfo": "waef", "oper": "wave"}
# IFS cycle 50r1, from 12 May 2026 06 UTC on, brought a level and these of the waves; then the first cycle of both times
_NEW_LEVEL, _NEW_WAVES = 10, frozenset(("cdww", "wmb", "h1012", "h1214", "h1417", "h1721", "h2125", "h2530"))
_SINCE = datetime(2026, 5, 13, tzinfo=UTC)
LICENCE = "ECMWF open data, Creative Commons Attribution 4.0 International (CC BY 4.0)"


def opendata_name(variable: str) -> FieldName:
    """Return how open data names a variable of a model: geopotential on levels comes as height, ``gh``."""
    field = field_name(variable)
    return replace(field, name="gh") if (field.name, field.levtype) == ("z", "pl") else field


def by_request(variables: Collection[str]) -> dict[str, list[FieldName]]:
    """Return the names in open data of `variables`, sorted, by request: one for each level type, and one for waves.

    Waves are on one level, too, in files of their own.
    """
    groups: dict[str, list[FieldName]] = {}
    waves = {opendata_name(variable) for variable in variables if parameter_of(variable).family == WAVES}
    for field in sorted({opendata_name(variable) for variable in variables}):  # a direction has two variables
        groups.setdefault(WAVES if field in waves else field.levtype, []).append(field)
    return groups


def stream_of(stream: str, group: str) -> str:
    """Return the stream that has a group of `by_request` beside an atmospheric `stream`."""
    return _WAVE_STREAMS[stream] if group == WAVES else stream


def refuse_too_early(config: Config) -> None:
    """Raise InputError for a cycle that open data lacks fields of the model for: before IFS cycle 50r1."""
    model = config.model
    new = [name for name in model.inputs if split_variable(name)[1] == _NEW_LEVEL or name in _NEW_WAVES]
    if new and config.cycle_time < _SINCE:
        raise InputError(
            f"config: cycle: {config.cycle!r}: open data has {', '.join(new)}, which {model.name} starts from, "
            f"since {_SINCE:%Y-%m-%d %H} UTC only"
        )


class OpenDataSource:
    """Members of one cycle from the configured copies of the service."""

    def __init__(self, config: Config):
        refuse_too_early(config)
        self.config = config
        settings = config.initial_conditions.ecmwf_open_data
        self.cache = config.cache
        self.downloader = Downloader(settings.sources, settings, self.cache / "opendata")
        self.regridder = Regridder(config.model.grid, self.cache)

    def prepare(self) -> dict[str, Any]:
        """Fetch constants and the ensemble's index files of both times, interpolate, keep; return a record of it."""
        constants = self._constants()
        groups = by_request([*self.config.model.surface, *self.config.model.waves])
        first = {group: fields[:1] for group, fields in groups.items()}
        perturbed = next((member for member in self.config.members if member != CONTROL), CONTROL)
        for time in input_times(self.config):
            # one small field of each file: it brings the index that all members read
            for answer in self._fetch(time, perturbed, first):
                to_model(answer, self.regridder)
        return {
            "source": {"kind": "ecmwf-open-data", "licence": LICENCE, "constants": constants.provenance},
            "interpolation": self.regridder.provenance,
        }

    def read(self, member: int) -> Inputs:
        """Return one member's fields on the model's grid."""
        LOG.info("%s", LICENCE)
        constants = self._constants()
        fields: dict[datetime, dict[str, Values]] = {}
        requests = []
        for time in input_times(self.config):
            fields[time] = {}
            for answer in self._fetch(time, member, by_request(self.config.model.prognostic)):
                fields[time] |= to_model(answer, self.regridder)
                requests.append(answer.provenance)
        at_last = fields[self.config.cycle_time]
        at_last |= dict(zip(constants.variables, constants.fields[0], strict=True))
        source: dict[str, Any] = {
            "kind": "ecmwf-open-data",
            "licence": LICENCE,
            "requests": requests,
            "constants": constants.provenance,
            "converted": {"z on pressure levels": f"{GRAVITY} gh", "stl1, stl2": "sot on soil levels 1, 2"},
        }
        if self.config.model.waves:
            source["converted"] |= {
                "swvl1, swvl2": "vsw on soil levels 1, 2",
                "cos_mwd, sin_mwd": "cosine and sine of mwd, of length 1 after interpolation",
            }
        return Inputs(fields, {"source": source, "interpolation": self.regridder.provenance})

    def _fetch(self, time: datetime, member: int, groups: Mapping[str, Sequence[FieldName]]) -> Iterator[FetchedFields]:
        """Yield a member's fields at a time, request by request of `by_request`.

        The control's are all of one kind: of ``oper`` where the ensemble's index names no field of a control. Where it
        names some of them, or the file is not there, what is missing is missing.
        """
        if member != CONTROL:
            for group, parameters in groups.items():
                yield self.downloader.fetch(
                    FieldRequest(time, stream_of("enfo", group), "pf", tuple(parameters), member)
                )
            return
        # once found, it is not asked for again: with everything in the cache no network is needed
        note = f"control at {time:%Y%m%d_%H%M}|{self.downloader.resolution}"
        alone, begun = self.downloader.cache.record(note) == ALONE, False
        for group, parameters in groups.items():
            ensemble, deterministic = (
                FieldRequest(time, stream_of(stream, group), kind, tuple(parameters))
                for stream, kind in (CONTROL_KIND, ALONE)
            )
            try:
                answer = self.downloader.fetch(deterministic if alone else ensemble)
            except NoFieldsError as absent:
                if alone or begun:
                    raise
                answer = self._alone(deterministic, absent)
                self.downloader.cache.keep_record(note, ALONE)
                alone = True
            begun = True
            yield answer

    def _alone(self, request: FieldRequest, absent: NoFieldsError) -> FetchedFields:
        """Return the deterministic forecast's fields, for a control that is `absent` from the ensemble."""
        try:
            answer = self.downloader.fetch(request)
        except (InputError, DownloadError) as error:
            raise type(error)(f"{absent}; and {error}") from None
        LOG.info("%s: the control, which the ensemble's index does not have", request)
        return answer

    def _constants_path(self) -> Path:
        name = f"{self.config.cycle}_{self.config.model.grid}_{'-'.join(sorted(self.config.model.constant))}"
        return self.cache / "opendata" / "constants" / f"{name}.safetensors"

    def _constants(self) -> State:
        """Return the constants on the model's grid, from the cache or the service."""
        path = self._constants_path()
        if path.exists():
            try:
                return read_state(path, grid=self.config.model.grid)
            except (InputError, ValueError, KeyError) as error:
                LOG.warning("%s; fetching the constants again", error)
        groups = by_request(self.config.model.constant)
        # the client knows that 06 and 18 UTC runs were in stream scda before cycle 50r1
        answers = [
            self.downloader.fetch(
                FieldRequest(self.config.cycle_time, stream_of("oper", group), "fc", tuple(parameters))
            )
            for group, parameters in groups.items()
        ]
        # one of its own: what a member records must not depend on who made the constants
        regridder = Regridder(self.config.model.grid, self.cache)
        fields: dict[str, Values] = {}
        for answer in answers:
            fields |= to_model(answer, regridder)
        names = tuple(sorted(fields))
        state = State(
            fields=np.stack([fields[name] for name in names])[None],
            times=(self.config.cycle_time,),
            variables=names,
            units=tuple(parameter_of(name).units for name in names),
            grid=self.config.model.grid,
            cycle=self.config.cycle,
            member=0,
            provenance={"requests": [answer.provenance for answer in answers], "interpolation": regridder.provenance},
        )
        write_state(path, state)
        return state


def to_model(answer: FetchedFields, regridder: Regridder) -> dict[str, Values]:
    """Return the fields of an answer on the model's grid, under the model's names and units."""
    by_grid: dict[str, dict[str, Values]] = {}
    for fetched in answer.fields:
        by_grid.setdefault(fetched.grid, {}).update(as_modelled(*_model_field(fetched)))
    result: dict[str, Values] = {}
    for grid, fields in by_grid.items():
        result |= regridder.to_model(grid, fields)
    return result


def _model_field(fetched: Fetched) -> tuple[str, Values]:
    field = fetched.header.field
    if field.name == "gh":
        return f"z_{field.level}", fetched.values * np.float32(GRAVITY)
    return variable_name(field), in_model_units(fetched.header, fetched.values)
