"""Tiny untrained models, built as a demonstration is and changed as a test asks; both passes of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.model import accelerated
from aifs_ensemble.model.checkpoint import architecture, build
from aifs_ensemble.model.checkpoint.load import load_model
from torch.nn import functional as F

# the interpreter of kernels takes its time: 208 points and 88 hidden nodes
TINY = {"hidden": "O2", "channels": 32, "layers": 2, "heads": 2, "window": 16, "update": 0.05}
GRID = "O4"


def toy(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    change: Callable[[dict[str, Any]], None] | None = None,
    order: Sequence[str] | None = None,
    model: Model | None = None,
    **size: Any,
) -> Any:
    """Build a model at `path` and load it.

    Parameters
    ----------
    change : works on the network's configuration before anything is built from it
    order : all variables, in the order of the training data; sorted without
    model : the catalogue's demonstration without
    size : arguments of `build_checkpoint` over those of `TINY`
    """
    entry = replace(model or get_model("demo"), grid=size.pop("data_grid", GRID))
    with monkeypatch.context() as patch:
        made = architecture.architecture

        def changed(model: Model, size: Any) -> dict[str, Any]:
            config = made(model, size)
            if change:
                change(config)
            return config

        patch.setattr(build, "architecture", changed)
        if order:
            for module in (build, architecture):
                patch.setattr(module, "all_variables", lambda _: list(order))
        build.build_checkpoint(entry, path, **{**TINY, **size})
    return load_model(path, entry, device="cpu", trust=True)


def dense_window_attention(window: int | None) -> Callable[..., torch.Tensor]:
    """Attention within a window, from the whole matrix of scores."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        place = torch.arange(query.shape[-2])
        mask = None if window is None else (place[:, None] - place).abs() <= window
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return attend


def some_inputs(interface: Any, seed: int = 3) -> torch.Tensor:
    """Normalised inputs ``(1, 2, 1, nodes, variables)``."""
    nodes, variables = len(interface.supporting_arrays["latitudes"]), len(interface.data_indices.model.input.full)
    return torch.randn(1, 2, 1, nodes, variables, generator=torch.Generator().manual_seed(seed))


def fast_pass(interface: Any, **options: Any) -> accelerated.AcceleratedForward:
    """The accelerated pass as it runs here: in float32, by the interpreter, with the model's own GELU."""
    window = interface.model.processor.proc[0].blocks[0].attention.window_size
    given = {"compiled": False, "gelu": "exact", "attention": dense_window_attention(window)}
    return accelerated.AcceleratedForward(interface.model, torch.float32, **{**given, **options})


def both_passes(
    interface: Any, inputs: torch.Tensor | None = None, fcstep: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output of the accelerated pass and of the model's own, same inputs and same noise."""
    inputs = some_inputs(interface) if inputs is None else inputs
    torch.manual_seed(5)
    with torch.no_grad():
        own = interface.model(inputs, fcstep=fcstep)
    fast = fast_pass(interface)
    torch.manual_seed(5)
    return fast(inputs, fcstep=fcstep), own
