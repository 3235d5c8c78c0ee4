"""GRIB messages made from fields; config/parameters.yaml says what each variable is called there.

The keys are those of ECMWF's AIFS ENS open data (docs/grib.md compares them with a real message):
GRIB2, tables version 35, local section 1, class ``ai``, stream ``enfo``, type ``pf`` (the control ``cf``), packed as
CCSDS.
Water amounts are converted to kg m-2 and cloud covers to per cent, as ECMWF delivers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.areas import Box
from aifs_ensemble.common.daily import DAY, MAX, MEAN, MIN, SUM, LeadField, fields_at, lead_fields
from aifs_ensemble.common.errors import EncodingError, NotFiniteError
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.names import CONTROL, parse_cycle
from aifs_ensemble.common.parameters import find_variable, parts_of
from aifs_ensemble.fields.area import Cut, cut_of
from aifs_ensemble.fields.ccsds import CcsdsPacker, pack_with_eccodes
from aifs_ensemble.fields.grid_templates import grid_template, set_keys
from aifs_ensemble.fields.grids import grid_coordinates

# Of the real messages. With these tables ecCodes reads 100 m wind as `100u`, as ECMWF's indexes call it, only
# while class is ai and productionStatusOfProcessedData 0 (MTG2SwitchConcept.def): a research status would change
# the names of parameters, so an untrained model is told by its experiment version and process instead.
TABLES_VERSION = 35
UNKNOWN_PROCESS = 255
UNTRAINED_EXPVER = "test"
# WMO code table 4.10, type of statistical processing
PROCESSING = {MEAN: 0, SUM: 1, MAX: 2, MIN: 3}
_SAME_FORECAST = 2  # code table 4.11: same start of the forecast, lead time increases
_HOUR = 1  # code table 4.4
# WMO code table 4.6, type of ensemble forecast
UNPERTURBED, PERTURBED = 5, 6


@dataclass(frozen=True)
class GribParameter:
    """How one variable is written.

    Attributes
    ----------
    short_name, param_id : ECMWF's names of it in GRIB2
    units : after multiplication by `factor`
    keys : level keys set after the parameter
    level : as it stands in an index, None for single-level fields
    levtype : ``sfc``, ``pl`` or ``sol``
    template : number of the product definition template at a point in time
    """

    short_name: str
    param_id: int
    units: str
    keys: Mapping[str, Any]
    factor: float
    level: int | None
    levtype: str
    template: int


@cache
def grib_parameter(variable: str) -> GribParameter:
    """Return how a model variable is written; ConfigError for one that the table of parameters has no row for."""
    parameter, level = find_variable(variable)
    keys: dict[str, Any] = {}
    if parameter.levtype == "pl":
        keys = {"typeOfLevel": "isobaricInhPa", "level": level}
    elif parameter.levtype == "sol":
        keys = {
            "typeOfLevel": "soilLayer",
            "scaleFactorOfFirstFixedSurface": 0,
            "scaledValueOfFirstFixedSurface": level - 1,
            "scaleFactorOfSecondFixedSurface": 0,
            "scaledValueOfSecondFixedSurface": level,
        }
    elif parameter.type_of_level:
        keys = {"typeOfLevel": parameter.type_of_level}
    return GribParameter(
        short_name=parameter.short_name,
        param_id=parameter.param_id,
        units=parameter.grib_units,
        keys=keys,
        factor=parameter.factor,
        level=level or None,
        levtype=parameter.levtype,
        template=parameter.template,
    )


@dataclass(frozen=True)
class CoarseSpec:
    """The second file of each lead: which variables, on which regular grid, interpolated how; JSON-serialisable.

    Attributes
    ----------
    variables : in the order of `OutputSpec.variables`
    methods : MIR's interpolation by variable; ``default`` stands for those that are not named
    cache : folder of the interpolation weights
    """

    grid: str
    variables: tuple[str, ...]
    methods: Mapping[str, str]
    cache: str

    def method(self, variable: str) -> str:
        """Return the interpolation of a variable."""
        return self.methods.get(variable, self.methods["default"])


@dataclass(frozen=True)
class OutputSpec:
    """Everything an encoder needs to know of one member; JSON-serialisable.

    Attributes
    ----------
    variables : order of the messages in a file, and of the rows of a slot but for directions (`rows`)
    ensemble_size : perturbed members of the ensemble, however many are made
    accumulated : variables that hold an amount over a period
    missing : variables that may miss values, which a bitmap tells
    accumulate : ``from_start`` (0 to the lead) or ``per_step`` (the last time step): what those amounts cover
    bits : bits per value by variable
    process : generatingProcessIdentifier, which ecCodes reads as the model's version; 255 unknown
    coarse : the second file of each lead, None for none
    selected : the model makes more variables than these
    daily : statistics of the leads that end a day, after the variables
    area : north, west, south and east in degrees of what is written of the grid, None for all of it
    """

    model: str
    grib_model: str
    grid: str
    cycle: str
    member: int
    ensemble_size: int
    variables: tuple[str, ...]
    accumulated: tuple[str, ...]
    accumulate: str
    timestep_hours: int
    bits: Mapping[str, int]
    untrained: bool
    process: int = UNKNOWN_PROCESS
    coarse: CoarseSpec | None = None
    missing: tuple[str, ...] = ()
    selected: bool = False
    daily: tuple[LeadField, ...] = ()
    area: Box | None = None

    def __post_init__(self) -> None:
        missing = [name for name, _ in self.fields if name not in self.bits]
        if missing:
            raise EncodingError(f"bits: none given for {', '.join(missing)}")
        if self.accumulate not in ("from_start", "per_step"):
            raise EncodingError(f"accumulate: {self.accumulate!r}, expected from_start or per_step")

    def to_json(self) -> dict[str, Any]:
        """Return the specification in JSON-compatible form."""
        return {**asdict(self), "bits": dict(self.bits)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OutputSpec:
        """Return the specification that `to_json` described."""
        known: dict[str, Any] = dict(content)
        for key in ("variables", "accumulated", "missing"):
            known[key] = tuple(content[key])
        known["daily"] = lead_fields(content["daily"])
        if area := content["area"]:
            known["area"] = tuple(area)
        if coarse := content.get("coarse"):
            known["coarse"] = CoarseSpec(**{**coarse, "variables": tuple(coarse["variables"])})
        return cls(**known)

    @property
    def rows(self) -> tuple[str, ...]:
        """The variables of the rows of a slot, as `Model.outputs`: a direction has two, its cosine and its sine."""
        parts = [part for variable in self.variables for part in parts_of(variable)]
        return self.variables if parts == list(self.variables) else tuple(sorted(parts))

    @cached_property
    def fields(self) -> tuple[LeadField, ...]:
        """The fields of a lead that ends a day, in their order."""
        return (*map(LeadField, self.variables), *self.daily)

    def fields_at(self, lead: int) -> tuple[LeadField, ...]:
        """Return the fields of a lead in hours, in their order."""
        return fields_at(lead, self.fields[: len(self.variables)], self.daily)

    @property
    def cycle_time(self) -> datetime:
        return parse_cycle(self.cycle)

    @property
    def type(self) -> str:
        """MARS type: ``pf``, and ``cf`` for the control."""
        return "cf" if self.member == CONTROL else "pf"

    @property
    def expver(self) -> str:
        """Experiment version: ``0001`` as ECMWF's, ``test`` for an untrained model."""
        return UNTRAINED_EXPVER if self.untrained else "0001"

    def period(self, variable: str, lead: int, statistic: str = "") -> tuple[int, int]:
        """Return first and last hour of a variable, or of its daily statistic, at `lead`; equal for an instant."""
        if statistic:
            return lead - DAY, lead
        if variable not in self.accumulated:
            return lead, lead
        return (0 if self.accumulate == "from_start" else lead - self.timestep_hours), lead

    def step_range(self, variable: str, lead: int, statistic: str = "") -> str:
        """Return the period as GRIB spells it: ``24`` or ``0-24``."""
        start, end = self.period(variable, lead, statistic)
        return str(end) if start == end else f"{start}-{end}"


