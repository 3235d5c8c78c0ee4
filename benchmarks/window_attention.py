"""Window attention by every way that is at hand, on a GPU: correctness, repeatability, milliseconds, TFLOP/s, watts.

    python benchmarks/window_attention.py --out window_attention.json       a Hopper card, two minutes

Shapes are those of the processor of AIFS ENS v1 (40,320 nodes, 16 heads of 64, window 1,120) and of v2 (heads of 96).
Queries and keys are whole, values a part of a wider product, as in the model's block. The ways are FlexAttention as the
project calls it and with other options, the project's own kernel with several tiles, cuDNN's sliding window where the
package nvidia-cudnn-frontend is installed, and cuDNN on dense blocks for what the card does at best. TFLOP/s count the
pairs inside the window alone.

Every way is compiled beside the others, then measured one by one in a process of its own: one that fails or hangs
costs itself only. Errors are those of slices at both ends and in the middle against float32, norm of the difference
over norm. The fastest of each kind then run for seconds, with the card's clock and power.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

NODES, HEADS, WINDOW = 40_320, 16, 1120
WIDTHS = (64, 96)
SLICE = 384  # rows compared with the reference, at each of three places
PATIENCE = 45.0  # seconds for one way
# (blocks, rows, keys, warps, stages) of the project's kernel
TILES = (
    (2, 64, 64, 4, 2), (2, 64, 64, 4, 3), (2, 64, 32, 4, 3), (1, 64, 64, 4, 2), (1, 64, 64, 4, 3), (1, 64, 32, 4, 3),
    (1, 64, 128, 4, 2), (1, 128, 64, 4, 2), (1, 128, 64, 4, 3), (1, 128, 32, 4, 3), (1, 128, 64, 8, 2),
    (1, 128, 64, 8, 3), (1, 128, 32, 8, 3), (1, 128, 128, 8, 2), (1, 256, 64, 16, 2), (1, 256, 64, 8, 2),
)  # fmt: skip
FLEX_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"PRESCALE_QK": True},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3, "USE_TMA": True},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3},
)
Way = Callable[[Any, Any, Any], Any]


def flex(width: int, options: dict[str, Any]) -> Way:
    """Return FlexAttention between tensors laid out as the model's block has them."""
    import torch
    from aifs_ensemble.model.attention import flex_window

    attend = flex_window(NODES, WINDOW, torch.device("cuda"), **options)

    def way(q: Any, k: Any, v: Any) -> Any:
        mixed = attend(*(part.permute(1, 0, 2)[None] for part in (q, k, v)))[0]
        return mixed.permute(1, 0, 2).contiguous()

    return torch.compile(way, dynamic=False)


def banded(width: int, tiles: tuple[int, int, int, int, int]) -> Way:
    """Return the project's own kernel."""
    from aifs_ensemble.model.banded_attention import Tiles, attend

    return lambda q, k, v: attend(q, k, v, WINDOW, Tiles(*tiles))


def cudnn_window(width: int, plan: int) -> Way:
    """Return cuDNN's own sliding window, by one of the plans that it offers."""
    import cudnn
    import torch

    handle = cudnn.create_handle()
    kept: dict[str, Any] = {}

    def build(q: Any, k: Any, v: Any) -> None:
        graph = cudnn.pygraph(
            io_data_type=cudnn.data_type.HALF,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            handle=handle,
        )
        tensors = []
        for name, part in zip("qkv", (q, k, v), strict=True):
            strides = [part.numel(), width, part.stride(0), 1]
            tensors.append(
                graph.tensor(name=name, dim=[1, HEADS, NODES, width], stride=strides, data_type=cudnn.data_type.HALF)
            )
        out, _ = graph.sdpa(
            name="window", q=tensors[0], k=tensors[1], v=tensors[2], generate_stats=False, attn_scale=width**-0.5,
            diagonal_alignment=cudnn.diagonal_alignment.TOP_LEFT,
            diagonal_band_left_bound=WINDOW + 1, diagonal_band_right_bound=WINDOW,
        )  # fmt: skip
        out.set_output(True).set_dim([1, HEADS, NODES, width])
        out.set_stride([NODES * HEADS * width, width, HEADS * width, 1]).set_data_type(cudnn.data_type.HALF)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.check_support()
        graph.build_plans(cudnn.build_plan_policy.ALL)
        count = graph.get_execution_plan_count()
        if plan >= count:
            raise SystemExit(f"cuDNN {cudnn.backend_version()} offers {count} plans")
        room = torch.empty(max(1, graph.get_workspace_size()), dtype=torch.uint8, device="cuda")
        kept.update(graph=graph, tensors=tensors, out=out, room=room)

    def way(q: Any, k: Any, v: Any) -> Any:
        if not kept:
            build(q, k, v)
        result = torch.empty((NODES, HEADS, width), dtype=q.dtype, device="cuda")
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        pack = dict(zip(kept["tensors"], (q, k, v), strict=True)) | {kept["out"]: result}
        kept["graph"].execute_plan_at_index(pack, kept["room"], plan, handle=handle)
        return result

    return way


