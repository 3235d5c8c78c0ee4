"""Residual sum and noise-conditioned layer norm in one pass over the nodes (Triton).

anemoi-models ``ConditionalLayerNorm`` is ``norm(x) * (1 + scale(noise)) + shift(noise)`` with `scale`
and `shift` linear in a few noise channels. Done apart, the two products write a row of channels for
every node, which the norm reads again. Here a program keeps their weights in registers and goes
through its nodes: it reads ``x`` and what is added to it, and writes the sum and its norm. Where the norm is read by a
product in float8, it is written in float8 with a scale for each node.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
from torch.nn import functional as F

from aifs_ensemble.model import float8, launches
from aifs_ensemble.model.float8 import Quantised

HAS_TRITON = importlib.util.find_spec("triton") is not None
# noise channels whose weights fit into registers beside everything else; more go through plain products
MOST_NOISE = 8


def reference(x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return what `add_norm` returns, in plain torch operations."""
    channels = noise.shape[-1]
    total = x + delta
    scale = noise @ weights[:channels] + weights[2 * channels] + 1.0
    shift = noise @ weights[channels : 2 * channels] + weights[2 * channels + 1]
    normal = F.layer_norm(total.float(), total.shape[-1:], None, None, eps)
    return total, (normal * scale + shift).to(x.dtype)


def pack(scale: torch.nn.Linear, shift: torch.nn.Linear) -> Tensor:
    """Return the norm's weights, float32 ``(2 n + 2, channels)``: scale, shift, and their biases."""
    rows = [scale.weight.t(), shift.weight.t(), scale.bias[None], shift.bias[None]]
    return torch.cat([row.detach().float() for row in rows]).contiguous()


if HAS_TRITON:
    import triton
    import triton.language as tl

    from aifs_ensemble.model.float8 import scaled

    @triton.jit
    def _add_norm_kernel(  # type: ignore[no-untyped-def]
        x, delta, noise, weights, total, normal, scales, count, eps,
        CHANNELS: tl.constexpr, WIDTH: tl.constexpr, NOISE: tl.constexpr, FEW: tl.constexpr, ROWS: tl.constexpr,
        FLOAT8: tl.constexpr,
    ):  # fmt: skip
        column = tl.arange(0, WIDTH)
        inside = column < CHANNELS
        few = tl.arange(0, FEW)
        some = few < NOISE
        grid = few[:, None] * CHANNELS + column[None, :]
        there = some[:, None] & inside[None, :]
        scale_w = tl.load(weights + grid, mask=there, other=0.0)
        shift_w = tl.load(weights + NOISE * CHANNELS + grid, mask=there, other=0.0)
        scale_b = tl.load(weights + 2 * NOISE * CHANNELS + column, mask=inside, other=0.0) + 1.0
        shift_b = tl.load(weights + (2 * NOISE + 1) * CHANNELS + column, mask=inside, other=0.0)
        first = tl.program_id(0).to(tl.int64) * ROWS
        for offset in range(ROWS):
            node = first + offset
            present = column < tl.where(node < count, CHANNELS, 0)
            place = node * CHANNELS + column
            old = tl.load(x + place, mask=present, other=0.0)
            change = tl.load(delta + place, mask=present, other=0.0)
            rounded = (old.to(tl.float32) + change.to(tl.float32)).to(old.dtype)
            tl.store(total + place, rounded, mask=present)
            value = rounded.to(tl.float32)
            mean = tl.sum(value, 0) / CHANNELS
            away = tl.where(inside, value - mean, 0.0)
            inverse = 1.0 / tl.sqrt(tl.sum(away * away, 0) / CHANNELS + eps)
            z = tl.load(noise + tl.minimum(node, count - 1) * NOISE + few, mask=some, other=0.0)
            scale = scale_b + tl.sum(z[:, None] * scale_w, 0)
            shift = shift_b + tl.sum(z[:, None] * shift_w, 0)
            result = away * inverse * scale + shift
            if FLOAT8:
                eight, size = scaled(result, inside)
                tl.store(normal + place, eight, mask=present)
                tl.store(scales + node, size, mask=node < count)
            else:
                tl.store(normal + place, result.to(old.dtype), mask=present)

    def _launch(
        x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float, normal: Tensor, scales: Tensor | None
    ) -> Tensor:
        total = torch.empty_like(x)
        count, channels = x.shape
        width, few = triton.next_power_of_2(channels), triton.next_power_of_2(noise.shape[1])
        launch = launches.conditioned_norm(launches.capability(x.device), width, few)
        _add_norm_kernel[(triton.cdiv(count, launch.rows),)](
            x, delta, noise, weights, total, normal, normal if scales is None else scales, count, eps,
            CHANNELS=channels, WIDTH=width, NOISE=noise.shape[1], FEW=few, ROWS=launch.rows,
            FLOAT8=scales is not None, num_warps=launch.warps,
        )  # fmt: skip
        return total

    @torch.library.custom_op("aifs_ensemble::add_norm", mutates_args=())
    def _add_norm(x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        normal = torch.empty_like(x)
        return _launch(x, delta, noise, weights, eps, normal, None), normal

    @_add_norm.register_fake
    def _(x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(x)

    @torch.library.custom_op("aifs_ensemble::add_norm_to_float8", mutates_args=())
    def _add_norm_to_float8(
        x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        normal = torch.empty_like(x, dtype=float8.TYPE)
        scales = torch.empty((x.shape[0], 1), device=x.device)
        return _launch(x, delta, noise, weights, eps, normal, scales), normal, scales

    @_add_norm_to_float8.register_fake
    def _(x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        scales = x.new_empty((x.shape[0], 1), dtype=torch.float32)
        return torch.empty_like(x), torch.empty_like(x, dtype=float8.TYPE), scales


def add_norm(x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``x + delta`` and its conditioned norm.

    Parameters
    ----------
    x, delta : contiguous ``(nodes, channels)``
    noise : float32 ``(nodes, n)``
    weights : of `pack`
    eps : of the norm
    """
    if noise.shape[1] > MOST_NOISE:
        return reference(x, delta, noise, weights, eps)
    return _add_norm(x, delta, noise, weights, eps)


def add_norm_to_float8(
    x: Tensor, delta: Tensor, noise: Tensor, weights: Tensor, eps: float
) -> tuple[Tensor, Quantised]:
    """Return what `add_norm` returns, the norm in float8."""
    if noise.shape[1] > MOST_NOISE:
        total, normal = reference(x, delta, noise, weights, eps)
        return total, float8.to_float8(normal)
    total, values, scale = _add_norm_to_float8(x, delta, noise, weights, eps)
    return total, Quantised(values, scale)
