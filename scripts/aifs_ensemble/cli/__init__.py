"""The ``aifs-ensemble`` command (also ``python -m aifs_ensemble``).

Every module of this package is a command: it has ``HELP`` (a line), ``GROUP`` (a key of `GROUPS`), ``EXAMPLE`` (command
lines), ``add_arguments(parser)`` and ``run(args) -> int``. Help and completion import all of them and nothing else: a
command imports the library, with all that it takes, inside its functions.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import pkgutil
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NoReturn

import aifs_ensemble
from aifs_ensemble.common.errors import DiskFullError, WorkflowError
from aifs_ensemble.common.text import nearest, printable

GROUPS = {
    "before": "before a run",
    "stages": "stages on this machine, without Snakemake",
    "after": "during a run, and after it",
    "machines": "rented machines",
    "shell": "this command itself",
    "profiles": "called by profiles, not by people",
}
_EXAMPLES = "examples:\n"
_FEW = 8
# as argparse words them, in Python 3.11 to 3.13
_WRONG_CHOICE = re.compile(r"argument (?P<name>\S+): invalid choice: (?P<value>.*) \(choose from (?P<known>.*)\)")
_WRONG_TYPE = re.compile(r"argument (?P<name>\S+): invalid (?P<kind>\w+) value: (?P<value>.*)")


class _Format(argparse.HelpFormatter):
    """Paragraphs to the terminal's width, examples as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_EXAMPLES):
            return textwrap.indent(text, indent)
        return "\n\n".join(super(_Format, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong: the option, the value, what was expected, and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"error: {_wrong(message)}; see `{self.prog} --help`") + "\n")


def _wrong(message: str) -> str:
    """Return what argparse says of a wrong argument, in the words of our own errors."""
    if found := _WRONG_CHOICE.fullmatch(message):
        known = [name.strip("' ") for name in found["known"].split(",")]
        near = nearest(found["value"].strip("'"), known)
        said = (
            f"expected one of {', '.join(known)}" if len(known) <= _FEW else f"expected a {found['name']} of the list"
        )
        return f"{found['name']}: {found['value']}, {said}{f', did you mean {near!r}?' if near else ''}"
    if found := _WRONG_TYPE.fullmatch(message):
        expected = {"int": "a whole number", "float": "a number"}.get(found["kind"], f"a {found['kind']}")
        return f"{found['name']}: {found['value']}, expected {expected}"
    return message.removeprefix("argument ")


class _Overview(Parser):
    """The parser of all commands, whose help lists them by what they are for."""

    listed: Mapping[str, ModuleType] = {}

    def format_help(self) -> str:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        lines = [f"usage: {self.prog} COMMAND [OPTION ...]", "", str(self.description)]
        for group, title in GROUPS.items():
            names = [name for name, module in self.listed.items() if group == module.GROUP]
            lines += ["", f"{title}:"] if names else []
            for name in names:
                said = textwrap.wrap(self.listed[name].HELP, max(width - 18, 20))
                lines += [f"  {name:15} {said[0]}", *(f"{'':18}{more}" for more in said[1:])]
        lines += ["", "options of every command:"]
        for option, text in (
            ("-h, --help", "what a command does, its options and examples"),
            ("--version", "the version of this workflow"),
            ("--verbose", "before COMMAND: more detail in the log"),
        ):
            lines.append(f"  {option:15} {text}")
        lines += ["", "Run it from the root of the checkout. `--json` prints facts as JSON.", ""]
        return "\n".join(lines)


def command_names() -> list[str]:
    """Return the names of all commands."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """Return the module of a command."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with the commands in `names`."""
    parser = _Overview(prog="aifs-ensemble", description="AIFS ENS ensembles: plan, run, check, account.")
    parser.add_argument("--version", action="version", version=f"aifs-ensemble {aifs_ensemble.__version__}")
    parser.add_argument("--verbose", action="store_true", help="more detail in the log")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    parser.listed = modules = {name: load(name) for name in names}
    for name, module in modules.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=_EXAMPLES + textwrap.indent(module.EXAMPLE, "  "),
            formatter_class=_Format,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _refuse(command: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """End with what a command does not know: the option that is nearest, where one is."""
    near = nearest(unknown[0], re.findall(r"--[a-z][a-z-]+", command.format_usage())) if unknown[0][:1] == "-" else None
    what = "option" if unknown[0].startswith("-") else "argument"
    command.error(f"unknown {what} {unknown[0]!r}{f', did you mean {near!r}?' if near else ''}")


def _run(args: argparse.Namespace) -> int:
    try:
        return args.run(args)
    except ModuleNotFoundError as error:
        from aifs_ensemble.common.extras import lacks

        raise lacks(error) or error from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors a user may meet end in one line and their own exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = command_names()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow; see the command `completion`
        from aifs_ensemble.cli._completers import complete

        complete(build_parser(known))
    asked = next((a for a in arguments if not a.startswith("-")), None)
    args, unknown = build_parser([asked] if asked in known else known).parse_known_args(arguments)
    if unknown:
        _refuse(args.parser, unknown)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(message)s")
    try:
        return _run(args)
    except WorkflowError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # a reader such as head has seen enough; Python must not complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: {error.filename or 'this machine'}: no space left on device", file=sys.stderr)
            return DiskFullError.exit_code
        if error.filename is None:
            raise  # of no file that a user could name
        logging.debug("%s", error, exc_info=error)
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return WorkflowError.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
