"""Run the engine benchmark on this machine: full size on a GPU, the toy model where there is none."""

import subprocess
import sys
from pathlib import Path

from _adapter import rule
from aifs_ensemble.common.errors import WorkflowError

# what the table of speeds is made of; a rented machine is paid by the minute
MODES = ["forward", "engine-cold", "engine"]
TOY = ["--steps", "4", "--encoders", "1", "--modes", "engine"]

with rule(snakemake) as config:
    toy = config.model.name == "demo"
    command = [
        sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "forecast_engine.py"),
        "--model", "demo" if toy else "aifs-ens-size",
        "--scratch", str(config.scratch_root / "benchmark"),
        "--out", snakemake.output[0],
        "--modes", *MODES,
        *(TOY if toy else []),
    ]  # fmt: skip
    code = subprocess.run(command, check=False).returncode
    if code:
        raise WorkflowError(f"benchmarks/forecast_engine.py ended with exit code {code}")
