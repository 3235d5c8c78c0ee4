"""The rollout against anemoi-inference's own runner, and its pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model
from aifs_ensemble.forecast import engine
from aifs_ensemble.forecast.request import ForecastRequest, read_initial
from aifs_ensemble.forecast.rollout import Rollout, roll
from aifs_ensemble.model.edges import choose_edges
from aifs_ensemble.model.noise import seed_device
from aifs_ensemble.model.stepper import Stepper, TensorPlaces
from anemoi.inference.post_processors.accumulate import Accumulate
from anemoi.inference.runners.simple import SimpleRunner

from forecast.cases import with_settings

STEPS = 12


class Collect:
    """A sink that keeps each step's fields as they would be delivered."""

    def __init__(self, rollout: Rollout, variables: int):
        self._rollout = rollout
        self._shape = (variables, rollout.places.points)
        self.fields: dict[int, np.ndarray] = {}

    def step(self, step: int, output: torch.Tensor, seconds: Callable[[], float]) -> None:
        fields = torch.empty(self._shape)
        self._rollout.gather(output, fields)
        self.fields[step] = fields.numpy()
        assert seconds() > 0

    def advanced(self, step: int) -> bool:
        return True


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are, missing values too."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def ours(request: ForecastRequest, loaded: engine.Loaded, last: int, first: int = 1) -> dict[int, np.ndarray]:
    """Fields of each step from `first` to `last`, the state before `first` being the initial one."""
    rollout = engine.start_rollout(request, loaded, read_initial(request), None)
    sink = Collect(rollout, len(request.model.outputs))
    roll(
        loaded.stepper,
        rollout,
        loaded.forcings,
        sink,
        start=request.start,
        steps=range(first, last + 1),
        seed=request.seed,
    )
    return sink.fields


def theirs(request: ForecastRequest, steps: int) -> Iterator[dict]:
    """States of anemoi-inference's runner, its generator set before each step as ours is."""
    runner = SimpleRunner(str(request.checkpoint), device="cpu", precision="32")
    choose_edges(runner.model, "cpu")  # Triton's interpreter would need minutes, and rounds otherwise
    predict = runner.predict_step

    def seeded(model: torch.nn.Module, tensors: dict, **options: object) -> dict:
        seed_device(torch.device("cpu"), request.seed(options["fcstep"] + 1))
        return predict(model, tensors, **options)

    runner.predict_step = seeded
    initial = read_initial(request)
    fields = {name: np.array(initial.variable(name)) for name in initial.variables}
    state = {"date": request.start.replace(tzinfo=None), "fields": fields}
    yield from runner.run(input_states=state, lead_time=6 * steps)


@pytest.mark.models
def test_twelve_steps_equal_the_runners_to_the_bit(
    request_for: Callable[..., ForecastRequest], loaded: engine.Loaded, model: Model
) -> None:
    request = request_for(accumulate="per_step")
    found = ours(request, loaded, STEPS)
    for step, state in enumerate(theirs(request, STEPS), 1):
        assert set(state["fields"]) == set(model.outputs)
        expected = np.stack([state["fields"][name] for name in model.outputs])
        np.testing.assert_array_equal(found[step].view(np.int32), expected.view(np.int32), err_msg=f"step {step}")
    assert step == STEPS


def test_sums_equal_the_runners_post_processor(
    request_for: Callable[..., ForecastRequest], loaded: engine.Loaded, model: Model
) -> None:
    request = request_for()
    found = ours(request, loaded, 4)
    per_step = ours(with_settings(request, accumulate="per_step"), loaded, 4)
    post = Accumulate(None, metadata_of(request.checkpoint))
    for step in range(1, 5):
        fields = dict(zip(model.outputs, per_step[step].copy(), strict=True))
        expected = post.process({"fields": fields})["fields"]
        for row, name in enumerate(model.outputs):
            np.testing.assert_array_equal(found[step][row], expected[name], err_msg=f"{name} step {step}")
    assert any((found[4][model.outputs.index(name)] != per_step[4][model.outputs.index(name)]).any() for name in ["tp"])


@pytest.mark.models
def test_only_the_first_step_of_the_forecast_is_told_that_it_is(
    request_for: Callable[..., ForecastRequest], loaded: engine.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, told = request_for(), []
    predict = loaded.stepper.model.predict_step

    def spy(batch: torch.Tensor, **options: object) -> torch.Tensor:
        told.append(options["fcstep"])
        return predict(batch, **options)

    monkeypatch.setattr(loaded.stepper.model, "predict_step", spy)
    ours(request, loaded, 3)
    assert told == [0, 1, 1]
    ours(request, loaded, 4, first=3)
    assert told == [0, 1, 1, 1, 1]


@pytest.mark.models
def test_fcstep_and_noise_change_what_the_model_makes(
    request_for: Callable[..., ForecastRequest], loaded: engine.Loaded
) -> None:
    """Were either ignored, no other test would notice a wrong one."""
    request = request_for()
    rollout = engine.start_rollout(request, loaded, read_initial(request), None)
    stepper: Stepper = loaded.stepper
    usual = stepper.forward(rollout.inputs, first=True, seed=1)
    assert equal(usual, stepper.forward(rollout.inputs, first=True, seed=1))
    assert not equal(usual, stepper.forward(rollout.inputs, first=False, seed=1))
    assert not equal(usual, stepper.forward(rollout.inputs, first=True, seed=2))


@pytest.mark.models
def test_warming_up_changes_nothing(request_for: Callable[..., ForecastRequest], loaded: engine.Loaded) -> None:
    request = request_for()
    rollout = engine.start_rollout(request, loaded, read_initial(request), None)
    before = rollout.inputs.clone()
    usual = loaded.stepper.forward(rollout.inputs, first=True, seed=5)
    loaded.stepper.warm_up(rollout.inputs)
    assert equal(before, rollout.inputs)
    assert equal(usual, loaded.stepper.forward(rollout.inputs, first=True, seed=5))


def metadata_of(checkpoint: Path) -> object:
    from anemoi.inference.checkpoint import Checkpoint

    return Checkpoint(str(checkpoint))._metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diagnostic": ("tp", "cp")}, "what it makes differs from model demo: has 100u, 100v, hcc"),
        ({"surface": ("10u", "10v", "2d", "2t", "msl", "skt", "sp", "tcw", "swh")}, "lacks swh"),
        ({"pressure": {"q": (500,)}}, "besides"),
        ({"timestep_hours": 3}, "step: 6:00:00, expected 3:00:00"),
    ],
)
def test_checkpoint_of_another_model(checkpoint: Path, model: Model, changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TensorPlaces.of(metadata_of(checkpoint), replace(model, **changes))


@pytest.mark.models
def test_layout_points_at_the_right_variables(checkpoint: Path, model: Model) -> None:
    metadata = metadata_of(checkpoint)
    places = TensorPlaces.of(metadata, model)
    made = metadata.output_tensor_index_to_variable
    assert [made[i] for i in places.output_index] == list(model.outputs)
    assert [made[i] for i in places.prognostic_out] == list(model.prognostic)
    assert [made[i] for i in places.accumulated_out] == list(model.accumulated)
    assert [model.outputs[i] for i in places.accumulated_row] == list(model.accumulated)
    assert places.step == timedelta(hours=6)
