"""``forecast.output``: what is delivered, and whether products find in it what they need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from math import cos, radians
from typing import TYPE_CHECKING, NamedTuple

from aifs_ensemble.common.areas import Box, one_area
from aifs_ensemble.common.daily import DAY, MAX, MEAN, MIN, STATISTICS, SUM, LeadField, fields_at
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import lead_name
from aifs_ensemble.common.parameters import is_direction, parameter_of, split_variable
from aifs_ensemble.common.periods import weights_of_leads, window_ends
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.wind_speed import sources, wind_speed

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.common.config.sections import Output

_OUT = "forecast.output"
_KEY = f"config: {_OUT}"


def kept_variables(output: Output, made: Sequence[str]) -> tuple[str, ...]:
    """Return the variables of the leads, in the model's order; ConfigError for what the model does not make."""
    if output.variables == "all" and not output.levels:
        return tuple(made)
    levels = {split_variable(name)[1] for name in made if parameter_of(name).levtype == "pl"}
    for level in output.levels:
        if level not in levels:
            raise ConfigError(f"{_KEY}.levels: {level}, expected some of {', '.join(map(str, sorted(levels)))}")
    if isinstance(output.variables, str):
        if output.variables != "all":
            raise ConfigError(f"{_KEY}.variables: {output.variables!r}, expected all or a list")
        names = {split_variable(name)[0] for name in made}
    else:
        names = set(output.variables)
    found = _named("variables", names, output, made)
    if not found and not output.daily:
        raise ConfigError(f"{_KEY}.variables: {output.variables!r}, expected at least one")
    return found


def _named(key: str, names: Collection[str], output: Output, made: Sequence[str]) -> tuple[str, ...]:
    """Return the variables that are meant by parameters, on the levels of the output, and variables."""
    known = {*made, *(split_variable(name)[0] for name in made)}
    for name in sorted(set(names) - known):
        meant = hint(name, known, f"such as {made[0]}")
        raise ConfigError(f"{_KEY}.{key}: {name!r}, expected parameters or variables of the model, {meant}")

    def kept(name: str) -> bool:
        parameter, level = split_variable(name)
        on_level = parameter_of(name).levtype == "pl"
        return name in names or (parameter in names and (not on_level or not output.levels or level in output.levels))

    return tuple(name for name in made if kept(name))


def kept_daily(
    output: Output, made: Sequence[str], variables: Collection[str], leads: Sequence[int]
) -> tuple[LeadField, ...]:
    """Return the daily statistics of the leads, in the model's order; ConfigError for what GRIB has no name for."""
    asked: dict[str, set[str]] = {}
    for key, statistics in output.daily.items():
        if not statistics:
            raise ConfigError(f"{_KEY}.daily.{key}: [], expected some of {', '.join(STATISTICS)}")
        for variable in _named("daily", [key], output, made):
            for statistic in statistics:
                _check_daily(key, variable, statistic, kept=variable in variables)
            asked.setdefault(variable, set()).update(statistics)
    found = tuple(LeadField(name, one) for name in made for one in STATISTICS if one in asked.get(name, ()))
    if found and not any(fields_at(lead, (), found) for lead in leads):
        raise ConfigError(f"{_KEY}.daily: no lead ends a day, expected some of 24 h, 48 h ... (leads, every_hours)")
    plain = tuple(map(LeadField, variables))
    for lead in leads:
        if not fields_at(lead, plain, found):
            raise ConfigError(
                f"{_KEY}: nothing is left of {lead_name(lead)}, expected every_hours: {DAY}, or variables"
            )
    return found


def _check_daily(key: str, variable: str, statistic: str, *, kept: bool) -> None:
    """Raise ConfigError for a statistic that is none, or that readers would take for what the leads hold besides."""
    parameter, where = parameter_of(variable), f"{_KEY}.daily.{key}: {statistic}"
    if parameter.accumulates != (statistic == SUM):
        amount, right = ("an amount", SUM) if parameter.accumulates else ("no amount", f"{MEAN}, {MAX} or {MIN}")
        raise ConfigError(f"{where}: {variable} is {amount}, expected {right}")
    if is_direction(variable):
        raise ConfigError(f"{where}: {variable} is a direction, which has none, expected another variable")
    if parameter.template != 1:
        raise ConfigError(f"{where}: GRIB2 has no statistics of waves of some periods, expected another variable")
    if kept and (parameter.accumulates or statistic in parameter.nameless):
        raise ConfigError(
            f"{where}: it has the GRIB name of {variable} in the same lead, and readers would take one for the other; "
            f"expected {_OUT}.variables without {variable}, or no daily {statistic}"
        )


def kept_area(output: Output, grid: str) -> Box | None:
    """Return the area that leads hold, None for the globe; ConfigError for none, or for one that may hold no point."""
    if output.area is None:
        return None
    area = one_area(output.area, f"{_OUT}.area")
    if area.is_globe:
        return None
    spacing = 90 / int(grid[1:])  # of a Gaussian grid, degrees of latitude, and of longitude where rows are longest
    nearest = 0.0 if area.south <= 0 <= area.north else min(abs(area.south), abs(area.north))
    needed = 2 * spacing, 2 * spacing / max(cos(radians(min(nearest + spacing, 90))), 1e-6)
    if area.north - area.south < needed[0] or area.east - area.west < min(needed[1], 360):
        raise ConfigError(
            f"{_KEY}.area: {output.area}, expected at least {needed[0]:.2g} degrees from south to north and "
            f"{min(needed[1], 360):.2g} from west to east, so that it has points of {grid}"
        )
    return area.box


