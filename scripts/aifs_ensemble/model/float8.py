"""Products in float8: activations with a scale for each row, weights with a scale for each output channel (Triton).

A number of float8 e4m3 has three bits after its first, and the largest is `LARGEST`. A scale brings the largest number
of a row there, so a row keeps its own range whatever others hold. Hopper and Ada multiply such numbers twice as fast as
float16 and sum in float32. The scales are applied to the sums.

Activations are quantised where they are made: `to_float8` reads a row once, takes its norm or its GELU where asked,
and writes a byte a number; the conditioned norm of `conditional_norm` does the same.

What is not finite must not turn into a number: a row that holds an infinity or NaN gets the scale NaN, which makes
NaN of all that is computed from it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aifs_ensemble.model import launches
from aifs_ensemble.model.network import NotAcceleratedError

HAS_TRITON = importlib.util.find_spec("triton") is not None
TYPE = torch.float8_e4m3fn
LARGEST = 448.0
# Rows whose largest number is below `LARGEST` times this lose bits, and rows of zeros have this scale.
LEAST_SCALE = 1e-30
# A product's rows of inputs and of outputs come in pieces of 16 bytes.
PIECE = 16

# The model's products, and why one stays in 16 bits with `forecast.precision: fp8`; empty where it is in float8. Those
# are in float8 that bring less than 1e-4 of a step's squared change for each millisecond that they save
# (docs/performance.md, "float8").
LAYERS: Mapping[str, str] = {
    "encoder.embedding": "saves nothing: its input would have to be quantised first",
    "encoder.key_value": "",
    "encoder.projection": "saves 0.02 ms and brings 4 % of the squared error",
    "encoder.mlp": "",
    "processor.qkv": "",
    "processor.projection": "saves 0.3 ms and brings 5 % of the squared error",
    "processor.mlp": "",
    "decoder.key_value": "saves 0.1 ms and brings 9 % of the squared error",
    "decoder.embedding": "saves nothing and brings nearly as much squared error as all others together",
    "decoder.query_self": "",
    "decoder.projection": "saves 0.3 ms and brings 32 % of the squared error",
    "decoder.mlp": "",
    "decoder.extraction": "writes the fields, whose number need not be a multiple of 16",
}
PRODUCTS = frozenset(name for name, reason in LAYERS.items() if not reason)


class Quantised(NamedTuple):
    """Rows in float8: ``values (rows, columns)``, and the float32 ``scale (rows, 1)`` that multiplies them."""

    values: Tensor
    scale: Tensor


def reference(x: Tensor) -> Quantised:
    """Return the rows of ``x (rows, columns)`` in float8, in plain torch operations."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    scale = (largest * (1 / LARGEST)).clamp_min(LEAST_SCALE)
    scale = torch.where(x.isfinite().all(-1, keepdim=True), scale, torch.nan)
    return Quantised((x * (1 / scale)).to(TYPE), scale)


if HAS_TRITON:
    import triton
    import triton.language as tl

    _LARGEST, _LEAST_SCALE = tl.constexpr(LARGEST), tl.constexpr(LEAST_SCALE)  # as a kernel may read them

    @triton.jit
    def scaled(value, inside):  # type: ignore[no-untyped-def]
        """Return a row of float32 as float8 holds it, and its scale; `inside` says which places belong to it."""
        size = tl.where(inside, tl.abs(value), 0.0)
        broken = tl.max(tl.where(size <= 3.4028234e38, 0, 1), 0)  # NaN compares as false
        scale = tl.maximum(tl.max(size, 0) * (1 / _LARGEST), _LEAST_SCALE)
        scale = tl.where(broken > 0, float("nan"), scale)
        return (value * (1.0 / scale)).to(tl.float8e4nv), scale

    @triton.jit
    def _to_float8_kernel(  # type: ignore[no-untyped-def]
        x, weight, bias, values, scales, stride, eps,
        COLUMNS: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
        GELU: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, WIDTH)
        inside = column < COLUMNS
        value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            mean = tl.sum(value, 0) / COLUMNS
            away = tl.where(inside, value - mean, 0.0)
            value = away / tl.sqrt(tl.sum(away * away, 0) / COLUMNS + eps)
            if WEIGHT:
                value *= tl.load(weight + column, mask=inside, other=0.0)
            if BIAS:
                value += tl.load(bias + column, mask=inside, other=0.0)
        if GELU == "exact":
            value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
        if GELU == "fused":  # x / (1 + exp(-2 y)) is x (1 + tanh y) / 2
            value = value / (1.0 + tl.exp(-1.5957691216057308 * value * (1.0 + 0.044715 * value * value)))
        eight, scale = scaled(value, inside)
        tl.store(values + row * COLUMNS + column, eight, mask=inside)
        tl.store(scales + row, scale)

    @torch.library.custom_op("aifs_ensemble::to_float8", mutates_args=())
    def _to_float8(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, norm: bool, gelu: str
    ) -> tuple[Tensor, Tensor]:
        rows, columns = x.shape
        values = torch.empty((rows, columns), dtype=TYPE, device=x.device)
        scale = torch.empty((rows, 1), device=x.device)
        width = triton.next_power_of_2(columns)
        _to_float8_kernel[(rows,)](
            x, x if weight is None else weight, x if bias is None else bias, values, scale, x.stride(0), eps,
            COLUMNS=columns, WIDTH=width, NORM=norm, WEIGHT=weight is not None, BIAS=bias is not None, GELU=gelu,
            num_warps=launches.to_float8(width).warps,
        )  # fmt: skip
        return values, scale

    @_to_float8.register_fake
    def _(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, norm: bool, gelu: str
    ) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape, dtype=TYPE), x.new_empty((x.shape[0], 1), dtype=torch.float32)


