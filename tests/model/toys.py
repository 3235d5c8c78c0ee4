"""Tiny untrained models, built as a demonstration is and changed as a test asks; both passes of them side by side.

They are of the form of the model that is tested (`tested.MODEL`): AIFS ENS v1, or v2.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aifs_ensemble.common.models import Model
from aifs_ensemble.model import accelerated
from aifs_ensemble.model.attention import WindowAttention
from aifs_ensemble.model.checkpoint import architecture, build
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.forms import network_class
from tested import MODEL
from torch.nn import functional as F

# the interpreter of kernels takes its time: 88 points and 40 hidden nodes
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
# as earth2studio lists the variables of the released AIFS ENS v1 ("from config.json >> dataset.variables")
RELEASED_ORDER = [
    *(f"{name}_{level}" for name in "qtuvwz" for level in LEVELS),
    *["10u", "10v", "2d", "2t", "lsm", "msl", "sdor", "skt", "slor", "sp", "tcw", "z", "cp", "tp"],
    *["cos_latitude", "cos_longitude", "sin_latitude", "sin_longitude"],
    *["cos_julian_day", "cos_local_time", "sin_julian_day", "sin_local_time", "insolation"],
    *["stl1", "stl2", "ssrd", "strd", "sf", "tcc", "mcc", "hcc", "lcc", "100u", "100v", "ro"],
]
RELEASED_ROOT = "inference-anemoi-by_epoch-epoch_001-step_000040_tp_fix_0.05"
TINY = {"hidden": "O1", "channels": 32, "layers": 1, "heads": 2, "window": 16, "update": 0.05}
GRID = "O2"
NEWER = build.is_newer(MODEL)


def toy(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    change: Callable[[dict[str, Any]], None] | None = None,
    order: Sequence[str] | None = None,
    model: Model | None = None,
    released: bool = False,
    **size: Any,
) -> Any:
    """Build a model at `path` and load it.

    Parameters
    ----------
    change : works on the network's configuration before anything is built from it
    order : all variables, in the order of the training data; sorted without
    model : the catalogue's demonstration of the form that is tested without
    released : name what is in the file as in the released checkpoint
    size : arguments of `build_checkpoint` over those of `TINY`
    """
    entry = replace(model or MODEL, grid=size.pop("data_grid", GRID))
    made_by = "architecture_0_11" if build.is_newer(entry) else "architecture"
    with monkeypatch.context() as patch:
        made = getattr(build, made_by)

        def changed(*args: Any, **keys: Any) -> dict[str, Any]:
            config = made(*args, **keys)
            if change:
                change(config)
            return config

        patch.setattr(build, made_by, changed)
        if order:
            for module in (build, architecture):
                patch.setattr(module, "all_variables", lambda _: list(order))
        build.build_checkpoint(entry, path, **{**TINY, **size})
    if released:
        as_released(path)
    return load_model(path, entry, device="cpu", trust=True)


def as_released(path: Path) -> None:
    """Name the archive's folder and its metadata as those of the released checkpoint are named."""
    parts = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            _, _, inner = name.partition("/")
            inner = inner.replace("anemoi-metadata/anemoi.json", "anemoi-metadata/ai-models.json")
            content = archive.read(name)
            if inner.endswith("ai-models.json"):  # it names its arrays by their paths
                content = content.replace(b'"archive/', f'"{RELEASED_ROOT}/'.encode())
            parts[f"{RELEASED_ROOT}/{inner}"] = content
    assert any(name.endswith("ai-models.json") for name in parts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def dense_window_attention(window: int | None) -> WindowAttention:
    """Attention within a window, from the whole matrix of scores."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        place = torch.arange(query.shape[-2])
        mask = None if window is None else (place[:, None] - place).abs() <= window
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return WindowAttention(attend, "dense")


def layer(model: Any) -> Any:
    """The first layer of the processor."""
    return network_class()(model).layers[0]


def some_inputs(interface: Any, seed: int = 3) -> torch.Tensor:
    """Normalised inputs ``(1, 2, 1, nodes, variables)``."""
    nodes, variables = len(interface.supporting_arrays["latitudes"]), len(interface.data_indices.model.input.full)
    return torch.randn(1, 2, 1, nodes, variables, generator=torch.Generator().manual_seed(seed))


def fast_pass(interface: Any, **options: Any) -> accelerated.AcceleratedForward:
    """The accelerated pass as it runs here: in float32, by the interpreter, with the model's own GELU."""
    window = layer(interface.model).attention.window_size
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


@pytest.fixture
def float8_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers become float8 as a GPU and torch round them.

    The interpreter's own conversion (Triton 3.7) loses the carry of a rounding and knows no half way to even.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    inexact = interpreter._convert_float

    def convert(values: Any, was: Any, becomes: Any, rounding: Any) -> Any:
        if becomes != tl.float8e4nv:
            return inexact(values, was, becomes, rounding)
        exact = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        return exact.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)
