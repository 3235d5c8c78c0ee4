"""Forecast one or more members on this machine, one after the other, from their initial states on scratch.

A member that is finished takes no time; one that was interrupted goes on from where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aifs_ensemble.cli._common import add_config_arguments, config_from
from aifs_ensemble.common.errors import CheckpointError, InputError, WorkflowError
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.common.names import parse_members
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.forecast.progress import Progress
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.model.compile_cache import CompileCache
from aifs_ensemble.workflow.preflight import check_scratch_folder

HELP = "forecast members on this machine"


class TerminalProgress(Progress):
    """One line on the terminal that is written over as leads come out."""

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        super().lead_published(record, folder)
        print(f"\r\033[K{self.line}", end="", file=sys.stderr, flush=True)

    def finished(self, manifest: MemberManifest) -> None:
        print("\r\033[K", end="", file=sys.stderr, flush=True)

    def failed(self, error: BaseException) -> None:
        print(file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    parser.add_argument("--members", help="members to run instead of those of the configuration, e.g. 1-3,7")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint file instead of the configuration's")
    parser.add_argument("--initial", type=Path, help="initial state of the one member that is run")


def check_named(args: argparse.Namespace, model: str) -> None:
    """Refuse files that are named and not there: a finished member would not miss them."""
    if args.checkpoint is not None and not args.checkpoint.is_file():
        what = "a folder" if args.checkpoint.is_dir() else "no such checkpoint"
        raise CheckpointError(f"{args.checkpoint}: {what}, expected that of {model}")
    if args.initial is not None and not args.initial.is_file():
        raise InputError(f"{args.initial}: {'a folder' if args.initial.is_dir() else 'no such file'}, expected a state")


def run(args: argparse.Namespace) -> int:
    """Run the members; the first that fails ends the command."""
    config = config_from(args)
    members = config.members if args.members is None else parse_members(args.members, config.ensemble_size)
    if args.initial and len(members) > 1:
        raise WorkflowError(f"--initial: {args.initial} is one member's, expected one of {len(members)} members")
    check_named(args, config.model.name)
    check_scratch_folder(config)
    for member in members:
        request = ForecastRequest.from_config(config, member, checkpoint=args.checkpoint, initial=args.initial)
        observers: list[Observer] = [TerminalProgress()] if sys.stderr.isatty() and request.progress else []
        if request.settings.compile:
            observers.append(CompileCache.of(config))
        manifest = run_forecast(request, observers)
        print(
            f"member {member}: {len(manifest.leads)} leads, {manifest.fields} fields, {manifest.bytes / 1e6:.1f} MB, "
            f"digest {manifest.content_digest[:16]}, {request.manifest}"
        )
    return 0
