"""The flash-attn stand-in against a dense float32 reference."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from aifs_ensemble.model import attention
from aifs_ensemble.model.attention import ensure_flash_attention, flash_attn_func, window_mask
from torch.nn.attention.flex_attention import create_block_mask

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Attention with the whole matrix of scores, as flash-attn's documentation defines the window."""
    place = torch.arange(q.shape[1], device=q.device)
    offset = place[None, :] - place[:, None]  # key - query
    inside = torch.ones_like(offset, dtype=torch.bool)
    if left >= 0:
        inside &= offset >= -left
    if right >= 0:
        inside &= offset <= right
    q, k, v = (tensor.float().transpose(1, 2) for tensor in (q, k, v))
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return (scores.masked_fill(~inside, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def random_qkv(length: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(2, length, 3, 16, generator=generator).to(device, dtype) for _ in range(3)]


@pytest.mark.parametrize("length", [1, 5, 127, 128, 129, 300])
@pytest.mark.parametrize("window", [(0, 0), (1, 1), (16, 16), (127, 127), (128, 128), (3, 7), (-1, 2), (-1, -1)])
def test_equals_dense_attention(length: int, window: tuple[int, int]) -> None:
    q, k, v = random_qkv(length)
    found = flash_attn_func(q, k, v, window_size=window)
    assert found.shape == q.shape
    torch.testing.assert_close(found, dense(q, k, v, *window), atol=TOLERANCE[torch.float32], rtol=0)


@pytest.mark.parametrize(("window", "length", "width"), [(512, 1300, 16), (1120, 2400, 16), (30, 200, 40), (8, 50, 4)])
def test_windows_and_heads_of_released_models(window: int, length: int, width: int) -> None:
    """The windows of AIFS ENS and Single, and heads that no fused kernel takes as they are."""
    generator = torch.Generator().manual_seed(window)
    q, k, v = (torch.randn(1, length, 1, width, generator=generator) for _ in range(3))
    expected = dense(q, k, v, window, window)
    found = flash_attn_func(q, k, v, window_size=(window, window))
    assert found.shape == q.shape
    torch.testing.assert_close(found, expected, atol=TOLERANCE[torch.float32], rtol=0)
    attend = attention.flex_window(length, window, q.device)
    accelerated = attend(*(tensor.transpose(1, 2) for tensor in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(accelerated, expected, atol=TOLERANCE[torch.float32], rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keeps_half_precision(dtype: torch.dtype) -> None:
    q, k, v = random_qkv(200, dtype)
    found = flash_attn_func(q, k, v, window_size=(20, 20))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), dense(q, k, v, 20, 20), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("window", [1, 16, 127, 128])
@pytest.mark.parametrize("side", [-1, 1], ids=["left", "right"])
def test_both_edges_of_the_window_belong_to_it(window: int, side: int) -> None:
    length, query = 300, 150
    q, k, v = (torch.zeros(1, length, 1, 4) for _ in range(3))
    edge = query + side * window
    for key, inside in ((edge, True), (edge + side, False)):
        v.zero_()
        v[0, key] = 1
        found = flash_attn_func(q, k, v, window_size=(window, window))[0, query, 0, 0]
        # all scores are equal, so a key inside has the weight of one in 2 w + 1
        assert found == pytest.approx(1 / (2 * window + 1) if inside else 0)


def test_scale() -> None:
    q, k, v = random_qkv(50)
    found = flash_attn_func(q, k, v, softmax_scale=0.5 * 16**-0.5, window_size=(4, 4))
    torch.testing.assert_close(found, dense(0.5 * q, k, v, 4, 4), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"causal": True}, "causal"),
        ({"softcap": 30.0}, "softcap"),
        ({"dropout_p": 0.1}, "dropout_p"),
        ({"alibi_slopes": torch.ones(3)}, "alibi_slopes"),
        ({"return_attn_probs": True}, "return_attn_probs"),
    ],
)
def test_refuses_what_it_cannot_do(options: dict[str, Any], named: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{named}=.* is not supported, install flash-attn"):
        flash_attn_func(*random_qkv(8), window_size=(2, 2), **options)


def test_refuses_keys_of_another_length() -> None:
    q, k, v = random_qkv(8)
    with pytest.raises(NotImplementedError, match="expected equal ones"):
        flash_attn_func(q, k[:, :4], v[:, :4], window_size=(2, 2))


@pytest.mark.parametrize("length", [1, 100, 128, 129, 500, 1024])
@pytest.mark.parametrize("window", [(0, 0), (1, 1), (127, 127), (128, 128), (255, 256), (300, 2), (-1, 130), (-1, -1)])
def test_mask_is_what_torch_makes_of_the_window(length: int, window: tuple[int, int]) -> None:
    mask = window_mask(length, *window, torch.device("cpu"))
    expected = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu")
    assert mask.shape == expected.shape
    names = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices")
    for name in names:
        torch.testing.assert_close(getattr(mask, name), getattr(expected, name), msg=name)


def test_mask_is_made_once() -> None:
    device = torch.device("cpu")
    assert window_mask(64, 3, 3, device) is window_mask(64, 3, 3, device)
    assert window_mask(64, 3, 3, device) is not window_mask(64, 3, 4, device)


def test_traced_without_a_break_in_the_graph() -> None:
    q, k, v = random_qkv(40)
    window_mask(40, 5, 5, q.device)

    @torch.compile(backend="eager", fullgraph=True)
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flash_attn_func(q, k, v, window_size=(5, 5))

    torch.testing.assert_close(attend(q, k, v), dense(q, k, v, 5, 5), atol=2e-6, rtol=0)


@pytest.fixture
def without_flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flash_attn", "flash_attn.flash_attn_interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_takes_the_place_of_an_absent_package(without_flash_attn: None) -> None:
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed here")
    assert ensure_flash_attention() == attention.STAND_IN_VERSION
    # what anemoi-models imports, and what a checkpoint pickled with the package names
    assert importlib.import_module("flash_attn").flash_attn_func is flash_attn_func
    assert importlib.import_module("flash_attn.flash_attn_interface").flash_attn_func is flash_attn_func
    assert ensure_flash_attention() == attention.STAND_IN_VERSION


def test_leaves_an_installed_package_alone(without_flash_attn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("flash_attn")
    installed.__version__ = "2.8.3"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", installed)
    assert ensure_flash_attention() == "2.8.3"
    assert sys.modules["flash_attn"] is installed


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@needs_gpu
@pytest.mark.parametrize("window", [0, 1, 16, 127, 128, 200])
@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16])
def test_on_a_gpu(window: int, autocast: torch.dtype | None) -> None:
    q, k, v = random_qkv(500, device="cuda")
    with torch.autocast("cuda", dtype=autocast or torch.float16, enabled=autocast is not None):
        found = flash_attn_func(q, k, v, window_size=(window, window))
    dtype = autocast or torch.float16
    assert found.dtype == (autocast or torch.float32)  # without autocast, what follows has float32 weights
    torch.testing.assert_close(found.float(), dense(q, k, v, window, window), atol=TOLERANCE[dtype], rtol=0)
