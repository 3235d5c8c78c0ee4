"""What counts as sound of a step's fields: numbers, and what was missing in its input where the model knows of that."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
import torch
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.forecast.sound_fields import SoundFields, missing_for_good
from aifs_ensemble.model.stepper import TensorPlaces

from forecast.cases import initial_state

CPU = torch.device("cpu")
POINTS = 6


def check(model: Model) -> tuple[SoundFields, torch.Tensor, torch.Tensor]:
    """The check of a model whose input has its prognostic variables in reverse; fields and an input that pass it."""
    order = tuple(reversed(range(len(model.prognostic))))
    places = TensorPlaces(
        times=2, points=POINTS, inputs=len(order), step=timedelta(hours=6), state_index=(), prognostic_in=order,
        prognostic_out=(), output_index=(), accumulated_out=(), accumulated_row=(),
    )  # fmt: skip
    return (
        SoundFields(model, model.outputs, places, CPU),
        torch.ones(len(model.outputs), POINTS),
        torch.ones(POINTS, len(order)),
    )


def wrong(found: torch.Tensor, model: Model) -> set[str]:
    return {name for name, sound in zip(model.outputs, found.tolist(), strict=True) if not sound}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_model_that_misses_nothing_has_numbers_everywhere(value: float) -> None:
    model = get_model("demo")
    sound, fields, newest = check(model)
    fields[model.outputs.index("2t"), 3] = value
    assert wrong(sound(fields, newest), model) == {"2t"}


def test_values_may_be_missing_where_they_were_missing_in_the_input() -> None:
    model = get_model("demo-v2")
    sound, fields, newest = check(model)
    newest[2, len(model.prognostic) - 1 - model.prognostic.index("swh")] = torch.nan
    assert not wrong(sound(fields, newest), model)  # a number in their place is none of this check's business
    fields[model.outputs.index("swh"), 2] = torch.nan
    assert not wrong(sound(fields, newest), model)
    fields[model.outputs.index("swh"), 3] = torch.nan
    fields[model.outputs.index("mwp"), 2] = torch.nan
    fields[model.outputs.index("2t"), 2] = torch.nan
    assert wrong(sound(fields, newest), model) == {"swh", "mwp", "2t"}


def test_what_is_not_finite_is_never_sound() -> None:
    model = get_model("demo-v2")
    sound, fields, newest = check(model)
    newest.fill_(torch.nan)
    for name in ("swh", "snowc", "ro"):
        fields[model.outputs.index(name), 0] = torch.inf
    assert wrong(sound(fields, newest), model) == {"swh", "snowc", "ro"}


def test_what_is_only_made_may_be_missing_where_the_table_says_so() -> None:
    model = get_model("demo-v2")
    sound, fields, newest = check(model)
    fields[model.outputs.index("snowc"), 1] = torch.nan
    fields[model.outputs.index("tp"), 1] = torch.nan
    assert wrong(sound(fields, newest), model) == {"tp"}


def test_variables_whose_missing_values_nothing_fills_in() -> None:
    model = get_model("demo-v2")
    state = initial_state(model)
    missing = {name for name in model.inputs if np.isnan(state.variable(name)).any()}
    assert {"swh", "sd", "wmb"} <= missing
    assert missing_for_good(state, missing) == []
    assert missing_for_good(state, missing - {"wmb", "sd"}) == ["sd", "wmb"]