def output_spec(
    model: Model,
    cycle: str,
    member: int,
    *,
    ensemble_size: int,
    bits: Mapping[str, int],
    accumulate: str = "from_start",
    coarse: CoarseSpec | None = None,
    variables: tuple[str, ...] | None = None,
    daily: tuple[LeadField, ...] = (),
    area: Box | None = None,
) -> OutputSpec:
    """Return the specification of one member of a model in the catalogue; `variables` are all by default."""
    kept = model.delivered if variables is None else variables
    return OutputSpec(
        model=model.name,
        grib_model=model.grib_model,
        grid=model.grid,
        cycle=cycle,
        member=member,
        ensemble_size=ensemble_size,
        variables=kept,
        accumulated=tuple(name for name in model.accumulated if name in kept),
        accumulate=accumulate,
        timestep_hours=model.timestep_hours,
        bits=bits,
        untrained=model.untrained,
        process=UNKNOWN_PROCESS if model.untrained else model.grib_process,
        coarse=coarse,
        missing=tuple(name for name in model.delivered if name in model.missing and name in {*kept, *dict(daily)}),
        selected=kept != model.delivered,
        daily=daily,
        area=area,
    )


def processing_keys(statistic: str, timestep_hours: int) -> dict[str, Any]:
    """Return the keys of what a field over time is made of: an amount of all of it, another statistic of the steps."""
    keys = {"typeOfStatisticalProcessing": PROCESSING[statistic], "typeOfTimeIncrement": _SAME_FORECAST}
    if statistic != SUM:
        keys |= {"indicatorOfUnitForTimeIncrement": _HOUR, "timeIncrement": timestep_hours}
    return keys


