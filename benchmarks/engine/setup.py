"""What the modes share: the benchmarked job's configuration, its checkpoint and initial states, a clock."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aifs_ensemble.common.config import Config, read_files

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "benchmarks" / "forecast_engine.py"
CYCLE = "20250819_0000"


def configuration(args: argparse.Namespace, **over: Any) -> Config:
    """Return the configuration of the benchmarked job."""
    raw = read_files(ROOT / "config" / "config.yaml")
    raw |= {"model": args.model, "members": "1-3", "lead_hours": 6 * args.steps, "cycle": CYCLE}
    raw |= {"scratch": str(args.scratch), "destination": str(args.scratch / "delivered")}
    raw |= {"trust_checkpoint": args.checkpoint is not None}
    raw["forecast"] = {
        "device": args.device, "precision": args.precision, "compile": args.device == "cuda",
        "encoders": args.encoders, "chunks": args.chunks, "restart_hours": 72, "progress": False,
        "cuda_graph": args.cuda_graph, "compute_at_once": 64,
    }  # fmt: skip
    raw["products"] = {"coarse": {"enabled": args.coarse, "method": {"default": "linear", "tp": "grid-box-average"}}}
    for key, value in over.items():
        raw[key] = value
    return Config(raw)


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Make the checkpoint and the initial states that all modes share."""
    from aifs_ensemble.initial.build import build_member
    from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint

    start = time.perf_counter()
    config = configuration(args)
    missing = [member for member in config.members if not config.scratch.initial(member).exists()]
    with ProcessPoolExecutor(len(config.members), get_context("spawn")) as pool:
        states = [pool.submit(build_member, config, m, config.scratch.initial(m)) for m in missing]
        provide_checkpoint(config.model, checkpoint_path(args))
        for state in states:
            state.result()
    return {"seconds": time.perf_counter() - start}


def checkpoint_path(args: argparse.Namespace) -> Path:
    return args.checkpoint or args.scratch / "checkpoints" / f"{args.model}.ckpt"


@contextmanager
def untruncated() -> Iterator[None]:
    """While it lasts a model is loaded without the truncation of its skip connection."""
    from aifs_ensemble.model.checkpoint import load

    loading = load.load_model

    def whole(*args: Any, **keys: Any) -> Any:
        interface = loading(*args, **keys)
        if hasattr(interface.model, "residual"):  # in anemoi-models 0.11 a part of the network
            from anemoi.models.layers.residual import SkipConnection

            interface.model.residual = SkipConnection()
        else:
            interface.model.A_down = interface.model.A_up = None
        return interface

    load.load_model = whole
    try:
        yield
    finally:
        load.load_model = loading


class Loaded:
    """A model and the input of its first step.

    Without `truncated` its skip connection is left whole. `own` says why it takes its own pass.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        compiled: bool = False,
        deterministic: bool = False,
        truncated: bool = True,
        own: str = "",
    ):
        from aifs_ensemble.forecast import engine
        from aifs_ensemble.forecast.request import ForecastRequest, read_initial
        from aifs_ensemble.model.stepper import prepare_environment, resolve_device

        config = configuration(args)
        settings = config.forecast.model_dump()
        settings |= {"compile": compiled, "deterministic": deterministic}
        raw = config.to_dict()
        raw["forecast"] = settings
        self.request = ForecastRequest.from_config(Config(raw), 1, checkpoint=checkpoint_path(args))
        prepare_environment(device=args.device, deterministic=deterministic)
        self.device = resolve_device(args.device)
        with nullcontext() if truncated else untruncated():
            options = {"own": own} if own else {}
            self.loaded = engine.load(self.request, self.device, choice=SimpleNamespace(options=options))
        self.initial = read_initial(self.request)
        self.rollout = engine.start_rollout(self.request, self.loaded, self.initial, None)

    def forward(self) -> Any:
        return self.loaded.stepper.forward(self.rollout.inputs, first=False, seed=self.request.seed(2))


def rms(values: Any) -> float:
    """Return the root mean square of a tensor, its squares summed in float64."""
    return float(values.double().square().mean().sqrt())


def deviations(model: Loaded) -> Any:
    """Return the standard deviations of the prognostic variables, ``(variable,)``, on the model's device."""
    import torch

    interface = model.loaded.stepper.model
    names = interface.data_indices.data.input.name_to_index
    std = torch.as_tensor(interface.statistics["stdev"])
    return std[[names[name] for name in model.request.model.prognostic]].float().to(model.device)


def timed(work: Callable[[], Any], device: Any, repeats: int) -> tuple[Any, float]:
    """Return the result and the median seconds of `work`, the device's own time where it has a clock."""
    import torch

    result, seconds = None, []
    for _ in range(repeats):
        if device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            result = work()
            after.record()
            torch.cuda.synchronize()
            seconds.append(before.elapsed_time(after) / 1000)
        else:
            start = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)
