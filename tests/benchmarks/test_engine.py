"""What the engine's benchmark puts in a model's place takes effect, whichever form of anemoi-models made the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.model.checkpoint import load
from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.measured_check import usual_input
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.model.stepper import Stepper
from engine.precision import pass_with
from engine.setup import untruncated
from model.toys import toy
from tested import MODEL

pytestmark = pytest.mark.models


def test_steps_take_the_pass_and_their_own_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 a step is another one to the bit, and near."""
    interface = toy(tmp_path / "toy.ckpt", monkeypatch)
    device = torch.device("cpu")
    stepper = Stepper(interface, device, Numerics())
    settings = SimpleNamespace(chunks=1)
    model: Any = SimpleNamespace(loaded=SimpleNamespace(stepper=stepper), request=SimpleNamespace(settings=settings))
    inputs = usual_input(interface, device)

    def step() -> torch.Tensor:
        return stepper.forward(inputs, first=False, seed=3)

    own = step()
    with pass_with(model, (), compiled=False):
        half = step()
    assert torch.equal(step(), own)
    scale = own.std(0)
    apart = float(((half - own) / scale).nan_to_num(0, 0, 0).abs().max())
    assert 0 < apart < 0.1


def test_a_model_is_loaded_without_its_truncation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "toy.ckpt"
    interface = toy(path, monkeypatch, data_grid="O4", truncation="O2", hidden="O2")
    with untruncated():
        whole = load.load_model(path, replace(MODEL, grid="O4"), device="cpu", trust=True)
    matrices, none = (network_class()(one.model).skip_matrices for one in (interface, whole))
    assert len(matrices) == 2 and none == []
    inputs, device = usual_input(interface, torch.device("cpu")), torch.device("cpu")
    first, second = (
        Stepper(one, device, Numerics()).forward(inputs, first=False, seed=3) for one in (interface, whole)
    )
    assert not torch.equal(first, second)
