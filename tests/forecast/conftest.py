"""What the tests of the forecast engine share: a checkpoint and initial states of the demonstration model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from aifs_ensemble.common.models import Model
from aifs_ensemble.forecast import engine
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.model.checkpoint.build import build_demo

from forecast.cases import make_request, with_settings, write_initial

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "demo.ckpt"
    build_demo(model, path)
    return path


@pytest.fixture(scope="session")
def initial(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    path = tmp_path_factory.mktemp("initial") / "member001.safetensors"
    write_initial(path, model)
    return path


@pytest.fixture(scope="session")
def loaded(checkpoint: Path, initial: Path, tmp_path_factory: pytest.TempPathFactory) -> engine.Loaded:
    """The model on the CPU, as the engine loads it."""
    request = make_request(checkpoint, initial, tmp_path_factory.mktemp("loaded"))
    return engine.load(request, torch.device("cpu"))


@pytest.fixture
def request_for(checkpoint: Path, initial: Path, tmp_path: Path) -> Callable[..., ForecastRequest]:
    """Make a request in the test's own folder (or `folder`), with settings over the usual ones."""

    def make(folder: Path | None = None, **settings: object) -> ForecastRequest:
        return with_settings(make_request(checkpoint, initial, folder or tmp_path), **settings)

    return make


@pytest.fixture(scope="session")
def whole(
    checkpoint: Path, initial: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ForecastRequest, dict[str, bytes]]:
    """A member made without interruption: its request, and its files by name."""
    from aifs_ensemble.forecast.run import run_forecast

    from forecast.cases import content

    request = make_request(checkpoint, initial, tmp_path_factory.mktemp("whole"))
    run_forecast(request)
    return request, content(request)
