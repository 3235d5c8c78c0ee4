"""One preemptible machine as a process: the real forecast job of one member, on an empty scratch.

Started by `multiprocessing` from a server that has torch imported, so that twenty machines cost seconds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def forecast(settings: str, member: int, initial: str, checkpoint: str, log: str) -> None:
    """Run the member in a process group of its own, with its output in `log`."""
    import logging

    import torch
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.workflow.member_job import run_member

    os.setsid()
    torch.set_num_threads(1)
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    config = Config(json.loads(settings))
    manifest = config.scratch.root / "out" / f"member{member:03d}.json"
    manifest.parent.mkdir(parents=True)
    run_member(config, member, initial_state=Path(initial), checkpoint=Path(checkpoint), manifest=manifest)