@cache
def daily_name(variable: str, statistic: str) -> tuple[str, int]:
    """Return ECMWF's short name and number of a daily statistic, as ecCodes finds them for its message."""
    parameter = grib_parameter(variable)
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    try:
        # without class and status of our messages ecCodes has other names for some
        keys = {**origin_keys(datetime(2000, 1, 1)), "productDefinitionTemplateNumber": 11, "class": "ai"}
        keys |= {"paramId": parameter.param_id, **parameter.keys, **processing_keys(statistic, 6)}
        set_keys(handle, keys | {"startStep": 0, "endStep": DAY}, f"{statistic} of {variable}")
        return eccodes.codes_get(handle, "shortName"), eccodes.codes_get(handle, "paramId")
    finally:
        eccodes.codes_release(handle)


def origin_keys(time: datetime) -> dict[str, Any]:
    """Return the keys that say where a message is from and when its forecast starts, in their order."""
    return {
        "tablesVersion": TABLES_VERSION,
        "centre": "ecmf",
        "subCentre": 0,
        "productionStatusOfProcessedData": 0,
        "dataDate": int(time.strftime("%Y%m%d")),
        "dataTime": int(time.strftime("%H%M")),
        "significanceOfReferenceTime": 1,
        "setLocalDefinition": 1,
        "grib2LocalSectionNumber": 1,
    }


def member_keys(spec: OutputSpec) -> dict[str, Any]:
    """Return the keys that all messages of a member share, in the order in which they must be set."""
    return {
        **origin_keys(spec.cycle_time),
        "productDefinitionTemplateNumber": 1,
        "class": "ai",
        "stream": "enfo",
        "type": spec.type,
        "experimentVersionNumber": spec.expver,
        "number": spec.member,
        # ECMWF counts the control. It counts here whether or not it is made: a member's bytes are its own alone
        "numberOfForecastsInEnsemble": spec.ensemble_size + 1,
        "typeOfEnsembleForecast": UNPERTURBED if spec.member == CONTROL else PERTURBED,
        "model": spec.grib_model,
        "generatingProcessIdentifier": spec.process,
        "packingType": "grid_ccsds",
    }


def former_keys(spec: OutputSpec) -> dict[str, Any]:
    """Return the keys that perturbed members had otherwise until November 2026, before there was a control."""
    if spec.member == CONTROL:
        return {}
    return {"numberOfForecastsInEnsemble": spec.ensemble_size, "typeOfEnsembleForecast": UNPERTURBED}


