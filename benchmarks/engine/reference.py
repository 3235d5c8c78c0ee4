"""anemoi-inference's own loop with its GRIB output, for comparison."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from engine.setup import checkpoint_path, configuration


def anemoi(args: argparse.Namespace, *, kind: str) -> dict[str, Any]:
    """Time anemoi-inference's own loop with its GRIB output, in 24 bits CCSDS as it comes."""
    from datetime import datetime

    from aifs_ensemble.fields.state import read_state
    from aifs_ensemble.model import attention
    from anemoi.inference.outputs.gribfile import GribFileOutput
    from anemoi.inference.outputs.parallel import ParallelOutput
    from anemoi.inference.runners.simple import SimpleRunner

    attention.ensure_flash_attention()
    config = configuration(args)
    runner = SimpleRunner(str(checkpoint_path(args)), device=args.device, precision=args.precision)
    metadata = next(iter(runner.tensor_handlers.values())).metadata
    initial = read_state(config.scratch.initial(1))
    fields = {name: initial.variable(name).copy() for name in initial.variables}
    date = datetime(2025, 8, 19)
    lead = 6 * args.reference_steps
    runner.reference_date, runner.time_step, runner.lead_time, runner.write_initial_state = date, 6, lead, False
    state = {"date": date, "fields": fields}
    for _ in runner.run(lead_time=6, input_states=state):
        pass
    path = args.scratch / "anemoi.grib"
    templates = [{"file": str(grib_template(config.model.grid, args.scratch / "template.grib2"))}]
    output, opened, start = None, False, time.perf_counter()
    for made in runner.run(lead_time=lead, input_states=state):
        if output is None:
            if kind == "anemoi-serial":
                output = GribFileOutput(
                    runner, metadata, path=str(path), templates=templates, write_initial_state=False
                )
            else:
                inner = {"grib": {"path": str(path), "templates": templates, "write_initial_state": False}}
                output = ParallelOutput(runner, metadata, num_writers=8, output=inner)
        if not opened:
            output.open(made)
            opened = True
        output.write_state(made)
    looped = time.perf_counter() - start
    output.close()
    seconds = time.perf_counter() - start
    return {"step_seconds": looped / args.reference_steps, "closing_seconds": seconds - looped,
            "steps": args.reference_steps}  # fmt: skip


def grib_template(grid: str, path: Path) -> Path:
    """Write a message for anemoi-inference to copy: the grid, CCSDS, 24 bits."""
    import eccodes

    handle = eccodes.codes_grib_new_from_samples(f"reduced_gg_pl_{grid.lstrip('N')}_grib2")
    eccodes.codes_set(handle, "packingType", "grid_ccsds")
    eccodes.codes_set(handle, "bitsPerValue", 24)
    with path.open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    return path
