"""Forecast one or more members on this machine, one after the other, from their initial states on scratch.

A member that is finished takes no time; one that was interrupted goes on from where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    add_members_argument,
    config_from,
    members_from,
    print_json,
)
from aifs_ensemble.common.errors import CheckpointError, InputError, WorkflowError

if TYPE_CHECKING:
    from aifs_ensemble.common.observers import Observer

HELP = "forecast members on this machine"
GROUP = "stages"
EXAMPLE = """\
aifs-ensemble forecast --members 1-3
aifs-ensemble forecast --members 7 --checkpoint my.ckpt --initial scratch/20250819_0000/initial/member007.safetensors"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    add_members_argument(parser)
    parser.add_argument("--checkpoint", type=Path, help="checkpoint file instead of the configuration's")
    parser.add_argument("--initial", type=Path, help="initial state of the one member that is run")
    add_json_argument(parser)


def check_named(args: argparse.Namespace, model: str) -> None:
    """Refuse files that are named and not there: a finished member would not miss them."""
    if args.checkpoint is not None and not args.checkpoint.is_file():
        what = "a folder" if args.checkpoint.is_dir() else "no such checkpoint"
        raise CheckpointError(f"{args.checkpoint}: {what}, expected that of {model}")
    if args.initial is not None and not args.initial.is_file():
        raise InputError(f"{args.initial}: {'a folder' if args.initial.is_dir() else 'no such file'}, expected a state")


def run(args: argparse.Namespace) -> int:
    """Run the members; the first that fails ends the command."""
    from aifs_ensemble.forecast.request import ForecastRequest
    from aifs_ensemble.forecast.run import run_forecast
    from aifs_ensemble.model.compile_cache import CompileCache
    from aifs_ensemble.workflow.preflight import check_scratch_folder

    config = config_from(args, "inputs")
    members = members_from(args, config)
    if args.initial and len(members) > 1:
        raise WorkflowError(f"--initial: {args.initial} is one member's, expected one of {len(members)} members")
    check_named(args, config.model.name)
    check_scratch_folder(config)
    rows = []
    for member in members:
        request = ForecastRequest.from_config(config, member, checkpoint=args.checkpoint, initial=args.initial)
        observers: list[Observer] = []
        if sys.stderr.isatty() and request.progress:
            from aifs_ensemble.cli._progress import TerminalProgress

            observers.append(TerminalProgress())
        if request.settings.compile:
            observers.append(CompileCache.of(config))
        manifest = run_forecast(request, observers)
        rows.append(
            {
                "member": member,
                "leads": len(manifest.leads),
                "fields": manifest.fields,
                "bytes": manifest.bytes,
                "digest": manifest.content_digest,
                "manifest": request.manifest,
            }
        )
        if args.json:
            continue
        print(
            f"member {member}: {len(manifest.leads)} leads, {manifest.fields} fields, {manifest.bytes / 1e6:.1f} MB, "
            f"digest {manifest.content_digest[:16]}, {request.manifest}"
        )
    if args.json:
        print_json(rows)
    return 0
