"""What 8 bits bring: the model's products in float16, in float8 e4m3 with a scale per row, and in int8, on a GPU.

    python benchmarks/float8.py        a card with float8 (Ada, Hopper or later), a minute

Products have the shapes of AIFS ENS v1's processor (40,320 rows) and of a tenth of its decoder (54,208 rows). A float8
product is torch's ``_scaled_mm``; what it costs to make its inputs is measured beside it. Errors are those of one
product of random numbers against float64, norm of the difference over norm. An int8 product is torch's ``_int_mm``,
which gives int32; with its scales, in one compiled kernel more, it gives float16. Window attention follows, and dense
attention over the same window for what the card does at best.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from aifs_ensemble.model.attention import flex_window
from aifs_ensemble.model.float8 import gelu_to_float8, reference, to_float8
from aifs_ensemble.model.numerics import why_no_float8

PROCESSOR, DECODER = 40_320, 54_208
SHAPES = {
    "queries, keys, values": (PROCESSOR, 1024, 3072),
    "projection": (PROCESSOR, 1024, 1024),
    "MLP, up": (PROCESSOR, 1024, 4096),
    "MLP, down": (PROCESSOR, 4096, 1024),
    "decoder: embedding": (DECODER, 304, 1024),
    "decoder: query and skip": (DECODER, 1024, 2048),
    "decoder: MLP, up": (DECODER, 1024, 4096),
    "decoder: MLP, down": (DECODER, 4096, 1024),
}
HEADS, WIDTH, WINDOW = 16, 64, 1120


def milliseconds(function: Callable[[], object]) -> float:
    """Return the median of many runs."""
    return float(triton.testing.do_bench(function, warmup=50, rep=150, return_mode="median"))


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``x (row, column)`` in int8 and its scales ``(row, 1)``."""
    scale = (x.float().abs().amax(-1, keepdim=True) / 127).clamp_min(1e-12)
    return (x.float() / scale).round().to(torch.int8), scale


@torch.compile(dynamic=False)
def rescaled(sums: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return (sums.float() * rows * columns).half()


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


def product(name: str, rows: int, inputs: int, outputs: int) -> str:
    """Return a line about one product."""
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.float16)
    w = torch.randn(outputs, inputs, device="cuda", dtype=torch.float16) / inputs**0.5
    right = x[:512].double() @ w.double().t()
    (x8, x_scale), (w8, w_scale) = reference(x), reference(w)
    half = milliseconds(lambda: F.linear(x, w))
    line = f"{name:24s} {half:7.3f} ms {error(F.linear(x, w)[:512], right):8.1e}"
    for fast in (True, False):

        def eight(fast: bool = fast) -> torch.Tensor:
            return torch._scaled_mm(
                x8, w8.t(), scale_a=x_scale, scale_b=w_scale.t(), out_dtype=torch.float16, use_fast_accum=fast
            )

        first = eight()
        assert all(torch.equal(first, eight()) for _ in range(10)), f"{name}: float8 products do not repeat"
        line += f"   {milliseconds(eight):7.3f} ms {error(first[:512], right):8.1e}"
    (xi, xi_scale), (wi, wi_scale) = rounded(x), rounded(w)
    whole = lambda: torch._int_mm(xi, wi.t())  # noqa: E731
    with_scales = lambda: rescaled(whole(), xi_scale, wi_scale.t())  # noqa: E731
    line += f"   {milliseconds(whole):7.3f} ms   {milliseconds(with_scales):7.3f} ms"
    return f"{line} {error(with_scales()[:512], right):8.1e}"


def attention() -> list[str]:
    """Return lines about attention within the window, and about dense blocks that hold it."""
    shape = (1, HEADS, PROCESSOR, WIDTH)
    query, key, value = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))
    windowed = torch.compile(flex_window(PROCESSOR, WINDOW, query.device), dynamic=False)
    useful = 4 * HEADS * PROCESSOR * (2 * WINDOW + 1) * WIDTH
    took = milliseconds(lambda: windowed(query, key, value))
    lines = [f"FlexAttention, window {WINDOW}: {took:.3f} ms, {useful / took / 1e9:.0f} TFLOP/s"]
    for block in (1120, 2240):
        number, keys = PROCESSOR // block, block + 2 * WINDOW
        q = torch.randn(number, HEADS, block, WIDTH, device="cuda", dtype=torch.float16)
        k = torch.randn(number, HEADS, keys, WIDTH, device="cuda", dtype=torch.float16)
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            with sdpa_kernel(backend):
                took = milliseconds(lambda q=q, k=k: F.scaled_dot_product_attention(q, k, k))  # type: ignore[misc]
            done = 4 * number * HEADS * block * keys * WIDTH
            lines.append(
                f"dense, {block} queries x {keys} keys, {backend.name}: {took:.3f} ms, {done / took / 1e9:.0f} TFLOP/s "
                f"({useful / took / 1e9:.0f} of them in the window)"
            )
    return lines


def main() -> None:
    if reason := why_no_float8(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")):
        raise SystemExit(f"a card with float8 is needed, Hopper, Ada or later: {reason}")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(
        f"{'product':24s} {'float16':>10s} {'error':>8s}   {'float8':>10s} {'error':>8s}   {'exact sums':>10s} "
        f"{'error':>8s}   {'int8':>10s}   {'+ scales':>10s} {'error':>8s}"
    )
    for name, shape in SHAPES.items():
        print(product(name, *shape))
    quantise = torch.compile(reference, dynamic=False)
    for rows, columns in ((PROCESSOR, 1024), (PROCESSOR, 4096), (DECODER, 4096)):
        x = torch.randn(rows, columns, device="cuda", dtype=torch.float16)
        ways = {"compiled": lambda x=x: quantise(x), "ours": lambda x=x: to_float8(x),  # type: ignore[misc]
                "ours with GELU": lambda x=x: gelu_to_float8(x, "fused"), "a copy": x.clone}  # type: ignore[misc]  # fmt: skip
        told = ", ".join(f"{name} {milliseconds(way):.3f} ms" for name, way in ways.items())
        print(f"to float8, {rows} x {columns}: {told}")
    print("\n".join(attention()))


if __name__ == "__main__":
    main()
