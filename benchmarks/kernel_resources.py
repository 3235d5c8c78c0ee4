"""What the kernels of the accelerated pass take of each card: compiled for it, and read from the binary.

No card is needed: Triton brings the compiler. Sizes are those of AIFS ENS v1 and v2, and the widest that kernels take.
Window attention on Hopper is our own kernel, compiled for each width of heads that it takes. Elsewhere it is torch's,
which cannot be compiled without a card: a plain one with the tiles and stages that torch chooses stands in for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # kernels that are interpreted cannot be compiled

import torch
import triton
import triton.language as tl
from aifs_ensemble.model import banded_attention, conditional_norm, float8, graph_attention, truncation
from aifs_ensemble.model.launches import (
    HOPPER,
    Capability,
    Launch,
    conditioned_norm,
    over_edges,
    shared_bytes,
    sparse_rows,
    to_float8,
)
from aifs_ensemble.model.numerics import FLOAT8_CAPABILITY
from aifs_ensemble.planning.machines import load_machines
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# channels, heads, noise channels, prognostic variables
SIZES = {"AIFS ENS v1": (1024, 16, 4, 88), "AIFS ENS v2": (1536, 16, 4, 107), "widest": (2048, 8, 8, 128)}
_STRIDES = ("query_stride", "key_stride", "value_stride", "added_stride")


@dataclass(frozen=True)
class Resources:
    """A kernel on a card: bytes of shared memory a block, registers a thread, bytes a thread spills to memory."""

    kernel: str
    size: str
    capability: Capability
    rows: int
    warps: int
    shared: int
    limit: int
    registers: int
    spilled: int


def compiled(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    card: Capability,
    warps: int,
    multiples: Collection[str] = _STRIDES,
    **options: int,
) -> Any:
    """Compile a kernel for a card; pointers, and the numbers called `multiples`, are multiples of 16."""
    names = [parameter.name for parameter in kernel.params]
    aligned = [name for name, kind in types.items() if kind.startswith("*") or name in multiples]
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types[name] for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("cuda", 10 * card[0] + card[1], 32)
    return triton.compile(source, target=target, options={"num_warps": warps, **options})


@triton.jit
def _tiles(query, key, value, out, blocks, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    row, channel = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    here = row[:, None] * WIDTH + channel[None, :]
    q, column = tl.load(query + here), tl.arange(0, COLUMNS)
    summed, total = tl.zeros((ROWS, WIDTH), tl.float32), tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    for block in range(blocks):
        there = (block * COLUMNS + column)[:, None] * WIDTH + channel[None, :]
        score = tl.dot(q, tl.trans(tl.load(key + there))) * scale
        higher = tl.maximum(top, tl.max(score, 1))
        shrink, p = tl.exp2(top - higher), tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(p, 1)
        summed = tl.dot(p.to(q.dtype), tl.load(value + there), summed * shrink[:, None])
        top = higher
    tl.store(out + here, (summed / total[:, None]).to(q.dtype))


def window_attention(card: Capability, width: int) -> tuple[Launch, Any]:
    """Return the launch that torch takes for a card and heads of `width` channels, and the stand-in, compiled."""
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    torchs = CUDAConfigHeuristic()
    table = torchs.h100_default_flex_config if card >= (9, 0) else torchs.a100_default_flex_config
    chosen = table.get((torch.float16, width)) if card >= (8, 0) else None
    rows, columns, stages, warps = (
        (chosen.block_m, chosen.block_n, chosen.num_stages, chosen.num_warps) if chosen else (64, 64, 3, 4)
    )
    types = dict.fromkeys(("query", "key", "value", "out"), "*fp16") | {"blocks": "i32", "scale": "fp32"}
    constants = {"ROWS": rows, "COLUMNS": columns, "WIDTH": width}
    return Launch(rows, warps), compiled(_tiles, types, constants, card, warps, num_stages=stages)


def banded(width: int, dtype: str, aligned: bool) -> tuple[Launch, Any]:
    """Return the launch of our window attention on Hopper, and the kernel, compiled.

    Parameters
    ----------
    width : channels of a head
    dtype : of all tensors, ``fp16`` or ``bf16``
    aligned : whether the number of nodes is a multiple of 16, which Triton compiles for
    """
    using, kernel = banded_attention.tiles(width), banded_attention._banded_kernel
    head, tail = banded_attention.parts(width)
    types = {"out": f"*{dtype}", "nodes": "i32", "log2_scale": "fp32"}
    for name, rows in (("query", using.rows), ("key", using.keys), ("value", using.keys)):
        types[name] = f"tensordesc<{dtype}[{rows}, {head}]>"
        types[f"{name}_tail"] = f"tensordesc<{dtype}[{rows}, {tail or head}]>"
    constants = {"HEADS": 16, "HEAD": head, "TAIL": tail, "WINDOW": 1120, "BLOCKS": using.blocks,
                 "ROWS": using.rows, "KEYS": using.keys, "STAGES": using.stages}  # fmt: skip
    multiples = ("nodes",) if aligned else ()
    made = compiled(kernel, types, constants, HOPPER, using.warps, multiples, num_stages=using.stages)
    return Launch(using.blocks * using.rows, using.warps), made


def usage(binary: bytes) -> tuple[int, int]:
    """Return the registers and the bytes of stack of a thread, of which kernels without arrays have none but spills."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        told = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found, told
    return int(found[1]), int(found[2])


