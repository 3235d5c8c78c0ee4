"""Build, fetch, show, check and register model checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.cli._common import add_json_argument, check_output, print_json
from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.names import checkpoint_file
from aifs_ensemble.common.text import foreign, printable

if TYPE_CHECKING:
    from aifs_ensemble.model.checkpoint.describe import Description

HELP = "build, fetch, show, check or register a model checkpoint"
GROUP = "before"
EXAMPLE = """\
aifs-ensemble checkpoint fetch aifs-ens-1.0
aifs-ensemble checkpoint check checkpoints/aifs-ens-1.0.ckpt
aifs-ensemble checkpoint register aifs-ens-1.0 checkpoints/aifs-ens-1.0.ckpt"""
DEADLINE_SECONDS = 3600.0  # that of common.http.Policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    build = actions.add_parser("build", help="write the untrained checkpoint that models.yaml describes")
    fetch = actions.add_parser("fetch", help="download a checkpoint; an interrupted download goes on where it stopped")
    for action in (build, fetch):
        action.add_argument("model", help="entry of config/models.yaml")
        action.add_argument("--output", type=Path, help=f"file to write (default {checkpoint_file('MODEL')})")
    fetch.add_argument("--source", help="path, gs:// or https:// URL to fetch from instead of Hugging Face")
    fetch.add_argument("--deadline", type=float, default=DEADLINE_SECONDS, metavar="SECONDS", help="give up after")
    fetch.add_argument("--trust", action="store_true", help="take it although its digest is not the one listed")

    show = actions.add_parser("show", help="print what a checkpoint says of itself; nothing is unpickled")
    show.add_argument("path", type=Path, help="the checkpoint")
    show.add_argument("--model", help="entry of config/models.yaml that it has to fit")

    check = actions.add_parser(
        "check", help="say what a checkpoint is, whether it runs here, and what of it will be accelerated"
    )
    check.add_argument("path", type=Path, help="a checkpoint, or a JSON or YAML file with the metadata of one")
    check.add_argument("--model", help="entry of config/models.yaml that it has to fit")
    check.add_argument("--trust", action="store_true", help="take it although its digest is not the one listed")
    check.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="make a step by both forward passes there, compare and time"
    )
    check.add_argument(
        "--precision", choices=("16", "bf16", "fp8"), help="of that step on a GPU, by default 16; the CPU takes 32"
    )

    register = actions.add_parser(
        "register", help="write a checkpoint's digest, size and commit into config/models.yaml"
    )
    register.add_argument("model", help="entry of config/models.yaml")
    register.add_argument("path", type=Path, help="the checkpoint")
    for action in (build, fetch, show, check, register):
        add_json_argument(action)


def run(args: argparse.Namespace) -> int:
    """Run the action asked for."""
    actions = {"build": _build, "fetch": _fetch, "show": _show, "check": _check, "register": _register}
    return actions[args.action](args) or 0


def _output(args: argparse.Namespace) -> Path:
    path = args.output or Path(checkpoint_file(args.model))
    check_output("--output", path, file=True)
    return path


def _build(args: argparse.Namespace) -> None:
    from aifs_ensemble.common.models import get_model
    from aifs_ensemble.model.checkpoint.build import build_demo
    from aifs_ensemble.model.checkpoint.digest import checkpoint_digest

    model, path = get_model(args.model), _output(args)
    build_demo(model, path)
    size, digest = path.stat().st_size, checkpoint_digest(path)
    if args.json:
        print_json({"path": path, "untrained": True, "size": size, "sha256": digest})
    else:
        print(f"{path}: untrained, {size} bytes, sha256 {digest}")


def _fetch(args: argparse.Namespace) -> None:
    from aifs_ensemble.common.http import Policy
    from aifs_ensemble.common.models import get_model
    from aifs_ensemble.model.checkpoint.fetch import fetch_checkpoint

    model, path = get_model(args.model), _output(args)
    policy = Policy(deadline_seconds=args.deadline)
    record = fetch_checkpoint(model, path, source=args.source, trust=args.trust, policy=policy)
    if args.json:
        print_json({"path": path, "size": record.size, "sha256": record.sha256, "source": record.source})
        return
    print(f"{path}: {record.size} bytes, sha256 {record.sha256}, from {record.source or 'an earlier fetch'}")
    if not model.checkpoint.get("sha256"):
        print(f"models.yaml lists no sha256 for it: aifs-ensemble checkpoint register {model.name} {path}")


def _show(args: argparse.Namespace) -> None:
    from aifs_ensemble.common.models import get_model
    from aifs_ensemble.model.checkpoint.describe import check_description, describe_checkpoint

    description = describe_checkpoint(args.path)
    try:
        facts = _facts(description)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = foreign(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{args.path}: metadata lacks what inference needs ({told})") from None
    if args.json:
        print_json(dict(facts))
    else:
        for name, value in facts:
            print(printable(f"{name:12} {value}"))
    if args.model:
        check_description(description, get_model(args.model))
        if not args.json:
            print(f"fits         {args.model}")


def _check(args: argparse.Namespace) -> int:
    from aifs_ensemble.cli._checkpoint_check import by_card, print_report
    from aifs_ensemble.model.checkpoint.check import examine

    if args.precision and not args.device:
        raise ConfigError("--precision: without --device, expected both: nothing is computed")
    report = examine(args.path, name=args.model, trust=args.trust)
    if args.device:
        from aifs_ensemble.model.checkpoint.on_device import tell_passes

        tell_passes(report, args.device, args.precision)
    print_report(report, by_card(report), as_json=args.json)
    return CheckpointError.exit_code if report.problems else 0


def _facts(description: Description) -> list[tuple[str, str]]:
    from aifs_ensemble.model.checkpoint.archive import read_archive
    from aifs_ensemble.model.checkpoint.describe import environment_difference
    from aifs_ensemble.model.checkpoint.digest import checkpoint_digest, read_record

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
    from aifs_ensemble.common.models import get_model
    from aifs_ensemble.model.checkpoint.register import fetched_commit, register_checkpoint

    digest = register_checkpoint(args.model, args.path)
    model = get_model(args.model)
    pinned = fetched_commit(args.path, model)
    if args.json:
        print_json({"model": args.model, "sha256": digest, "revision": pinned})
        return
    print(f"models.yaml: {args.model}: sha256 {digest}" + (f", revision {pinned}" if pinned else ""))