class FieldEncoder:
    """Makes the GRIB messages of one member.

    One light handle per variable is kept, made when first needed; a lead changes only its step. The
    values are packed by `CcsdsPacker` straight from float32, to the bytes that ecCodes itself would
    make, or by ecCodes where libaec cannot be loaded (`native` says which).
    """

    def __init__(self, spec: OutputSpec, *, native: bool | None = None):
        if spec.area is not None and native is False:
            raise EncodingError("native: False with an area, expected libaec: ecCodes packs a part by its own extremes")
        self.spec = spec
        self._handles: dict[LeadField, int] = {}
        self._cut = None if spec.area is None else cut_of(spec.grid, spec.area)
        self._base = grid_template(spec.grid, spec.area)
        set_keys(self._base, member_keys(spec), f"member {spec.member}")
        self.points: int = eccodes.codes_get(self._base, "numberOfDataPoints")
        eccodes.codes_set_values(self._base, np.zeros(self.points))
        self._packer = CcsdsPacker.create(self.points) if native is not False else None
        if (native or self._cut) and self._packer is None:
            raise EncodingError("libaec cannot be loaded, expected the one that comes with ecCodes")
        self._scaled = np.empty(grid_coordinates(spec.grid).points, np.float32)

    @property
    def native(self) -> bool:
        """True if values are packed without ecCodes."""
        return self._packer is not None

    def _handle(self, field: LeadField) -> int:
        if field not in self._handles:
            handle = eccodes.codes_clone(self._base)
            parameter = grib_parameter(field.variable)
            accumulated = field.variable in self.spec.accumulated
            over_time = accumulated or field.statistic
            # from template 1 ecCodes itself goes on to 104, that of waves of some periods, with the periods' keys
            keys = {"productDefinitionTemplateNumber": 11 if over_time else 1, "paramId": parameter.param_id}
            keys |= parameter.keys
            if over_time:
                keys |= processing_keys(field.statistic or SUM, self.spec.timestep_hours)
            set_keys(handle, keys, str(field))
            self._handles[field] = handle
        return self._handles[field]

    def header(self, variable: str, lead: int, statistic: str = "") -> bytes:
        """Return the message of `variable`, or of its daily `statistic`, at `lead` with all values zero."""
        handle = self._handle(LeadField(variable, statistic))
        start, end = self.spec.period(variable, lead, statistic)
        if start == end:
            eccodes.codes_set(handle, "step", end)
        else:
            eccodes.codes_set(handle, "startStep", start)
            eccodes.codes_set(handle, "endStep", end)
        return eccodes.codes_get_message(handle)

    def encode(
        self,
        variable: str,
        lead: int,
        values: npt.NDArray[np.float32],
        header: bytes | None = None,
        statistic: str = "",
    ) -> bytes | memoryview:
        """Return the GRIB message of a variable, or of its daily `statistic`; valid until the next call.

        `values` is float32 ``(value,)`` of the whole grid in the model's units and is left as it is; NaN is a missing
        value where the variable may miss some. Of an area the values are packed as those of the whole are: what is kept
        is the same to the bit. `header` saves making it, where the caller knows it. Raises NotFiniteError naming
        variable, lead and count of other NaN or infinity.
        """
        parameter = grib_parameter(variable)
        if parameter.factor != 1.0:
            values = np.multiply(values, np.float32(parameter.factor), out=self._scaled)
        low, high = values.min(), values.max()
        whole = bool(np.isfinite(low) and np.isfinite(high))
        if not whole:
            bad = np.isinf(values) if variable in self.spec.missing else ~np.isfinite(values)
            if count := int(bad.sum()):
                where = f"member {self.spec.member}: {LeadField(variable, statistic)} at lead {lead} h"
                raise NotFiniteError(f"{where}: {count} of {values.size} values not finite")
        header, bits = header or self.header(variable, lead, statistic), self.spec.bits[variable]
        if self._cut is not None:
            return self._encode_area(self._cut, header, values, (low, high) if whole else None, bits)
        if self._packer is None or not whole:
            return pack_with_eccodes(header, values, bits)
        return self._packer.pack(header, values, float(low), float(high), bits)

    def _encode_area(
        self,
        cut: Cut,
        header: bytes,
        values: npt.NDArray[np.float32],
        extremes: tuple[np.float32, np.float32] | None,
        bits: int,
    ) -> bytes | memoryview:
        """Return the message of an area's rows; `extremes` are those of all values, None where some are missing."""
        assert self._packer is not None
        rows = cut.of(values)
        present = ~np.isnan(rows)
        if not present.any():
            return pack_with_eccodes(header, rows, bits)
        low, high = extremes or (np.nanmin(values), np.nanmax(values))
        return self._packer.pack(header, rows[present], float(low), float(high), bits, present)

    def close(self) -> None:
        """Release the handles."""
        for handle in (*self._handles.values(), self._base):
            eccodes.codes_release(handle)
        self._handles.clear()
