"""The configuration: read, checked, defaults filled in, and what is derived from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.common.areas import Box
from aifs_ensemble.common.config.compared import check_compared
from aifs_ensemble.common.config.ensemble_products import (
    check_areas,
    check_cube,
    check_statistics,
    refuse_direction,
)
from aifs_ensemble.common.config.output import check_kept, kept_area, kept_daily, kept_leads, kept_variables
from aifs_ensemble.common.config.picture_checks import check_pictures
from aifs_ensemble.common.config.sections import Values
from aifs_ensemble.common.cycles import check_cycle, keep_later, parse_cycles
from aifs_ensemble.common.daily import LeadField, fields_at
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.common.names import (
    CONTROL,
    Keys,
    Scratch,
    format_members,
    lead_hours,
    parse_cycle,
    parse_members,
    unit_name,
)
from aifs_ensemble.common.parameters import bits_for, parameter_of
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.units import split_unit
from aifs_ensemble.common.yaml_tables import kind_of, read_yaml

_FINEST = Fraction(1, 4)  # of a coarse lead, degrees: encoders hold a few of them in memory
_FINEST_PRODUCT = 0.01  # of the products' grid, degrees: as of `fields.grids`
OPEN_DATA_MEMBERS = 50  # perturbed members of the IFS ensemble in ECMWF's open data


def read_files(*paths: Path, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the configuration in YAML files, later ones over earlier ones; ConfigError for one that is none.

    `over` are keys over those of all files. Of ``cycle`` and ``cycles`` the one that is given later counts.
    """
    merged: dict[str, Any] = {}
    layers: list[Mapping[str, Any]] = []
    for path in paths:
        try:
            content = read_yaml(path.read_text(encoding="utf-8"), str(path), of_file=True)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such configuration file") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}, expected a configuration file") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path}: byte {error.start} is no UTF-8, expected a text file of keys and values"
            ) from None
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: {kind_of(content)}, expected keys and values")
        layers.append(content)
    for layer in [*layers, over or {}]:
        merge(merged, layer)
    keep_later(merged, [*layers, over or {}])
    return merged


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put `over` into `base`, mappings key by key."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = deepcopy(value)


