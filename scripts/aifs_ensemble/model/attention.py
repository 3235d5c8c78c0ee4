"""Sliding-window attention: without the package flash_attn, and by what is fastest on a card.

Released checkpoints refer to ``flash_attn`` by module path, and it takes a CUDA compiler to install. Where it is
absent, a stand-in with the one function that anemoi-models 0.6.0 calls takes its place in ``sys.modules``; it is
built on torch's flex_attention, which compiles to one fused kernel on a GPU and runs unfused on a CPU.

The accelerated pass asks `window_attention` instead: a kernel of our own (`banded_attention`) where it was measured,
flex_attention everywhere else.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from aifs_ensemble.model import banded_attention, launches

LOG = logging.getLogger(__name__)

# The interface that the stand-in offers; anemoi-models asks for 2.6.0 or later.
STAND_IN_VERSION = "2.6.0+flex"
_INTERFACE = "flash_attn.flash_attn_interface"
# The block size of flex_attention's kernels.
_BLOCK = 128
# The narrowest heads that flex_attention's kernels take.
_LEAST_WIDTH = 16


def ensure_flash_attention() -> str:
    """Make ``import flash_attn`` work and return its version, ``...+flex`` for the stand-in.

    The installed package is used where there is one.
    """
    if "flash_attn" not in sys.modules:
        if importlib.util.find_spec("flash_attn") is None:
            _register_stand_in()
        else:
            importlib.import_module("flash_attn")
    return str(sys.modules["flash_attn"].__version__)  # type: ignore[attr-defined]


def _register_stand_in() -> None:
    package, interface = ModuleType("flash_attn"), ModuleType(_INTERFACE)
    package.__doc__ = interface.__doc__ = "Stand-in for flash-attn, see aifs_ensemble.model.attention."
    package.__path__ = []  # a package, so that flash_attn.flash_attn_interface can be imported
    package.__version__ = STAND_IN_VERSION  # type: ignore[attr-defined]
    for module in (package, interface):
        module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    package.flash_attn_interface = interface  # type: ignore[attr-defined]
    sys.modules["flash_attn"] = package
    sys.modules[_INTERFACE] = interface
    LOG.info("flash_attn is not installed: its place is taken by flex_attention")


# Masks by length, left, right and device: one model has one, and it takes longer to make than to use.
_MASKS: dict[tuple[int, int, int, torch.device], BlockMask] = {}


def window_mask(length: int, left: int, right: int, device: torch.device) -> BlockMask:
    """Return the block mask of a sequence in which i attends to j where ``i - left <= j <= i + right``.

    Both edges belong to the window, as flash-attn defines it; a negative side has no limit. Masks are kept. Ask for
    one before compiling a model, for inside a compiled graph it would be made anew at every call.
    """
    key = (length, left, right, device)
    mask = _MASKS.get(key)
    if mask is None:
        mask = _make_mask(*key)
        if not torch.compiler.is_compiling():
            _MASKS[key] = mask
    return mask


def _make_mask(length: int, left: int, right: int, device: torch.device) -> BlockMask:
    """Return what `create_block_mask` makes of the window, without the matrix it makes it from (1.6 G entries at O96).

    A block of 128 x 128 is computed when a pair in it is inside, and without looking at the pairs when all are.
    """
    before = left if left >= 0 else length
    after = right if right >= 0 else length

    def inside(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key <= before) & (key - query <= after)

    first = torch.arange(0, length, _BLOCK, device=device)
    last = (first + _BLOCK - 1).clamp(max=length - 1)
    some = (first[None] <= last[:, None] + after) & (last[None] >= first[:, None] - before)
    every = (last[:, None] - first[None] <= before) & (last[None] - first[:, None] <= after)
    # A block that reaches beyond the end is never computed without looking.
    whole = last - first == _BLOCK - 1
    every &= whole[:, None] & whole[None]
    counted, full = _listed(some & ~every), _listed(every)
    return BlockMask.from_kv_blocks(*counted, *full, BLOCK_SIZE=_BLOCK, mask_mod=inside, seq_lengths=(length, length))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each row has, ``(1, 1, row)``, and which they are, in order, ``(1, 1, row, column)``."""
    numbers = blocks.int()
    order = torch.argsort(numbers, dim=-1, descending=True, stable=True)
    return numbers.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float | None = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """Return attention within a window, as ``flash_attn.flash_attn_func`` does.

    Parameters
    ----------
    q, k, v : ``(batch, sequence, head, channel)``; on a GPU float32 is computed in the half precision of the
        autocast around it, float16 without one, as flash-attn computes nothing else
    window_size : neighbours attended to on the left and right, both inclusive; negative is unlimited
    softmax_scale : factor of the scores, by default ``channel ** -0.5``
    deterministic : accepted; the forward pass always is

    Returns
    -------
    ``(batch, sequence, head, channel)`` in the type computed in.

    Raises NotImplementedError for what AIFS ENS does not use: queries and keys of different shapes, dropout, causal
    attention, soft-capping, ALiBi, returned probabilities.
    """
    if not q.shape == k.shape == v.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (q, k, v))
        raise NotImplementedError(f"flash_attn stand-in: q, k, v of shapes {shapes}, expected equal ones")
    unsupported = {
        "dropout_p": dropout_p,
        "causal": causal,
        "softcap": softcap,
        "alibi_slopes": alibi_slopes is not None,
        "return_attn_probs": return_attn_probs,
    }
    named = ", ".join(f"{name}={value}" for name, value in unsupported.items() if value)
    if named:
        raise NotImplementedError(f"flash_attn stand-in: {named} is not supported, install flash-attn for it")
    return _attend(q, k, v, scale=softmax_scale, window=window_size)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, window: tuple[int, int]) -> Tensor:
    if q.device.type == "cuda" and q.dtype == torch.float32:
        if not torch.is_autocast_enabled("cuda"):  # what follows has float32 weights
            half = (tensor.to(torch.float16) for tensor in (q, k, v))
            return _attend_in_window(*half, scale=scale, window=window).to(q.dtype)
        q, k, v = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in (q, k, v))
    return _attend_in_window(q, k, v, scale=scale, window=window)


