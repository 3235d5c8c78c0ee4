"""Loading checkpoints kept in several ways: what comes of it, seconds and memory, as the table of docs/models.md.

    python benchmarks/checkpoint_loads.py                       the demonstration, a minute
    python benchmarks/checkpoint_loads.py --model aifs-ens-size --folder FOLDER      1.1 GB, needs 6 GB in the folder

The archives in the folder are made where they are absent, and left there. CPU seconds are those of all threads.
Each load is a process of its own. Its tensors, those of the graph too, are compared with the original's by SHA-256.
`torch, mapped` and `torch, read` are what `torch.load` does by itself, without the comparison of CRCs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.model.checkpoint.build import build_demo

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from model.checkpoint import archives  # the tests' ways of keeping and damaging records

ROWS: tuple[tuple[str, str, bool], ...] = (
    ("stored", "ours", False),
    ("stored, as today's anemoi-utils rewrites", "ours", False),
    ("deflated, as anemoi-utils 0.4.22 rewrites", "ours", False),
    ("deflated, metadata last", "ours", False),
    ("stored, one bit flipped", "ours", True),
    ("deflated, one bit flipped", "ours", True),
    ("stored", "torch, mapped", False),
    ("deflated, as anemoi-utils 0.4.22 rewrites", "torch, mapped", False),
    ("deflated, as anemoi-utils 0.4.22 rewrites", "torch, read", False),
    ("stored, one bit flipped", "torch, mapped", True),
)
WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "stored, as today's anemoi-utils rewrites": archives.stored_anywhere,
    "deflated, as anemoi-utils 0.4.22 rewrites": archives.as_anemoi_utils_0_4_22,
    "deflated, metadata last": archives.metadata_last,
}


def load(path: Path, model_name: str, how: str) -> dict[str, object]:
    """Load in this process and return what came of it."""
    import anemoi.models.interface  # noqa: F401 - the time of importing is not a file's
    import torch
    from aifs_ensemble.model.attention import ensure_flash_attention
    from aifs_ensemble.model.checkpoint.load import load_model
    from aifs_ensemble.model.checkpoint.unpickle import pickle_module

    ensure_flash_attention()
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        if how == "ours":
            interface = load_model(path, get_model(model_name), device="cpu", trust=True)
        else:
            mapped = how.endswith("mapped")
            interface = torch.load(path, mmap=mapped, weights_only=False, pickle_module=pickle_module())
    except (CheckpointError, RuntimeError) as error:
        reason = str(error).replace(f"{path}: ", "").splitlines()[0]
        return {"refused": reason, "seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    seconds, cpu, digest = time.perf_counter() - begun, time.process_time() - cpu, hashlib.sha256()
    tensors = [*interface.state_dict().values()]
    tensors += [t for store in interface.graph_data.stores for t in store.values() if torch.is_tensor(t)]
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"digest": digest.hexdigest(), "tensors": len(tensors), "seconds": seconds, "cpu": cpu, "peak_mb": peak}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="entry of models.yaml that is built")
    parser.add_argument("--folder", type=Path, help="keep the archives here")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.child:
        print(json.dumps(load(Path(args.child[0]), args.model, args.child[1])))
        return
    print("| archive | loaded by | MB | result | s | CPU s | peak MB |\n|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = args.folder or Path(folder)
        original = place / "stored.ckpt"
        if not original.exists():
            build_demo(get_model(args.model), original)
        expected = None
        for way, how, damage in ROWS:
            kept = way.partition(", one bit")[0] if damage else way
            kept = "deflated, metadata last" if kept == "deflated" else kept
            path = original if kept == "stored" else place / f"{kept}.ckpt"
            if not path.exists():
                WAYS[kept](original, path)
            if damage:
                path = archives.damaged(path, Path(folder) / "damaged.ckpt", archives.largest_tensor(path), at=0.5)
            command = [sys.executable, __file__, "--model", args.model, "--child", str(path), how]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            expected = expected or found["digest"]
            equal = f"{found.get('tensors')} tensors, " + ("equal" if found.get("digest") == expected else "OTHERS")
            peak = f"{found['peak_mb']:,.0f}" if "peak_mb" in found else ""
            result, size = found.get("refused") or equal, path.stat().st_size / 1e6
            seconds = f"{found['seconds']:.1f} | {found['cpu']:.1f}"
            print(f"| {way} | {how} | {size:,.1f} | {result} | {seconds} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