def kept_leads(output: Output, steps: tuple[int, ...]) -> tuple[int, ...]:
    """Return the leads that are delivered, in hours; ConfigError for hours that are no step of the forecast."""
    every = output.every_hours or steps[0]
    if every % steps[0] or every > steps[-1]:
        raise ConfigError(f"{_KEY}.every_hours: {every}, expected a multiple of {steps[0]}, at most lead_hours")
    if output.leads and output.every_hours:
        raise ConfigError(f"{_KEY}: leads and every_hours, expected one of them")
    for lead in output.leads:
        if lead not in steps:
            raise ConfigError(f"{_KEY}.leads: {lead}, expected multiples of {steps[0]} up to lead_hours, {steps[-1]}")
    return tuple(sorted(output.leads)) or tuple(lead for lead in steps if lead % every == 0)


class _Need(NamedTuple):
    """What a product needs: its key, the variable of it, and leads in hours beside those that are there."""

    key: str
    variable: str
    leads: Iterable[int] = ()


def check_kept(config: Config) -> None:
    """Raise ConfigError, naming product and variable or lead, for a product that needs what is not delivered."""
    if config.area is not None:
        _check_area(config)
    kept, leads = set(config.output_variables), set(config.leads)
    everything = config.steps == config.leads and config.leads[-1] == config.lead_hours
    if everything and len(kept) == len(config.model.delivered):
        return
    for need in _needs(config):
        for variable in sources(need.variable):
            if variable in config.model.delivered and variable not in kept:
                raise ConfigError(f"config: products.{need.key}: needs {variable}, which {_OUT}.variables leaves out")
        for lead in need.leads:
            if lead and lead not in leads:
                raise ConfigError(
                    f"config: products.{need.key}: needs {need.variable} at {lead_name(lead)}, which {_OUT} leaves out"
                )


def _check_area(config: Config) -> None:
    """Raise ConfigError for a product that reads what the area leaves out: anything but coarse leads of the globe."""
    products = config.products
    for on, what in (
        (products.cube.enabled, "cube"),
        (products.pictures.enabled and bool(products.pictures.places), "pictures.places"),
    ):
        if on:
            raise ConfigError(
                f"config: products.{what}: needs leads of the whole globe, of which {_OUT}.area is a part"
            )
    for need in _needs(config):
        if not need.key.startswith("coarse"):
            for variable in sources(need.variable):
                refuse_part(config, need.key, variable)


def refuse_part(config: Config, key: str, variable: str, otherwise: str = "") -> None:
    """Raise ConfigError unless coarse leads hold a variable of the globe as products of part of it read it.

    `key` is the product's; `otherwise` says what else would be right.
    """
    products = config.products
    way = products.interpolation.get(variable, "linear")
    made = config.coarse_grid == products.grid and variable in config.coarse_variables
    if not made or config.coarse_methods.get(variable, config.coarse_methods["default"]) != way:
        raise ConfigError(
            f"config: products.{key}: needs {variable} of the whole globe, of which {_OUT}.area is a part; expected "
            f"it in products.coarse, on {products.grid} by {way} interpolation{otherwise}"
        )


def _needs(config: Config) -> Iterator[_Need]:
    """Yield what the products that are on need."""
    products = config.products
    if products.coarse.enabled and not config.output_variables:
        yield _Need("coarse", config.model.delivered[0])
    if products.coarse.enabled and not isinstance(products.coarse.variables, str):
        yield from (_Need(f"coarse.variables: {name}", name) for name in products.coarse.variables)
    if products.members.enabled:
        yield from (_Need(f"members.variables: {name}", name) for name in products.members.variables)
    if products.weekly.enabled:
        yield from _weekly(config)
    if products.statistics.enabled:
        yield from _statistics(config)
    if products.cube.enabled:
        if not config.output_variables:
            yield _Need("cube", config.model.delivered[0])
        yield from (_Need(f"cube.regular: {name}", name) for name in products.cube.regular)
    if products.evaluation.enabled:
        every = range(products.evaluation.every_hours, config.lead_hours + 1, products.evaluation.every_hours)
        yield from (_Need(f"evaluation.variables: {name}", name, every) for name in products.evaluation.variables)
    if products.pictures.enabled:
        yield from _pictures(config)


def _amount(config: Config, start: int, hours: int, statistic: str = "sum") -> dict[int, float]:
    from_start = config.forecast.accumulate == "from_start"
    return weights_of_leads(statistic, start, hours, step=config.model.timestep_hours, from_start=from_start)


def _weekly(config: Config) -> Iterator[_Need]:
    weekly = config.products.weekly
    for name, item in weekly.variables.items():
        for start in config.periods.values():
            yield _Need(f"weekly.variables.{name}", item.variable, _amount(config, start, weekly.hours, item.statistic))


def _statistics(config: Config) -> Iterator[_Need]:
    statistics = config.products.statistics
    for name in statistics.variables:
        key = f"statistics.variables: {name}"
        if wind_speed(name) or not parameter_of(name).accumulates:
            yield _Need(key, name)
            continue
        ends = [(hours, lead) for hours in statistics.windows for lead in config.leads if window_ends(hours, lead)]
        yield _Need(key, name, (one for hours, lead in ends for one in _amount(config, lead - hours, hours)))


def _pictures(config: Config) -> Iterator[_Need]:
    pictures = config.products.pictures
    maps = range(pictures.step_hours, config.lead_hours + 1, pictures.step_hours)
    for name in pictures.variables:
        key = f"pictures.variables: {name}"
        amount = not wind_speed(name) and parameter_of(name).accumulates
        hours = pictures.amount_hours if amount else 0
        before = (one for lead in maps if lead >= hours > 0 for one in _amount(config, lead - hours, hours))
        yield _Need(key, name, [*maps, *before])
    if pictures.places:  # they show each step, of the variables that there are
        yield _Need("pictures.places", "every variable", config.steps)
