"""The truncated skip connection: row sums without atomics, against torch's sparse products and the model's own pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import numpy as np
import torch
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.model.checkpoint.build import build_checkpoint
from aifs_ensemble.model.checkpoint.describe import describe_checkpoint
from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.truncation import SparseRows, Truncation, multiply, reference
from tested import MODEL

from model.toys import NEWER, TINY, both_passes, fast_pass, some_inputs, toy

pytestmark = pytest.mark.models


def matrix(lengths: list[int], sources: int, seed: int = 0) -> torch.Tensor:
    """A sparse matrix whose rows have so many entries."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.zeros(len(lengths), sources)
    for row, length in enumerate(lengths):
        dense[row, torch.randperm(sources, generator=generator)[:length]] = torch.rand(length, generator=generator)
    return dense.to_sparse_coo()


@pytest.mark.parametrize(
    "lengths",
    [[3] * 40, [1, 0, 2, 3, 0, 0, 1], [0] * 5, [2] * 15 + [300] + [3] * 20, [1]],
    ids=["linear", "empty rows", "nothing", "one long row", "one row"],
)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_rows_are_the_sparse_product(lengths: list[int], layout: torch.layout) -> None:
    sources, columns = 320, torch.tensor([4, 0, 6])
    weights = matrix(lengths, sources)
    # rows of a larger tensor, as the newest time of the input is
    fields = torch.randn(sources, 9, generator=torch.Generator().manual_seed(1))[:, 1:8]
    rows = SparseRows.of(weights.to_sparse(layout=layout), fields.device)
    found = multiply(rows, fields, columns)
    torch.testing.assert_close(found, torch.sparse.mm(weights, fields[:, columns]), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(found, reference(rows, fields, columns), rtol=1e-6, atol=2e-6)


def test_fields_by_column_are_read_right() -> None:
    weights, fields = matrix([3] * 20, 30), torch.randn(5, 30).t()
    rows, every = SparseRows.of(weights, fields.device), torch.arange(5)
    torch.testing.assert_close(multiply(rows, fields, every), torch.sparse.mm(weights, fields.contiguous()))


def test_only_the_points_that_the_coarse_grid_needs_are_read() -> None:
    """A value that is no number elsewhere does no harm, and one that is needed shows."""
    weights = torch.zeros(2, 6).index_put((torch.tensor([0, 1]), torch.tensor([1, 4])), torch.tensor([1.0, 2.0]))
    fields = torch.full((6, 2), torch.nan)
    fields[1], fields[4] = 3.0, 5.0
    rows = SparseRows.of(weights.to_sparse_coo(), fields.device)
    assert multiply(rows, fields, torch.arange(2)).tolist() == [[3.0, 3.0], [10.0, 10.0]]


@pytest.fixture(scope="module")
def truncated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return toy(tmp_path_factory.mktemp("truncated") / "toy.ckpt", monkeypatch, data_grid="O4", truncation="O2")


@pytest.mark.parametrize("fcstep", [0, 7])
def test_the_accelerated_pass_truncates_as_the_models_own(truncated: Any, fcstep: int) -> None:
    found, expected = both_passes(truncated, fcstep=fcstep)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)


@contextmanager
def untruncated(model: Any) -> Iterator[None]:
    """While it lasts the skip connection is whole. Parts of a model are no attributes that monkeypatch puts back."""
    names = ["residual"] if NEWER else ["A_down", "A_up"]
    kept = {name: getattr(model, name) for name in names}
    for name in names:
        setattr(model, name, skip_connection() if NEWER else None)
    try:
        yield
    finally:
        for name, part in kept.items():
            setattr(model, name, part)


def skip_connection() -> Any:
    from anemoi.models.layers.residual import SkipConnection

    return SkipConnection()


def test_what_it_would_be_without_is_far_away(truncated: Any) -> None:
    _, expected = both_passes(truncated)
    with untruncated(truncated.model):
        found, own = both_passes(truncated)
    torch.testing.assert_close(found, own, rtol=1e-5, atol=5e-6)
    assert float((found - expected).square().mean().sqrt()) > 0.1


def test_both_the_residual_and_the_extra_inputs_are_truncated(truncated: Any) -> None:
    fast = fast_pass(truncated)
    inputs = some_inputs(truncated)
    skip = fast._assemble(inputs, 1)
    model = truncated.model
    expected, residual, *_ = model._assemble_input(inputs, 1, 1)
    torch.testing.assert_close(fast.buffer[:, : model.input_dim], expected)
    torch.testing.assert_close(skip, residual[0])
    assert not torch.allclose(skip, inputs[0, -1, 0][:, fast.prognostic], atol=0.1)


@pytest.mark.skipif(NEWER, reason="of AIFS ENS v1; of v2 a job replaces it on a card")
def test_the_models_own_pass_gives_the_same_bits_again(truncated: Any) -> None:
    """On the CPU torch's sparse product goes through the entries in order."""
    model, prognostic = truncated.model, torch.as_tensor(truncated.model._internal_input_idx)
    skip = some_inputs(truncated)[:, -1, 0][..., prognostic]
    once, again = (model._truncate_fields(skip, model.A_down) for _ in range(2))
    assert torch.equal(once, again)


def test_matrices_are_kept_as_anemoi_keeps_them(truncated: Any) -> None:
    """Linear interpolation by MIR: constants stay what they are, a smooth field nearly so."""
    data, coarse = grid_coordinates("O4"), grid_coordinates("O2")
    if not NEWER:
        kept = truncated.truncation_data
        assert {name: type(m).__name__ for name, m in kept.items()} == {"down": "csr_matrix", "up": "csr_matrix"}
    down, up = network_class()(truncated.model).skip_matrices
    assert tuple(down.shape) == (coarse.points, data.points) and tuple(up.shape) == (data.points, coarse.points)
    wave = torch.from_numpy(np.sin(np.deg2rad(data.latitudes))).float()
    fields = torch.stack([torch.ones(data.points), wave], dim=1)
    ones, smooth = Truncation([down, up], torch.arange(2))(fields).t()
    torch.testing.assert_close(ones, torch.ones(data.points), rtol=0, atol=1e-6)
    assert 0.01 < float((smooth - wave).abs().max()) < 0.3


def test_the_demonstration_has_it_and_says_so(tmp_path: Path) -> None:
    for model in (MODEL, get_model("aifs-ens-size")):
        assert model.checkpoint["build"]["truncation"]
    path = tmp_path / "toy.ckpt"
    build_checkpoint(MODEL, path, **TINY, data_grid="O4", truncation="O2")
    assert describe_checkpoint(path).made_by["truncation"] == "O2"


def test_the_data_grid_itself_truncates_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="truncation O4, expected a coarser grid than the data's O4"):
        build_checkpoint(MODEL, tmp_path / "toy.ckpt", **TINY, data_grid="O4", truncation="O4")
