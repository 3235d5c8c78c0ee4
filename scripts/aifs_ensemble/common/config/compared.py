"""What two models of a run are compared by, and whether their leads will hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aifs_ensemble.common.config.ensemble_products import check_areas, refuse_direction
from aifs_ensemble.common.config.output import refuse_part
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.parameters import is_direction
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.wind_speed import sources

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config


def compared_variables(each: Sequence[Config]) -> list[str]:
    """Return the variables that are compared, in the order of the first model: those that both make.

    `each` are the configurations of the two models.
    """
    first, second = each
    wanted = first.products.compare.variables or first.coarse_variables or _of_pictures(first)
    both = [name for name in first.output_variables if name in second.output_variables and not is_direction(name)]
    return [name for name in both if name in wanted] or both[:1]


def _of_pictures(config: Config) -> list[str]:
    return [source for name in config.products.pictures.variables for source in sources(name)]


def check_compared(each: Sequence[Config]) -> None:
    """Raise ConfigError for a comparison of what one of two models does not make, or does not deliver."""
    compare = each[0].products.compare
    for name in compare.variables:
        for one in each:
            if name not in one.model.delivered:
                meant = hint(name, one.model.delivered, f"such as {one.model.delivered[0]}")
                raise ConfigError(
                    f"config: products.compare.variables: {name!r}, expected a variable that {one.model.name} makes, "
                    f"{meant}"
                )
        refuse_direction("compare.variables", name)
    if not compare.enabled:
        return
    for name in compare.variables:
        if any(name not in one.output_variables for one in each):
            raise ConfigError(
                f"config: products.compare.variables: needs {name}, which forecast.output.variables leaves out"
            )
    check_areas(each[0])
    variables = compared_variables(each)
    if not variables:
        raise ConfigError(
            "config: products.compare.enabled: true, expected false: the leads of both models hold no field alike that "
            "has a mean"
        )
    key = "compare.variables" if compare.variables else "compare"
    for one in each:
        for name in variables if one.area else ():
            refuse_part(one, key, name, ", or products.compare.enabled: false")