def to_float8(x: Tensor) -> Quantised:
    """Return the rows of ``x (rows, columns)`` in float8."""
    return Quantised(*_to_float8(x, None, None, 0.0, False, ""))


def norm_to_float8(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Quantised:
    """Return the layer norm of the rows of `x` in float8; `weight` and `bias` are float32 ``(columns,)``."""
    return Quantised(*_to_float8(x, weight, bias, eps, True, ""))


def gelu_to_float8(x: Tensor, gelu: str) -> Quantised:
    """Return the GELU of `x` in float8: ``exact`` (erf), or ``fused``, its tanh form as the 16-bit products have it."""
    return Quantised(*_to_float8(x, None, None, 0.0, False, gelu))


def reference_product(x: Quantised, weight: Quantised, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the product of rows with weights ``(outputs, inputs)``, its sums in float32, in plain torch operations."""
    rows, weights = (part.values.float() * part.scale for part in (x, weight))
    return F.linear(rows, weights, None if bias is None else bias.float()).to(dtype)


@dataclass
class Float8Linear:
    """A linear layer whose product is in float8: called as `accelerated.Linear` is, or with rows in float8.

    Attributes
    ----------
    weight : float8 ``(out, in)``, both multiples of `PIECE`
    scale : float32 ``(1, out)``, which multiplies the weight's rows
    bias : ``(out,)`` in the type `product_dtype`, or None
    product_dtype : in which torch gives the product: `dtype`, or bfloat16 on a card that knows no other
    dtype : of what a call returns
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    product_dtype: torch.dtype
    dtype: torch.dtype

    @classmethod
    def of(cls, dtype: torch.dtype, weight: Tensor, bias: Tensor | None, name: str) -> Float8Linear:
        """Return the layer of a float32 weight and bias; NotAcceleratedError for a shape that has no such product."""
        if any(size % PIECE for size in weight.shape):
            outputs, inputs = weight.shape
            raise NotAcceleratedError(
                f"{name} from {inputs} to {outputs} channels, expected multiples of {PIECE} for float8"
            )
        eight = reference(weight)
        # torch multiplies with scales by row into float16 on Hopper alone, else into bfloat16
        made = dtype if launches.capability(weight.device) == launches.HOPPER else torch.bfloat16
        return cls(eight.values, eight.scale.t().contiguous(), None if bias is None else bias.to(made), made, dtype)

    def __call__(self, x: Tensor | Quantised) -> Tensor:
        """Return the layer's output ``(rows, out)`` of ``(rows, in)``."""
        eight = x if isinstance(x, Quantised) else to_float8(x)
        if not self.weight.is_cuda:
            return reference_product(eight, Quantised(self.weight, self.scale.t()), self.bias, self.dtype)
        return torch._scaled_mm(
            eight.values, self.weight.t(), scale_a=eight.scale, scale_b=self.scale, bias=self.bias,
            out_dtype=self.product_dtype, use_fast_accum=True,
        ).to(self.dtype)  # fmt: skip


def check_names(names: Collection[str]) -> None:
    """Raise ValueError for products that there are none of."""
    if unknown := sorted(set(names) - set(LAYERS)):
        raise ValueError(f"float8 products {', '.join(unknown)}, expected some of {', '.join(LAYERS)}")