class Config:
    """A checked configuration, read-only.

    Keys are attributes: those of a section through it (``config.forecast.chunks``), those of none directly
    (``config.lead_hours``). Five of the latter give what the value stands for:

    - ``model``: the catalogue's Model; its name is ``config.model.name``
    - ``members``: the numbers in order, such as (1, 2, 5)
    - ``min_members``: a number, also where the key is null
    - ``cycle``: the text, checked; ``cycle_time`` is the time
    - ``scratch``: the names of files there; the folder is ``config.scratch_root``

    ``given`` has all keys as they were given, with defaults and with places expanded: ``config.given.members``.
    ``leads``, ``output_variables``, ``daily`` and ``area`` (what is delivered), ``steps``, ``objects`` (names at the
    destination), ``cache`` and ``cloud_destination`` are no keys but follow from them.

    ``cycles`` are those of a run: one, or several. ``of_cycle`` gives the configuration of one of them. What is of
    one cycle (``cycle``, ``cycle_time``, ``scratch``, ``objects``) a configuration of several does not have: to ask
    it is a ConfigError.

    ``models`` are the names of those of a run: one, or two. Two have a configuration each (``of_each_model``), with a
    folder of its own below scratch and destination. What is of one model (``model``, ``output_variables``, ``daily``,
    and what is of one cycle) a configuration of two does not have. ``of_each_cycle`` gives the configuration of each
    unit (`common.units`), ``of_unit`` that of one by its name, ``unit``.

    `files` are the YAML files that `raw` was read from: an error then names file and line. Raises ConfigError, one
    line for each key that is wrong, naming it, its value and what was expected.
    """

    _each_model: Mapping[str, Config]
    leads: tuple[int, ...]
    area: Box | None

    def __init__(self, raw: Mapping[str, Any], files: Sequence[Path] = ()):
        try:
            self._settle(raw)
        except ConfigError:
            from aifs_ensemble.common.config.problems import all_problems

            raise all_problems(raw, files, self._settle) from None

    def _settle(self, raw: Mapping[str, Any]) -> None:
        text = json.dumps(raw, default=str)
        try:
            values = Values.model_validate_json(text)
        except ValidationError as error:
            from aifs_ensemble.common.config.problems import explain

            raise explain(error, json.loads(text)) from None
        if isinstance(values.model, str):
            _check_known(values)
            if values.model in values.by_model:
                own = _with_own_keys(values, values.model)
                values = Values.model_validate_json(json.dumps(own | {"by_model": {}}))
            self._settle_one(values, str(values.model))
        else:
            self._settle_each(values, values.model)

    # of one of several models: its folder below scratch and destination
    model_folder = ""

    def _settle_each(self, values: Values, models: Sequence[str]) -> None:
        """Settle the configuration of several models: that of each, and what they have in common."""
        _check_models(values, models)
        self._settle_shared(values)
        each: dict[str, Config] = {}
        for name in models:
            each[name] = object.__new__(Config)
            each[name]._settle(_keys_of_model(values, name, self.cycles))
            each[name].model_folder = name
        first = each[models[0]]
        for name, one in each.items():
            if one.leads != first.leads:
                raise ConfigError(f"config: model: {name} makes other leads than {models[0]}, expected the same")
        check_compared(tuple(each.values()))
        self._each_model = each
        # both have the same leads, and an area is the same of any grid
        self.leads, self.area = first.leads, first.area

    def _settle_shared(self, values: Values) -> None:
        """Settle what is the same of all models of a run."""
        self.given = values
        self._each_model = {}
        self.cycles = _cycles(values)
        self.members = parse_members(values.members)
        self.lead_hours = values.lead_hours
        self.scratch_root = Path(values.scratch)
        self.ensemble_size = values.ensemble_size
        self.min_members = len(self.members) if values.min_members is None else values.min_members
        self.checkpoint, self.trust_checkpoint = values.checkpoint, values.trust_checkpoint
        self.destination = values.destination
        self.keep_scratch, self.declare_leads = values.keep_scratch, values.declare_leads
        self.initial_conditions, self.forecast = values.initial_conditions, values.forecast
        self.delivery, self.keep, self.cloud = values.delivery, values.keep, values.cloud
        self.products, self.report, self.notify = values.products, values.report, values.notify

    def _settle_one(self, values: Values, model: str) -> None:
        """Settle the configuration of one model."""
        self._model: Model = get_model(model)
        self._settle_shared(values)
        self.leads = kept_leads(values.forecast.output, lead_hours(values.lead_hours, self.model.timestep_hours))
        _check_members(self)
        if self.initial_conditions.source == "file" and not self.initial_conditions.file.path:
            raise ConfigError("config: initial_conditions.file.path is missing: source is file")
        self._output_variables = kept_variables(self.forecast.output, self.model.delivered)
        self._daily = kept_daily(self.forecast.output, self.model.delivered, self.output_variables, self.leads)
        self.area = kept_area(self.forecast.output, self.model.grid)
        _check_precision(self)
        _check_variables(self)
        _check_products(self)
        check_kept(self)

    def to_dict(self) -> dict[str, Any]:
        """Return keys and values as given, with defaults: what JSON and YAML take, and ``Config`` takes again.

        Cycles are named one by one, whatever file named them.
        """
        return self.given.model_dump() | ({"cycles": list(self.cycles)} if self.given.cycles is not None else {})

    def of_cycle(self, cycle: str) -> Config:
        """Return the configuration of one cycle; of `EACH_CYCLE`, for names that stand for those of any cycle."""
        if (cycle,) == self.cycles:
            return self
        found = copy(self)
        found.cycles = (cycle,)
        found.given = self.given.model_copy(update={"cycle": cycle, "cycles": None})
        found._each_model = {name: one.of_cycle(cycle) for name, one in self._each_model.items()}
        return found

    def of_model(self, name: str) -> Config:
        """Return the configuration of one model; of `EACH_MODEL`, for names that stand for those of any model."""
        if name in self._each_model:
            return self._each_model[name]
        if not (self._each_model and name):
            return self
        first = next(iter(self._each_model.values()))
        found = copy(first)
        found._model = replace(first.model, name=name)
        found.model_folder, found.scratch_root = name, self.scratch_root / name
        found.destination = _below(self.destination, name)
        return found

    def of_unit(self, unit: str) -> Config:
        """Return the configuration of a unit of the run, or of the name that stands for any (`units.each_unit`)."""
        model, cycle = split_unit(unit)
        return self.of_model(model).of_cycle(cycle)

    @property
    def of_each_model(self) -> tuple[Config, ...]:
        """The configuration of each model."""
        return tuple(self._each_model.values()) or (self,)

    @property
    def of_each_cycle(self) -> tuple[Config, ...]:
        """The configuration of each cycle, with several models of each model and cycle."""
        return tuple(one.of_cycle(cycle) for one in self.of_each_model for cycle in self.cycles)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models of a run."""
        return tuple(self._each_model) or (self.model.name,)

    @property
    def units(self) -> tuple[str, ...]:
        """The names of the units of a run."""
        return tuple(one.unit for one in self.of_each_cycle)

    @property
    def unit(self) -> str:
        """What messages call the cycle, with several models that of one of them: ``demo/20250819_0000``."""
        return unit_name(self.model_folder, self.cycle)

    @property
    def model(self) -> Model:
        """The model; ConfigError where there are several."""
        self._refuse_several()
        return self._model

    @property
    def output_variables(self) -> tuple[str, ...]:
        """The variables that the leads hold; ConfigError where there are several models."""
        self._refuse_several()
        return self._output_variables

    @property
    def daily(self) -> tuple[LeadField, ...]:
        """The daily statistics that the leads hold; ConfigError where there are several models."""
        self._refuse_several()
        return self._daily

    def _refuse_several(self) -> None:
        """Raise ConfigError where there are several models, so that nothing is done for half of them."""
        if self._each_model:
            named = " and ".join(self._each_model)
            raise ConfigError(f"config: model: {named}, expected one here: --model NAME, or --config model=NAME")

    @property
    def cycle(self) -> str:
        """The cycle; ConfigError where there are several."""
        if len(self.cycles) > 1:
            named = f"{len(self.cycles)} cycles, {self.cycles[0]} to {self.cycles[-1]}"
            raise ConfigError(f"config: cycles: {named}, expected one here (--cycle)")
        return self.cycles[0]

    @property
    def cycle_time(self) -> datetime:
        """The cycle as a UTC time."""
        return parse_cycle(self.cycle)

    @property
    def scratch(self) -> Scratch:
        """Names of the cycle's files on scratch."""
        self._refuse_several()
        return Scratch(self.scratch_root, self.cycle)

    @property
    def objects(self) -> Keys:
        """Names of the cycle's objects at the destination."""
        self._refuse_several()
        return Keys(self.cycle)

    def state_of(self, member: int) -> int:
        """Return the member of the source whose state a member starts from: its own, or one that several share."""
        states = -(-self.ensemble_size // self.initial_conditions.members_per_state)
        return (member - 1) % states + 1 if member != CONTROL else CONTROL

    @property
    def steps(self) -> tuple[int, ...]:
        """Lead times in hours of the steps that a member takes: up to its last lead, delivered or not."""
        return lead_hours(self.leads[-1], self.model.timestep_hours)

    @property
    def lead_fields(self) -> float:
        """Fields of a lead, on average over the leads: those that end a day have daily statistics too."""
        days = sum(len(fields_at(lead, (), self.daily)) for lead in self.leads) / len(self.leads)
        return len(self.output_variables) + days if days else len(self.output_variables)

    @property
    def report_field(self) -> str:
        """The variable of the report's maps: ``report.field``, or the first one that the leads hold, if any."""
        if self.report.field in self.output_variables or not self.output_variables:
            return self.report.field
        return self.output_variables[0]

    @property
    def periods(self) -> dict[str, int]:
        """First hour of each period of ``products.weekly`` that ends within the forecast, by its name."""
        weekly = self.products.weekly
        named = weekly.named_periods if weekly.enabled else {}
        return {name: start for name, start in named.items() if start + weekly.hours <= self.lead_hours}

    @property
    def coarse_grid(self) -> str:
        """The grid of coarse leads."""
        return self.products.coarse.grid or self.products.grid

    @property
    def coarse_variables(self) -> tuple[str, ...]:
        """The variables of coarse leads, in the model's order; none where these are not asked for."""
        coarse = self.products.coarse
        if not coarse.enabled:
            return ()
        return tuple(v for v in self.output_variables if coarse.variables == "all" or v in coarse.variables)

    @property
    def coarse_methods(self) -> dict[str, str]:
        """The interpolation of coarse leads by variable; ``default`` stands for those that are not named."""
        own = self.products.coarse.method
        usual = {} if "default" in own else self.products.interpolation
        return {"default": "linear", **usual, **own}

    @property
    def cache(self) -> Path:
        return Path(self.initial_conditions.cache or self.scratch_root / "cache")

    @property
    def cloud_destination(self) -> bool:
        return (self.destination or "").startswith("gs://")


def _check_known(values: Values) -> None:
    """Raise ConfigError for keys that say something of a model which there is not."""
    for name in values.by_model:
        try:
            get_model(name)
        except ConfigError as error:
            raise ConfigError(f"config: by_model: {str(error).removeprefix('model: ')}") from None


def _check_models(values: Values, models: Sequence[str]) -> None:
    """Raise ConfigError for a list of models that cannot be one run, or keys that say something of another model."""
    if len(models) != 2:
        raise ConfigError(f"config: model: {list(models)!r}, expected one or two models")
    for name in models:
        get_model(name)
    for name in values.by_model:
        if name not in models:
            raise ConfigError(f"config: by_model: {name!r}, expected one of {' and '.join(models)}, which model names")
    initial = values.initial_conditions
    if initial.source == "file" and not initial.file.path:
        for name in models:
            if name not in values.by_model or not values.by_model[name].path:
                raise ConfigError(
                    f"config: initial_conditions.file.path is missing: source is file, and by_model.{name} has no path"
                )
    if values.checkpoint:
        raise ConfigError(
            f"config: checkpoint: {values.checkpoint!r}, expected null: with several models by_model has that of each"
        )


def _keys_of_model(values: Values, name: str, cycles: Sequence[str]) -> dict[str, Any]:
    """Return the keys that a run of one of the models alone would be given."""
    raw = _with_own_keys(values, name) | {"model": name, "by_model": {}}
    if values.cycles is not None:
        raw["cycles"] = list(cycles)
    raw["scratch"], raw["destination"] = f"{values.scratch.rstrip('/')}/{name}", _below(values.destination, name)
    # what both download is downloaded once
    initial = raw["initial_conditions"]
    initial["cache"] = initial["cache"] or str(Path(values.scratch) / "cache")
    return raw


def _with_own_keys(values: Values, name: str) -> dict[str, Any]:
    """Return all keys, those of `by_model` for a model in their places."""
    raw = values.model_dump()
    own = values.by_model[name].model_dump() if name in values.by_model else {}
    places = {
        "checkpoint": raw,
        "trust_checkpoint": raw,
        "gpu_mem_mb": raw["forecast"],
        "gpu_image": raw["cloud"],
        "path": raw["initial_conditions"]["file"],
    }
    for key, section in places.items():
        if own.get(key) is not None:
            section[key] = own[key]
    return raw


def _below(destination: str | None, name: str) -> str | None:
    """Return the folder of a model below a destination."""
    return destination and f"{destination.rstrip('/')}/{name}"


def _cycles(values: Values) -> tuple[str, ...]:
    """Return the cycles that one of the two keys names; ConfigError where none does, or both."""
    if values.cycles is None:
        if values.cycle is None:
            raise ConfigError(
                "config: cycle is missing: the initial time YYYYMMDD_HHMM, or several with the key cycles"
            )
        check_cycle(values.cycle)
        return (values.cycle,)
    if values.cycle is not None:
        raise ConfigError(f"config: cycles: beside cycle: {values.cycle!r}, expected one of the two")
    return parse_cycles(values.cycles)


def _check_members(config: Config) -> None:
    """Raise ConfigError for more members than there are."""
    count, last = len(config.members), config.members[-1]
    if config.min_members > count:
        raise ConfigError(f"config: min_members: {config.min_members}, expected at most the {count} members")
    if last > config.ensemble_size:
        raise ConfigError(f"config: members: {last} is above ensemble_size {config.ensemble_size}")
    beyond = [member for member in config.members if config.state_of(member) > OPEN_DATA_MEMBERS]
    if beyond and config.initial_conditions.source == "ecmwf-open-data":
        needed = -(-config.ensemble_size // OPEN_DATA_MEMBERS)
        raise ConfigError(
            f"config: members: {format_members(beyond)} are not in ECMWF's open data, which has the control and 1-"
            f"{OPEN_DATA_MEMBERS}; initial_conditions.members_per_state: {needed} starts several from the same state"
        )


def _check_precision(config: Config) -> None:
    """Raise ConfigError for float8 without what alone computes in it: the accelerated pass, on a GPU."""
    forecast = config.forecast
    if forecast.precision != FLOAT8:
        return
    for key, right in (("compile", (True,)), ("accelerate", (True,)), ("device", ("auto", "cuda"))):
        if (value := getattr(forecast, key)) not in right:
            told = str(value).lower()
            raise ConfigError(
                f"config: forecast.precision: fp8 with {key}: {told}, expected 16, bf16 or 32: only the accelerated "
                "forward pass on a GPU computes in float8"
            )


def _check_variables(config: Config) -> None:
    """Raise ConfigError for a key that names something which the model does not make."""
    model = config.model
    if config.forecast.packing:
        bits_for(model.delivered, config.forecast.packing)
    field = config.report.field
    if field not in model.delivered:
        meant = hint(field, model.delivered, f"such as {model.delivered[0]}")
        raise ConfigError(f"config: report.field: {field!r}, expected a variable that {model.name} makes, {meant}")


def _check_products(config: Config) -> None:
    """Raise ConfigError for a product that cannot be made from what the forecasts will hold."""
    _check_grid(config)
    _check_evaluation(config)
    products, weekly = config.products, config.products.weekly
    check_statistics(config)
    check_cube(config)
    named = {f"interpolation.{name}": name for name in products.interpolation}
    if products.members.enabled:
        named |= {f"members.variables: {name}": name for name in products.members.variables}
    if weekly.enabled:
        named |= {f"weekly.variables.{name}.variable": item.variable for name, item in weekly.variables.items()}
        _check_periods(config)
    named |= _check_coarse(config)
    if products.pictures.enabled:
        check_pictures(config)
    for key, variable in named.items():
        if variable not in config.model.delivered:
            meant = hint(variable, config.model.delivered, f"such as {config.model.delivered[0]}")
            raise ConfigError(
                f"config: products.{key}: {variable!r}, expected a variable that {config.model.name} makes, {meant}"
            )


def _check_grid(config: Config) -> None:
    """Raise ConfigError for a grid of the products that is none."""
    grid = config.products.grid
    for degrees in map(float, grid.split("x")):
        count = round(180 / degrees) if degrees >= _FINEST_PRODUCT else 0
        if not count or abs(count * degrees - 180) > 1e-9:
            raise ConfigError(
                f"config: products.grid: {grid}, expected {_FINEST_PRODUCT} degrees or more that divide 180"
            )


def _check_coarse(config: Config) -> dict[str, str]:
    """Raise ConfigError for a grid that no coarse lead can be on; return the variables that the section names."""
    coarse = config.products.coarse
    named = {f"coarse.method.{name}": name for name in coarse.method if name != "default"}
    if isinstance(coarse.variables, str):
        if coarse.variables != "all":
            raise ConfigError(f"config: products.coarse.variables: {coarse.variables!r}, expected all or a list")
    else:
        named |= {f"coarse.variables: {name}": name for name in coarse.variables}
        if coarse.enabled and not coarse.variables:
            raise ConfigError("config: products.coarse.variables: [], expected all or variables of the model")
    if coarse.enabled:
        key = "coarse.grid" if coarse.grid else "grid"
        for degrees in map(Fraction, config.coarse_grid.split("x")):
            # GRIB counts in millionths of a degree
            if degrees < _FINEST or (180 / degrees).denominator > 1 or (degrees * 10**6).denominator > 1:
                raise ConfigError(
                    f"config: products.{key}: {config.coarse_grid}, expected 0.25 degrees or more that divide 180 "
                    "(products.coarse.enabled)"
                )
    return named


def _check_periods(config: Config) -> None:
    weekly = config.products.weekly
    for start in weekly.periods:
        if start < 6 or start % config.model.timestep_hours:
            raise ConfigError(f"config: products.weekly.periods: {start}, expected a step of the forecast from 6 h on")
    for name, item in weekly.variables.items():
        accumulates = item.variable in config.model.delivered and parameter_of(item.variable).accumulates
        if item.variable in config.model.delivered and accumulates != (item.statistic == "sum"):
            right = "sum, for it is an amount" if accumulates else "mean, for it is no amount"
            raise ConfigError(f"config: products.weekly.variables.{name}.statistic: {item.statistic}, expected {right}")
        refuse_direction(f"weekly.variables.{name}.variable", item.variable)
    if bool(weekly.team) != bool(weekly.submission_model):
        raise ConfigError("config: products.weekly: team and submission_model, expected both or neither")
    if weekly.team and len(config.periods) < len(weekly.periods):
        raise ConfigError(
            f"config: lead_hours: {config.lead_hours}, expected {max(weekly.periods) + weekly.hours}: "
            "products.weekly.team asks for the files of a submission"
        )
    if weekly.team and not weekly.climatology:
        raise ConfigError("config: products.weekly.climatology is missing: team asks for the files of a submission")


def _check_evaluation(config: Config) -> None:
    """Raise ConfigError for scores that nothing could be compared with."""
    evaluation, where = config.products.evaluation, "config: products.evaluation"
    if evaluation.source == "file" and not evaluation.path:
        raise ConfigError(f"{where}.path is missing: source is file")
    for name in evaluation.variables:
        if name not in config.model.delivered:
            meant = hint(name, config.model.delivered, f"such as {config.model.delivered[0]}")
            raise ConfigError(
                f"{where}.variables: {name!r}, expected a variable that {config.model.name} makes, {meant}"
            )
        if parameter_of(name).accumulates:
            raise ConfigError(f"{where}.variables: {name!r} is an amount, which no analysis holds; expected an instant")
        refuse_direction("evaluation.variables", name)
    if evaluation.enabled and config.lead_hours < evaluation.every_hours:
        raise ConfigError(
            f"{where}.every_hours: {evaluation.every_hours}, expected at most lead_hours, {config.lead_hours}"
        )
    for name, bounds in evaluation.areas.items():
        north, west, south, east = bounds
        if not (-90 <= south < north <= 90 and -360 <= west <= 360 and -360 <= east <= 360):
            raise ConfigError(
                f"{where}.areas.{name}: {bounds}, expected north, west, south and east in degrees, south below north"
            )
    if evaluation.enabled:
        check_areas(config)
