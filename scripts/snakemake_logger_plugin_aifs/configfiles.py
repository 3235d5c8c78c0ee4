"""Faults of the files that ``--configfile`` names, in one line each.

Snakemake reads them before the Snakefile, so that no code of the workflow meets them, and its own error names neither
file nor line. The logger has the first look at that error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


def faults(arguments: Sequence[str] | None = None) -> list[str]:
    """Return what is wrong with the configuration files of a command line and its profiles; empty if nothing is."""
    return [said for path in _named(sys.argv[1:] if arguments is None else arguments) for said in _fault(path)]


def _named(arguments: Sequence[str]) -> list[Path]:
    """Return the files, as Snakemake's own parser reads them."""
    from snakemake.cli import get_argument_parser

    given: Any = get_argument_parser().parse_known_args(arguments)[0]
    if given.profile and given.profile != ["none"]:
        given = get_argument_parser(profiles=given.profile).parse_known_args(arguments)[0]
    return list(given.configfile or [])


def _fault(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        yield f"{path}: no such configuration file"
    except OSError as error:
        yield f"{path}: {error.strerror}, expected a configuration file"
    except UnicodeDecodeError as error:
        yield f"{path}: byte {error.start} is no UTF-8, expected a text file of keys and values"
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date such as 2025-02-30
        mark = getattr(error, "problem_mark", None)
        parts = [getattr(error, "problem", None), getattr(error, "context", None)]
        said = ", ".join(part for part in parts if part) or str(error)
        # of what ends too early, the last line that is there
        line = f":{min(mark.line, text.rstrip().count(chr(10))) + 1}" if mark else ""
        yield f"{path}{line}: not valid YAML ({' '.join(said.split())})"
    else:
        if not isinstance(content, dict):
            yield f"{path}: {'nothing' if content is None else type(content).__name__}, expected keys and values"