def ways(width: int) -> dict[str, Callable[[], Way]]:
    """Return every way to attend with heads of a width, by name: what makes it."""
    found: dict[str, Callable[[], Way]] = {}
    for options in FLEX_OPTIONS:
        told = " ".join(f"{key}={value}" for key, value in options.items())
        found[f"flex {told}".strip()] = partial(flex, width, options)
    for plan in range(3):
        found[f"cudnn plan {plan}"] = partial(cudnn_window, width, plan)
    for tiles in TILES:
        found["banded " + " ".join(map(str, tiles))] = partial(banded, width, tiles)
    return found


@cache
def made(name: str, width: int) -> Way:
    return ways(width)[name]()


@cache
def inputs(width: int) -> tuple[Any, Any, Any]:
    """Return queries, keys and values ``(nodes, heads, width)`` in float16, values strided."""
    import torch

    torch.manual_seed(width)
    product = torch.randn(NODES, 3, HEADS, width, device="cuda").to(torch.float16)
    query, key, value = product.unbind(1)
    return query.contiguous(), key.contiguous(), value


def error(found: Any, q: Any, k: Any, v: Any) -> float:
    """Return the largest error of slices at both ends and in the middle, against float32."""
    import torch
    from aifs_ensemble.model import banded_attention

    torch.backends.cuda.matmul.allow_tf32 = False
    worst = banded_attention.largest_error(found, q, k, v, WINDOW, SLICE)
    return worst if math.isfinite(float(found.float().sum())) else math.inf


def pairs() -> int:
    """Return how many pairs of nodes are in the window."""
    return sum(min(NODES, i + WINDOW + 1) - max(0, i - WINDOW) for i in range(NODES))


def measure(name: str, width: int) -> dict[str, Any]:
    import torch
    import triton

    q, k, v = inputs(width)
    way = made(name, width)
    way(q, k, v)
    poison = torch.full((NODES, HEADS, width), math.nan, dtype=q.dtype, device="cuda")
    del poison  # its memory comes back for the result: what is not written shows
    first = way(q, k, v)
    off = error(first, q, k, v)
    repeats = all(torch.equal(first, way(q, k, v)) for _ in range(10))
    took = float(triton.testing.do_bench(lambda: way(q, k, v), warmup=20, rep=100, return_mode="median"))
    return {"ms": took, "tflops": rate(width, took), "error": off, "repeats": repeats}


def rate(width: int, ms: float) -> float:
    return 4 * pairs() * HEADS * width / ms / 1e9


def sustained(name: str, width: int, seconds: float) -> dict[str, Any]:
    """Return what a way takes when it runs for seconds, and the card's clock and power meanwhile."""
    import torch

    q, k, v = inputs(width)
    way = made(name, width)
    for _ in range(20):
        way(q, k, v)
    torch.cuda.synchronize()
    start, calls = time.perf_counter(), 0
    clock, watts = [], []
    while time.perf_counter() - start < seconds:
        for _ in range(100):
            way(q, k, v)
        calls += 100
        if time.perf_counter() - start > seconds / 3:
            clock.append(torch.cuda.clock_rate())
            watts.append(torch.cuda.power_draw() / 1000)
        torch.cuda.synchronize()
    ms = (time.perf_counter() - start) / calls * 1000
    power = statistics.fmean(watts)
    return {
        "ms": ms,
        "tflops": rate(width, ms),
        "mhz": statistics.fmean(clock),
        "watts": power,
        "joules": power * ms / 1e3,
    }


def small(width: int) -> dict[str, Any]:
    """Return the largest error of the project's kernel for a width, at sizes of every relation to tiles and window."""
    import torch
    from aifs_ensemble.model.banded_attention import attend, largest_error

    worst, place = 0.0, ""
    for dtype in (torch.float16, torch.bfloat16):
        for nodes, window in ((1, 5), (127, 5), (128, 128), (129, 1120), (1000, 1120), (2500, 512), (2501, 1120)):
            torch.manual_seed(nodes)
            q, k, v = torch.randn(nodes, 3, 2, width, device="cuda").to(dtype).unbind(1)
            found = attend(q, k, v, window)
            off = largest_error(found, q, k, v, window, nodes)
            off = off if torch.equal(found, attend(q, k, v, window)) else math.inf
            if off * (0.125 if dtype is torch.bfloat16 else 1) > worst:
                worst, place = off * (0.125 if dtype is torch.bfloat16 else 1), f"{nodes} {window} {dtype}"
    return {"worst": worst, "where": place}