def _attend_in_window(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, window: tuple[int, int]) -> Tensor:
    width, scale = q.shape[-1], q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (pad_heads(tensor).transpose(1, 2).contiguous() for tensor in (q, k, v))
    return _flex(q, k, v, scale=scale, window=window).transpose(1, 2)[..., :width]


def _flex(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: tuple[int, int]) -> Tensor:
    on_gpu = q.device.type == "cuda"
    mask = window_mask(q.shape[2], *window, q.device)
    if torch.compiler.is_compiling():
        return flex_attention(q, k, v, block_mask=mask, scale=scale)
    if on_gpu:  # alone it must be compiled, or it makes the whole matrix of scores
        return _compiled()(q, k, v, block_mask=mask, scale=scale)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without")  # as meant: few nodes, no compiler
        return flex_attention(q, k, v, block_mask=mask, scale=scale)


# A checkpoint made with the stand-in names the function as one made with the package does, and loads with either.
flash_attn_func.__module__ = _INTERFACE


@dataclass(frozen=True)
class WindowAttention:
    """Attention ``(1, heads, nodes, width) x 3 -> (1, heads, nodes, width)``, and which one it is, for records."""

    attend: Callable[..., Tensor]
    name: str


def window_attention(
    nodes: int, window: int | None, device: torch.device, dtype: torch.dtype, heads: int, width: int
) -> WindowAttention:
    """Return attention within a window: the fastest that a device has for it.

    Parameters
    ----------
    nodes : in the sequence
    window : neighbours attended to on either side, inclusive; None is unlimited
    device, dtype : of queries, keys and values; a kernel of our own takes float16 and bfloat16
    heads : how many, each of `width` channels
    """
    if window is None:
        return WindowAttention(F.scaled_dot_product_attention, "scaled_dot_product_attention, no window")
    capability = launches.capability(device) if device.type == "cuda" else None
    reason = banded_attention.reason_against(capability, dtype, width)
    if not reason and (reason := banded_attention.trial(nodes, heads, width, window, dtype, device)):
        LOG.warning("the kernel of window attention is not used, flex_attention is: %s", reason)
    if reason:
        return WindowAttention(flex_window(nodes, window, device), f"flex_attention: {reason}")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, key, value = (part[0].permute(1, 0, 2) for part in (q, k, v))
        return banded_attention.attend(query, key, value, window).permute(1, 0, 2)[None]

    return WindowAttention(attend, "banded_attention")


def flex_window(nodes: int, window: int, device: torch.device, **options: Any) -> Callable[..., Tensor]:
    """Return attention within `window` nodes on either side, inclusive, through flex_attention."""
    mask = window_mask(nodes, window, window, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        width = q.shape[-1]
        q, k, v = (pad_heads(tensor) for tensor in (q, k, v))
        out = flex_attention(q, k, v, block_mask=mask, scale=width**-0.5, kernel_options=options or None)  # type: ignore[arg-type]
        return out[..., :width]  # type: ignore[index]

    return attend


def pad_heads(tensor: Tensor) -> Tensor:
    """Return heads ``(..., channel)`` with zeros up to a power of two, at least 16: the widths of fused kernels.

    Neither scores nor the channels kept of the result change.
    """
    width = tensor.shape[-1]
    extra = max(_LEAST_WIDTH, 1 << (width - 1).bit_length()) - width
    return F.pad(tensor, (0, extra)) if extra else tensor
