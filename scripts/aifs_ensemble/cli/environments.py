"""Show the software environments of the machines, rewrite their conda YAMLs, or register them with Coiled."""

from __future__ import annotations

import argparse

from aifs_ensemble.cli._common import add_config_arguments, add_json_argument, config_from, print_json

GROUP = "machines"
EXAMPLE = """\
aifs-ensemble environments
aifs-ensemble environments --register"""
HELP = "software environments of the machines; --register makes them known to Coiled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do."""
    add_config_arguments(parser)
    parser.add_argument("--write", action="store_true", help="rewrite envs/*.yaml from the locks")
    parser.add_argument(
        "--hashes", action="store_true", help="write PyPI's digests into the locks, which pip then requires; on Linux"
    )
    parser.add_argument("--register", action="store_true", help="make Coiled software environments")
    parser.add_argument("--prefix", default="aifs-ensemble", help="their names are PREFIX-gpu and PREFIX-etl")
    parser.add_argument("--container", nargs=2, metavar=("GPU", "ETL"), help="register these images, not the locks")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Do what was asked and print a line an environment."""
    from snakemake_executor_plugin_coiled.service import token_problem

    from aifs_ensemble.common.errors import ConfigError
    from aifs_ensemble.common.files import write_bytes
    from aifs_ensemble.workflow.images import (
        CLASSES,
        FOLDER,
        conda_yaml,
        hashed_lock,
        pip_report,
        read_environment,
        register,
    )

    config = config_from(args)
    rows = []
    if args.register and (problem := token_problem()):
        raise ConfigError(problem)
    for number, name in enumerate(CLASSES):
        lock = FOLDER / f"{name}.lock"
        if args.hashes:
            write_bytes(lock, hashed_lock(lock.read_text(), pip_report(lock), str(lock)).encode())
        environment = read_environment(name)
        row = {"name": name, "packages": environment.packages, "machine_class": environment.machine_class}
        rows.append(row)
        if not args.json:
            print(f"{name}: {len(environment.packages)} packages, machine class {environment.machine_class}")
        if args.write:
            write_bytes(FOLDER / f"{name}.yaml", conda_yaml(environment).encode())
        if args.register:
            title = f"{args.prefix}-{name}"
            container = args.container[number] if args.container else None
            register(environment, title, config.cloud.workspace, container)
            row["registered"] = title
            if not args.json:
                print(f"registered {title}; set cloud.{environment.machine_class}_image: {title}")
    if args.json:
        print_json(rows)
    return 0
