"""Arguments that several commands share, in the same words; the configuration that they name."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._checkout import DEFAULT_CONFIG, check_here

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.common.cycle_words import CycleWord
    from aifs_ensemble.workflow.cycle import Meaning


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``, ``--configfile`` and ``--config``, which mean what they mean to snakemake."""
    parser.add_argument("--profile", metavar="NAME", help="Snakemake profile: its configuration files and machines")
    parser.add_argument(
        "--configfile", nargs="+", type=Path, default=[], metavar="FILE", help="configuration files, not the profile's"
    )
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="keys set over the files")


CYCLE_HELP = "one cycle, not all of the configuration's"
MODEL_HELP = "one model, not all of the configuration's"


def add_cycle_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cycle`` and ``--model``, which `config_from` reads."""
    parser.add_argument("--cycle", dest="only_cycle", metavar="CYCLE", help=CYCLE_HELP)
    add_model_argument(parser)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, which `config_from` reads."""
    parser.add_argument("--model", dest="only_model", metavar="MODEL", help=MODEL_HELP)


def add_members_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--members``, read by `members_from`."""
    parser.add_argument("--members", help="only these members, e.g. 1-3,7 (default: all of the configuration)")


def add_cycles_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cycles``, read by `delivery.archive.choose_cycles`."""
    parser.add_argument("--cycles", help="only these cycles of the destination, e.g. A,B..C (default: all there)")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(content: Any) -> None:
    """Print facts as JSON; what JSON has no form for, such as a path or a time, as text."""
    print(json.dumps(content, indent=1, default=str))


def members_from(args: argparse.Namespace, config: Config) -> tuple[int, ...]:
    """Return the members that ``--members`` names, else those of the configuration."""
    from aifs_ensemble.common.names import parse_members

    return config.members if args.members is None else parse_members(args.members, config.ensemble_size)


def run_each_cycle(
    args: argparse.Namespace, config: Config, do: Callable[[Config, Callable[[Any], None]], None]
) -> None:
    """Do what a command does of each unit; of several, each below its name, and what fails keeps none from it.

    Parameters
    ----------
    do : prints, or with ``--json`` gives its second argument the facts; those of several are printed by unit

    Raises WorkflowError at the end, with the worst exit code of all units.
    """
    from aifs_ensemble.common.cycles import each_cycle

    facts: dict[str, Any] = {}
    several = len(config.units) > 1

    def one(of_cycle: Config) -> None:
        if several and not args.json:
            print(f"{of_cycle.unit}:", flush=True)
        do(of_cycle, lambda found: facts.update({of_cycle.unit: found}))

    try:
        each_cycle(config.of_each_cycle, one, lambda line: print(f"error: {line}", file=sys.stderr, flush=True))
    finally:
        if args.json and facts:
            print_json({"cycles": facts} if several else facts[config.of_each_cycle[0].unit])


def check_output(option: str, path: Path, *, file: bool = False) -> None:
    """Raise ConfigError unless an option names a folder (or a `file` in one) that can be written to, or made."""
    from aifs_ensemble.common.errors import ConfigError
    from aifs_ensemble.common.files import folder_problem

    problem = f"{path} is a folder" if file and path.is_dir() else folder_problem(path.parent if file else path)
    if problem:
        raise ConfigError(f"{option}: {str(path)!r}, expected a {'file' if file else 'folder'} to write: {problem}")


def config_files(args: argparse.Namespace) -> list[Path]:
    """Return the configuration files that the arguments name; the profile is looked for even where it names none."""
    from aifs_ensemble.cli import _profile

    of_profile = _profile.configfiles(args.profile) if args.profile else []
    return args.configfile or of_profile or [DEFAULT_CONFIG]


def plan_profile(args: argparse.Namespace) -> str | None:
    """Return on whose machines the profile runs jobs, None without one."""
    from aifs_ensemble.cli import _profile

    return _profile.plan_profile(args.profile) if args.profile else None


def members_group(args: argparse.Namespace) -> int | None:
    """Return how many members the profile puts on a machine, None without one."""
    from aifs_ensemble.cli import _profile

    return _profile.members_group(args.profile) if args.profile else None


def config_from(args: argparse.Namespace, cycle: Meaning = "inputs") -> Config:
    """Return the configuration that the arguments name.

    `cycle` says what a word for the cycle means: with ``inputs`` the newest that can be forecast, with ``there`` the
    newest that the destination or scratch has something of, with ``begun`` that of the clock, where no cycle is needed.
    """
    return _config_of(args, *_given(args), cycle)


def _config_of(args: argparse.Namespace, raw: dict[str, Any], files: list[Path], cycle: Meaning) -> Config:
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.common.cycles import has_words, name_cycles
    from aifs_ensemble.common.errors import ConfigError

    if has_words(raw):
        from aifs_ensemble.workflow.cycle import named

        raw = named(raw, files, cycle)
    config, only = Config(raw, files), getattr(args, "only_cycle", None)
    model = getattr(args, "only_model", None)
    if model is not None and model not in config.models:
        raise ConfigError(f"--model: {model!r}, expected one of the configuration's: {' and '.join(config.models)}")
    config = config if model is None else config.of_model(model)
    if only is None:
        return config
    if only not in config.cycles:
        raise ConfigError(f"--cycle: {only!r}, expected one of the configuration's: {name_cycles(config.cycles)}")
    return config.of_cycle(only)


def words_and_config(args: argparse.Namespace) -> tuple[list[CycleWord], Config]:
    """Return the words that the arguments have for cycles, none without one, and the configuration of any cycle."""
    from aifs_ensemble.common.cycles import words_of
    from aifs_ensemble.workflow.cycle import word_of

    raw, files = _given(args)
    word = word_of(raw, files)
    return [word] if word else [*words_of(raw.get("cycles"))], _config_of(args, raw, files, "begun")


def _given(args: argparse.Namespace) -> tuple[dict[str, Any], list[Path]]:
    """Return keys and values as files and ``--config`` give them, and the files."""
    from aifs_ensemble.common.config import read_files

    files = config_files(args)
    if not args.configfile and (missing := [file for file in files if not file.is_file()]):
        check_here(missing[0])
    return read_files(*files, over=keys_given(args)), files


def keys_given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keys that ``--config`` sets; ConfigError for what is none."""
    import yaml

    from aifs_ensemble.common.config import merge
    from aifs_ensemble.common.config.schema import takes_text
    from aifs_ensemble.common.errors import ConfigError
    from aifs_ensemble.common.yaml_tables import read_yaml

    found: dict[str, Any] = {}
    for item in args.config:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--config: {item!r}, expected KEY=VALUE")
        loader = yaml.BaseLoader if key in ("cycle", "cycles", "members") else yaml.SafeLoader
        value = read_yaml(text, f"--config: {item!r}", loader)
        if takes_text(key) and not isinstance(value, str | None):  # `gs://:` is a mapping, and 2026 a number
            value = text
        for part in reversed(key.split(".")[1:]):
            value = {part: value}
        merge(found, {key.split(".")[0]: value})
    return found


def config_of_run(args: argparse.Namespace, profile: str) -> Config:
    """Return the configuration that the arguments name; without any, that of the run which starts this command.

    A person who names no profile means `profile`.
    """
    from aifs_ensemble.workflow.context import current

    if not (args.profile or args.configfile or args.config):
        return current()
    args.profile = args.profile or profile
    return config_from(args, "there")
