"""The ``aifs-ensemble`` command (also ``python -m aifs_ensemble``).

Every module of this package is a command: it has ``HELP``, ``add_arguments(parser)`` and
``run(args) -> int``. Modules are imported only when their command is asked for, or for ``--help``.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import aifs_ensemble
from aifs_ensemble.common.errors import DiskFullError, WorkflowError
from aifs_ensemble.common.text import printable


def command_names() -> list[str]:
    """Return the names of all commands."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """Return the module of a command."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with the commands in `names`."""
    parser = argparse.ArgumentParser(prog="aifs-ensemble", description="AIFS ENS ensembles: plan, run, check, account.")
    parser.add_argument("--version", action="version", version=aifs_ensemble.__version__)
    parser.add_argument("--verbose", action="store_true", help="more detail in the log")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names:
        module = load(name)
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors a user may meet end in one line and their own exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = command_names()
    asked = next((a for a in arguments if not a.startswith("-")), None)
    args = build_parser([asked] if asked in known else known).parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(message)s")
    try:
        return args.run(args)
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
