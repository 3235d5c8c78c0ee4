"""Other versions of anemoi-inference beside the installed one: the same steps of a demonstration, bit for bit?

    python benchmarks/reference_versions.py newest
    python benchmarks/reference_versions.py 0.12.0 0.11.2
    python benchmarks/reference_versions.py 0.10.1 0.8.3 --with anemoi-transform==0.1.20
    PYTHONPATH=.venv/overlays/anemoi-0.11 python benchmarks/reference_versions.py --model demo-v2 newest

Each is put into a folder of its own, without what it depends on, and run by a process that looks there first. Exit
code 1 if one fails or makes other numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config, read_files

ROOT = Path(__file__).resolve().parents[1]
START = datetime(2025, 8, 19)
STEPS = 4


def configuration(model: str, scratch: Path) -> Config:
    raw = read_files(ROOT / "config" / "config.yaml")
    wanted = {"model": model, "members": "1", "lead_hours": 6 * STEPS, "cycle": f"{START:%Y%m%d_%H%M}"}
    return Config(raw | wanted | {"scratch": str(scratch), "destination": None})


def prepare(config: Config, checkpoint: Path) -> None:
    """Make the checkpoint and the initial state that all versions start from."""
    from aifs_ensemble.initial.build import build_member
    from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint

    provide_checkpoint(config.model, checkpoint)
    build_member(config, 1, config.scratch.initial(1))


def steps(config: Config, checkpoint: Path) -> list[str]:
    """Return a digest of all fields of each step, of the anemoi-inference that this process finds first."""
    import numpy as np
    import torch
    from aifs_ensemble.fields.state import read_state
    from aifs_ensemble.model import attention
    from aifs_ensemble.model.edges import choose_edges

    attention.ensure_flash_attention()
    from anemoi.inference.runners.simple import SimpleRunner

    runner = SimpleRunner(str(checkpoint), device="cpu", precision="32")
    choose_edges(runner.model, "cpu")
    predict = runner.predict_step

    def seeded(model: torch.nn.Module, *inputs: Any, **options: Any) -> Any:
        torch.manual_seed(options["fcstep"])
        return predict(model, *inputs, **options)

    runner.predict_step = seeded
    initial = read_state(config.scratch.initial(1))
    state = {"date": START, "fields": {name: np.array(initial.variable(name)) for name in initial.variables}}
    # the argument's name until 0.10, and since
    named = "input_state" if "input_state" in runner.run.__code__.co_varnames else "input_states"
    return [digest(made["fields"]) for made in runner.run(**{named: state}, lead_time=6 * STEPS)]


def digest(fields: dict[str, Any]) -> str:
    import numpy as np

    whole = hashlib.sha256()
    for name in sorted(fields):
        whole.update(np.ascontiguousarray(fields[name], dtype=np.float32).tobytes())
    return whole.hexdigest()[:12]


def of_version(version: str, beside: list[str], arguments: list[str], folder: Path) -> list[str] | str:
    """Return what `steps` says of another version, or why it has none."""
    named = "anemoi-inference" if version == "newest" else f"anemoi-inference=={version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), named, *beside]
    done = subprocess.run(pip, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        path = os.pathsep.join([str(folder), *(part for part in sys.path if part)])
        command = [sys.executable, __file__, "--steps-of", *arguments]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", help="such as 0.12.0, or newest")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--with", nargs="*", default=[], dest="beside", help="packages of its time, for an old version")
    parser.add_argument("--steps-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps_of:
        warnings.simplefilter("ignore")
        scratch = Path(args.steps_of[1])
        print(json.dumps(steps(configuration(args.steps_of[0], scratch), scratch / "model.ckpt")))
        return
    from anemoi.inference import __version__ as installed

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        config = configuration(args.model, scratch)
        prepare(config, scratch / "model.ckpt")
        expected = steps(config, scratch / "model.ckpt")
        print(f"{installed} (installed): {' '.join(expected)}", flush=True)
        failed = False
        for version in args.versions:
            found = of_version(version, args.beside, [args.model, str(scratch)], scratch / version)
            failed |= found != expected
            said = "the same" if found == expected else found if isinstance(found, str) else " ".join(found)
            print(f"{version}: {said}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
