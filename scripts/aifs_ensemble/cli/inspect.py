"""Show what GRIB files hold, field by field, and check them: whole messages, finite values, index and file name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.text import hint
from aifs_ensemble.fields.grib_check import Message, check_index, check_messages, check_name, is_lead, messages

HELP = "show and check GRIB files"

_COLUMNS = "{:<10} {:>8} {:>6} {:>4} {:>12} {:>12} {:>12} {:>10} {:>9}  {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="GRIB files, or folders of them")
    parser.add_argument("--param", nargs="+", help="show only these parameters, e.g. t 2t tp; all are checked")
    parser.add_argument("--headers", action="store_true", help="read headers only: quick, but values go unchecked")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong and a line per file")


def run(args: argparse.Namespace) -> int:
    """Print files and their checks; VerificationError if anything is wrong, InputError for fields that none has."""
    paths = [path for given in args.files for path in (sorted(given.rglob("*.grib*")) if given.is_dir() else [given])]
    wrong: list[str] = []
    names: set[str] = set()
    for path in paths:
        found = list(messages(path, values=not args.headers, ours=_indexed(path)))
        names |= {message.keys["shortName"] for message in found}
        if not args.quiet:
            _print_fields(found, args.param)
        problems = _problems(path, found)
        print(f"{path}: {_summary(path, found)}: {f'{len(problems)} wrong' if problems else 'right'}")
        for problem in problems:
            print(f"  {problem}")
        wrong += problems
    if wrong or not paths:
        raise VerificationError(f"{len(wrong)} problems in {len(paths)} GRIB files, expected none in at least one")
    if absent := [name for name in args.param or () if name not in names]:
        raise InputError(
            f"--param: {' '.join(absent)}: no message of {len(paths)} files matches, {hint(absent[0], sorted(names))}"
        )
    return 0


def _problems(path: Path, found: list[Message]) -> list[str]:
    problems = [*check_messages(path, found, {}), *check_name(path, found)]
    if _indexed(path):
        problems += check_index(path, found)
    return problems


def _indexed(path: Path) -> bool:
    """Return whether a file is a lead of ours, or has an index: then it holds whole messages and nothing else."""
    return is_lead(path) or path.with_name(index_file(path.name)).exists()


def _summary(path: Path, found: list[Message]) -> str:
    members = sorted({m.keys["number"] for m in found if m.keys["number"] is not None})
    steps = sorted({m.keys["endStep"] for m in found}, key=lambda step: (isinstance(step, str), step))
    size = path.stat().st_size
    # of a message of several fields ecCodes tells the length that each would have alone
    alone = len({message.offset for message in found}) == len(found)
    other = size - sum(message.length for message in found) if alone else 0
    between = f", {other} bytes that are no message" if other > 0 else ""
    return f"{len(found)} fields, {size / 1e6:.2f} MB{between}, members {_span(members)}, steps {_span(steps)} h"


def _span(numbers: Sequence[int | str]) -> str:
    return "none" if not numbers else f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _print_fields(found: list[Message], params: list[str] | None) -> None:
    print(_COLUMNS.format("field", "step", "member", "bits", "minimum", "mean", "maximum", "error", "bytes", "units"))
    for message in found:
        keys = message.keys
        if params and keys["shortName"] not in params:
            continue
        statistics = (_number(v) for v in (message.minimum, message.mean, message.maximum))
        error = "" if keys["packingError"] is None else f"{keys['packingError']:.2g}"
        number = "" if keys["number"] is None else keys["number"]
        row = (message.name, keys["stepRange"], number, keys["bitsPerValue"])
        print(_COLUMNS.format(*row, *statistics, error, message.length, keys["units"]))
