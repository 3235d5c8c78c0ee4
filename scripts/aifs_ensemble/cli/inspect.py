"""Show what GRIB files hold, field by field, and check them: whole messages, finite values, index and file name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import add_json_argument, print_json
from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.names import index_file, parse_lead_file
from aifs_ensemble.common.text import hint

if TYPE_CHECKING:
    from aifs_ensemble.fields.grib_check import Message

GROUP = "after"
EXAMPLE = """\
aifs-ensemble inspect results/20250819_0000/forecasts --quiet
aifs-ensemble inspect input.grib2 --param 2t msl"""
HELP = "show and check GRIB files"

_COLUMNS = "{:<10} {:>8} {:>6} {:>4} {:>12} {:>12} {:>12} {:>10} {:>9}  {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="GRIB files, or folders of them")
    parser.add_argument("--param", nargs="+", help="show only these parameters, e.g. t 2t tp; all are checked")
    parser.add_argument("--headers", action="store_true", help="read headers only: quick, but values go unchecked")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong and a line per file")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print files and their checks; VerificationError if anything is wrong, InputError for fields that none has."""
    from aifs_ensemble.fields.grib_check import messages

    paths = [path for given in args.files for path in (sorted(given.rglob("*.grib*")) if given.is_dir() else [given])]
    wrong: list[str] = []
    names: set[str] = set()
    files: list[dict[str, Any]] = []
    for path in paths:
        found = list(messages(path, values=not args.headers, ours=_indexed(path)))
        names |= {message.keys["shortName"] for message in found}
        problems = _problems(path, found)
        wrong += problems
        if args.json:
            shown = [] if args.quiet else [_field(message) for message in _asked(found, args.param)]
            files.append({"path": path, "count": len(found), "fields": shown, "problems": problems})
            continue
        if not args.quiet:
            _print_fields(_asked(found, args.param))
        print(f"{path}: {_summary(path, found)}: {f'{len(problems)} wrong' if problems else 'right'}")
        for problem in problems:
            print(f"  {problem}")
    if args.json:
        print_json(files)
    if wrong or not paths:
        raise VerificationError(f"{len(wrong)} problems in {len(paths)} GRIB files, expected none in at least one")
    if absent := [name for name in args.param or () if name not in names]:
        raise InputError(
            f"--param: {' '.join(absent)}: no message of {len(paths)} files matches, {hint(absent[0], sorted(names))}"
        )
    return 0


def _problems(path: Path, found: list[Message]) -> list[str]:
    from aifs_ensemble.fields.grib_check import check_index, check_messages, check_name

    problems = [*check_messages(path, found, {}), *check_name(path, found)]
    if _indexed(path):
        problems += check_index(path, found)
    return problems


def _indexed(path: Path) -> bool:
    """Return whether a file is a lead of ours, or has an index: then it holds whole messages and nothing else."""
    return parse_lead_file(path.name) is not None or path.with_name(index_file(path.name)).exists()


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


def _asked(found: list[Message], params: list[str] | None) -> list[Message]:
    return [message for message in found if not params or message.keys["shortName"] in params]


def _field(message: Message) -> dict[str, Any]:
    """Return what the table shows of a field, and where it is in its file."""
    keys = message.keys
    statistics = {"minimum": message.minimum, "mean": message.mean, "maximum": message.maximum}
    about = {"field": message.name, "step": keys["stepRange"], "member": keys["number"], "bits": keys["bitsPerValue"]}
    place = {"offset": message.offset, "bytes": message.length, "units": keys["units"]}
    return about | statistics | {"packing_error": keys["packingError"]} | place


def _print_fields(found: list[Message]) -> None:
    print(_COLUMNS.format("field", "step", "member", "bits", "minimum", "mean", "maximum", "error", "bytes", "units"))
    for message in found:
        keys = message.keys
        statistics = (_number(v) for v in (message.minimum, message.mean, message.maximum))
        error = "" if keys["packingError"] is None else f"{keys['packingError']:.2g}"
        number = "" if keys["number"] is None else keys["number"]
        row = (message.name, keys["stepRange"], number, keys["bitsPerValue"])
        print(_COLUMNS.format(*row, *statistics, error, message.length, keys["units"]))
