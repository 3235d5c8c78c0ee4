"""Build, fetch, show, check and register model checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from aifs_ensemble.cli._checkpoint_check import by_card, print_report
from aifs_ensemble.cli._common import check_output
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.http import Policy
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import checkpoint_file
from aifs_ensemble.common.text import foreign, printable
from aifs_ensemble.model.checkpoint.archive import read_archive
from aifs_ensemble.model.checkpoint.build import build_demo
from aifs_ensemble.model.checkpoint.check import examine
from aifs_ensemble.model.checkpoint.describe import (
    Description,
    check_description,
    describe_checkpoint,
    environment_difference,
)
from aifs_ensemble.model.checkpoint.digest import checkpoint_digest, read_record
from aifs_ensemble.model.checkpoint.fetch import fetch_checkpoint
from aifs_ensemble.model.checkpoint.on_device import tell_passes
from aifs_ensemble.model.checkpoint.register import fetched_commit, register_checkpoint

HELP = "build, fetch, show, check or register a model checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    build = actions.add_parser("build", help="write the untrained checkpoint that models.yaml describes")
    fetch = actions.add_parser("fetch", help="download a checkpoint; an interrupted download goes on where it stopped")
    for action in (build, fetch):
        action.add_argument("model", help="entry of config/models.yaml")
        action.add_argument("--output", type=Path, help=f"file to write (default {checkpoint_file('MODEL')})")
    fetch.add_argument("--source", help="path, gs:// or https:// URL to fetch from instead of Hugging Face")
    fetch.add_argument(
        "--deadline", type=float, default=Policy.deadline_seconds, metavar="SECONDS", help="give up after"
    )
    fetch.add_argument("--trust", action="store_true", help="keep it although its digest is not the one listed")

    show = actions.add_parser("show", help="print what a checkpoint says of itself; nothing is unpickled")
    show.add_argument("path", type=Path)
    show.add_argument("--model", help="check that it fits this entry of config/models.yaml")

    check = actions.add_parser(
        "check", help="say what a checkpoint is, whether it runs here, and what of it will be accelerated"
    )
    check.add_argument("path", type=Path, help="a checkpoint, or a JSON or YAML file with the metadata of one")
    check.add_argument(
        "--model", help="entry of config/models.yaml to compare it with, instead of the one that it fits"
    )
    check.add_argument("--trust", action="store_true", help="load the model although its digest is not listed")
    check.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="make a step by both forward passes there, compare and time"
    )
    check.add_argument("--json", action="store_true", help="print JSON")

    register = actions.add_parser(
        "register", help="write a checkpoint's digest, size and commit into config/models.yaml"
    )
    register.add_argument("model", help="entry of config/models.yaml")
    register.add_argument("path", type=Path)


def run(args: argparse.Namespace) -> int:
    """Run the action asked for."""
    actions = {"build": _build, "fetch": _fetch, "show": _show, "check": _check, "register": _register}
    return actions[args.action](args) or 0


def _output(args: argparse.Namespace) -> Path:
    path = args.output or Path(checkpoint_file(args.model))
    check_output("--output", path, file=True)
    return path


def _build(args: argparse.Namespace) -> None:
    model, path = get_model(args.model), _output(args)
    build_demo(model, path)
    print(f"{path}: untrained, {path.stat().st_size} bytes, sha256 {checkpoint_digest(path)}")


def _fetch(args: argparse.Namespace) -> None:
    model, path = get_model(args.model), _output(args)
    policy = Policy(deadline_seconds=args.deadline)
    record = fetch_checkpoint(model, path, source=args.source, trust=args.trust, policy=policy)
    print(f"{path}: {record.size} bytes, sha256 {record.sha256}, from {record.source or 'an earlier fetch'}")
    if not model.checkpoint.get("sha256"):
        print(f"models.yaml lists no sha256 for it: aifs-ensemble checkpoint register {model.name} {path}")


def _show(args: argparse.Namespace) -> None:
    description = describe_checkpoint(args.path)
    try:
        facts = _facts(description)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = foreign(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{args.path}: metadata lacks what inference needs ({told})") from None
    for name, value in facts:
        print(printable(f"{name:12} {value}"))
    if args.model:
        check_description(description, get_model(args.model))
        print(f"fits         {args.model}")


def _check(args: argparse.Namespace) -> int:
    report = examine(args.path, name=args.model, trust=args.trust)
    if args.device:
        tell_passes(report, args.device)
    print_report(report, by_card(report), as_json=args.json)
    return CheckpointError.exit_code if report.problems else 0


def _facts(description: Description) -> list[tuple[str, str]]:
    record = read_record(description.path)
    versions = [f"{name} {version}" for name, version in description.versions_that_matter.items()]
    others = len(description.versions) - len(versions)
    parts = [f"{len(names)} {part}" for part, names in description.variables.items()]
    return [
        ("file", f"{description.path}, {description.size} bytes"),
        ("records", read_archive(description.path).method),
        ("sha256", checkpoint_digest(description.path)),
        ("source", (record and record.source) or "not recorded"),
        ("trained", "no: untrained" if description.untrained else "yes, as far as its metadata says"),
        ("grid", f"{description.points} points"),
        ("time step", f"{description.timestep_hours:g} h"),
        ("variables", ", ".join(parts)),
        ("made with", ", ".join(versions) + (f" and {others} more" if others else "") or "not recorded"),
        ("differs here", environment_difference(description) or "no"),
    ]


def _register(args: argparse.Namespace) -> None:
    digest = register_checkpoint(args.model, args.path)
    model = get_model(args.model)
    pinned = fetched_commit(args.path, model)
    print(f"models.yaml: {args.model}: sha256 {digest}" + (f", revision {pinned}" if pinned else ""))