def kernels(card: Capability, size: str) -> Iterator[tuple[str, Launch, Any]]:
    """Yield each kernel of a size with its launch on a card, compiled."""
    channels, heads, noise, variables = SIZES[size]
    width, power = channels // heads, triton.next_power_of_2
    half = dict.fromkeys(("query", "key", "value", "attributes", "weight", "bias", "added", "out"), "*fp16")
    types = half | {"row": "*i32", "source": "*i32", "count": "i32", "scale": "fp32"} | dict.fromkeys(_STRIDES, "i32")
    launch = over_edges(card, graph_attention.padded(width))
    constants = {"HEADS": heads, "WIDTH": width, "PADDED": graph_attention.padded(width), "ATTRIBUTES": 16,
                 "ROWS": launch.rows}  # fmt: skip
    yield (
        "attention over edges",
        launch,
        compiled(graph_attention._attend_kernel, types, constants, card, launch.warps),
    )
    types = dict.fromkeys(("x", "delta", "total", "normal"), "*fp16")
    types |= dict.fromkeys(("noise", "weights", "scales"), "*fp32")
    launch = conditioned_norm(card, power(channels), power(noise))
    constants = {"CHANNELS": channels, "WIDTH": power(channels), "NOISE": noise, "FEW": power(noise),
                 "ROWS": launch.rows, "FLOAT8": False}  # fmt: skip
    types |= {"count": "i32", "eps": "fp32"}
    yield (
        "conditioned norm",
        launch,
        compiled(conditional_norm._add_norm_kernel, types, constants, card, launch.warps),
    )
    if card >= FLOAT8_CAPABILITY:
        types, constants = types | {"normal": "*fp8e4nv"}, constants | {"FLOAT8": True}
        yield (
            "conditioned norm, to float8",
            launch,
            compiled(conditional_norm._add_norm_kernel, types, constants, card, launch.warps),
        )
        yield from rows_to_float8(card, channels)
    types = dict.fromkeys(("fields", "weight", "out"), "*fp32") | dict.fromkeys(("row", "source"), "*i32")
    types |= {"columns": "*i64", "count": "i32", "stride": "i32"}
    launch = sparse_rows()
    constants = {"VARIABLES": variables, "WIDTH": power(variables), "ROWS": launch.rows}
    yield "sparse rows", launch, compiled(truncation._multiply_kernel, types, constants, card, launch.warps)
    if size != "widest":
        yield "window attention, stand-in", *window_attention(card, graph_attention.padded(width))


def rows_to_float8(card: Capability, channels: int) -> Iterator[tuple[str, Launch, Any]]:
    """Yield the kernels that quantise: a layer norm of the channels, and the GELU of four times as many."""
    types = {"x": "*fp16", "values": "*fp8e4nv", "stride": "i32", "eps": "fp32"}
    types |= dict.fromkeys(("weight", "bias", "scales"), "*fp32")
    for name, columns, norm, gelu in (
        ("norm, to float8", channels, True, ""),
        ("GELU, to float8", 4 * channels, False, "fused"),
    ):
        width = triton.next_power_of_2(columns)
        launch = to_float8(width)
        constants = {"COLUMNS": columns, "WIDTH": width, "NORM": norm, "WEIGHT": norm, "BIAS": norm, "GELU": gelu}
        yield name, launch, compiled(float8._to_float8_kernel, types, constants, card, launch.warps)


def resources() -> Iterator[Resources]:
    """Yield what each kernel takes, by size, for each compute capability of the catalogue's cards."""
    cards = sorted({card.capability for card in load_machines().gpu_specs.values()})
    for size in SIZES:
        for card in cards:
            for name, launch, made in kernels(card, size):
                yield taken(name, size, card, launch, made)
    for width in banded_attention.WIDTHS:
        for dtype, aligned in (("fp16", True), ("bf16", False)):
            size = f"heads of {width}, {dtype}, {'16 n' if aligned else 'any'} nodes"
            yield taken("banded attention", size, HOPPER, *banded(width, dtype, aligned))


def taken(kernel: str, size: str, card: Capability, launch: Launch, made: Any) -> Resources:
    """Return what a compiled kernel takes of a card."""
    registers, spilled = usage(made.asm["cubin"])
    shared, limit = made.metadata.shared, shared_bytes(card)
    return Resources(kernel, size, card, launch.rows, launch.warps, shared, limit, registers, spilled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="a list of all figures instead of a table")
    args = parser.parse_args()
    found = list(resources())
    if args.json:
        print(json.dumps([asdict(one) for one in found]))
        return
    print("| kernel | size | compute capability | rows, warps | shared KiB (limit) | registers | spilled bytes |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for one in found:
        card, launch = ".".join(map(str, one.capability)), f"{one.rows}, {one.warps}"
        shared = f"{one.shared / 1024:.1f} ({one.limit // 1024})"
        print(f"| {one.kernel} | {one.size} | {card} | {launch} | {shared} | {one.registers} | {one.spilled} |")


if __name__ == "__main__":
    main()
