"""Sliding-window attention without the package flash_attn.

Released checkpoints refer to ``flash_attn`` by module path, and it takes a CUDA compiler to install. Where it is
absent, a stand-in with the one function that anemoi-models 0.6.0 calls takes its place in ``sys.modules``; it is
built on torch's flex_attention, which compiles to one fused kernel on a GPU and runs unfused on a CPU.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask

LOG = logging.getLogger(__name__)

# The interface that the stand-in offers; anemoi-models asks for 2.6.0 or later.
STAND_IN_VERSION = "2.6.0+flex"
_INTERFACE = "flash_attn.flash_attn_interface"


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
    package.__doc__ = interface.__doc__ = "Stand-in for flash-attn, see aifs_ensemble.attention."
    package.__path__ = []  # a package, so that flash_attn.flash_attn_interface can be imported
    package.__version__ = STAND_IN_VERSION  # type: ignore[attr-defined]
    for module in (package, interface):
        module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    package.flash_attn_interface = interface  # type: ignore[attr-defined]
    sys.modules["flash_attn"] = package
    sys.modules[_INTERFACE] = interface
    LOG.info("flash_attn is not installed: its place is taken by flex_attention")


@lru_cache(maxsize=8)
def window_mask(length: int, left: int, right: int, device: str) -> BlockMask:
    """Return the block mask of a sequence in which i attends to j where ``i - left <= j <= i + right``.

    Both edges belong to the window, as flash-attn defines it; a negative side has no limit.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    before = left if left >= 0 else length
    after = right if right >= 0 else length

    def inside(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query - key <= before) & (key - query <= after)

    compiled = device.startswith("cuda")
    return create_block_mask(inside, None, None, length, length, device=device, _compile=compiled)


@lru_cache(maxsize=1)
def _compiled() -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flash_attn_func(  # noqa: PLR0917 - the signature is flash-attn's
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float | None = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> torch.Tensor:
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

    Raises NotImplementedError for dropout, causal attention, soft-capping, ALiBi and returned probabilities, which
    AIFS ENS does not use.
    """
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


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None, window: tuple[int, int]
) -> torch.Tensor:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    on_gpu = q.device.type == "cuda"
    if on_gpu and q.dtype == torch.float32:
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.float16
        q, k, v = (tensor.to(half) for tensor in (q, k, v))
    q, k, v = (tensor.transpose(1, 2).contiguous() for tensor in (q, k, v))
    mask = window_mask(q.shape[2], *window, str(q.device))
    # Inside a compiled model flex_attention is compiled with it; alone on a GPU it must be, or it builds all scores.
    alone = on_gpu and not torch.compiler.is_compiling()
    attention = _compiled() if alone else flex_attention
    return attention(q, k, v, block_mask=mask, scale=scale).transpose(1, 2)


# A checkpoint made with the stand-in names the function as one made with the package does, and loads with either.
flash_attn_func.__module__ = _INTERFACE