def dense(width: int) -> dict[str, Any]:
    """Return what cuDNN does on dense blocks of 2,240 queries and the keys that their windows reach."""
    import torch
    import triton
    from torch.nn import functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    block, keys = 2240, 2240 + 2 * WINDOW
    q = torch.randn(NODES // block, HEADS, block, width, device="cuda", dtype=torch.float16)
    k = torch.randn(NODES // block, HEADS, keys, width, device="cuda", dtype=torch.float16)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        took = float(triton.testing.do_bench(lambda: F.scaled_dot_product_attention(q, k, k), return_mode="median"))
    return {"ms": took, "tflops": rate(width, took), "dense_tflops": 4 * NODES * keys * HEADS * width / took / 1e9}


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task and return what it found, or why it failed."""
    kind, width = task["kind"], task["width"]
    try:
        if kind == "compile":
            made(task["name"], width)(*inputs(width))
            return {}
        if kind == "measure":
            return measure(task["name"], width)
        if kind == "sustained":
            return sustained(task["name"], width, task["seconds"])
        return small(width) if kind == "small" else dense(width)
    except (Exception, SystemExit) as failure:
        said = str(failure).strip().splitlines() or [""]
        return {"failed": f"{type(failure).__name__}: {said[0][:160]} {said[-1][:160] if len(said) > 1 else ''}"}


def worker() -> None:
    """Do tasks that come as lines of JSON, one after another."""
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    for line in sys.stdin:
        found = work(json.loads(line))
        torch.cuda.synchronize()  # what a kernel did wrong shows here, and ends the process
        print("FOUND " + json.dumps(found), flush=True)


class Worker:
    """A process that does tasks; one that is not done in time is ended, and another begun."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, __file__, "--worker"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._lines: Queue[str] = Queue()
            Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            return json.loads(self._lines.get(timeout=PATIENCE).removeprefix("FOUND "))
        except (Empty, OSError, ValueError):
            self.close()
            return {"failed": f"nothing after {PATIENCE:.0f} s, or the process ended"}

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: Queue[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("FOUND "):
                lines.put(line)
        lines.put("ended")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def side_by_side(tasks: list[dict[str, Any]], workers: int) -> list[dict[str, Any]]:
    """Do tasks in several processes, which leave what they compile in the caches of Triton and torch."""
    found: list[dict[str, Any]] = [{} for _ in tasks]

    def share(first: int) -> None:
        one = Worker()
        for number in range(first, len(tasks), workers):
            found[number] = {**tasks[number], **one(tasks[number])}
        one.close()

    threads = [Thread(target=share, args=(first,)) for first in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def fastest(rows: list[dict[str, Any]], width: int) -> Iterator[str]:
    """Yield the fastest right one of each kind."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = row["name"].split()[0]
        right = row["width"] == width and row.get("repeats") and row["error"] < 2e-3
        if right and row["ms"] < best.get(kind, {"ms": math.inf})["ms"]:
            best[kind] = row
    yield from (row["name"] for row in best.values())


def show(row: dict[str, Any]) -> None:
    figures = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items() if k != "kind")
    print(f"{row['kind']:10s} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sustained run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker()
    start = time.perf_counter()
    ways_by_width = [{"width": width, "name": name} for width in args.widths for name in ways(width)]
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        show(row)
        if args.out:
            args.out.write_text(json.dumps(rows, indent=1) + "\n")

    first = [{"kind": "small", "width": width} for width in (32, 64, 80, 96, 128)]
    first += [{"kind": "compile", **way} for way in ways_by_width]
    for row in side_by_side(first, max(1, min(14, (os.cpu_count() or 2) - 2))):
        if row["kind"] == "small":
            keep(row)
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
    one = Worker()
    for way in ways_by_width:
        keep((task := {"kind": "measure", **way}) | one(task))
    for width in args.widths:
        keep((task := {"kind": "dense", "width": width}) | one(task))
        for name in list(fastest([row for row in rows if row["kind"] == "measure"], width)):
            keep((task := {"kind": "sustained", "width": width, "name": name, "seconds": args.seconds}) | one(task))
    one.close()
    print(f"{time.perf_counter() - start:.0f} s in all")
    return None


if __name__ == "__main__":
    main()
