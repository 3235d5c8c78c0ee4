"""Show the software environments of the machines, rewrite their conda YAMLs, or register them with Coiled."""

from __future__ import annotations

import argparse

from aifs_ensemble.cli._common import add_config_arguments, add_json_argument, config_from, print_json

GROUP = "machines"
EXAMPLE = """\
aifs-ensemble environments
aifs-ensemble environments --overlays
aifs-ensemble environments --register"""
HELP = "software environments of the machines; --overlays makes those of other models here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do."""
    add_config_arguments(parser)
    parser.add_argument(
        "--overlays", action="store_true", help="install the packages of other models over the common ones, here"
    )
    parser.add_argument("--write", action="store_true", help="rewrite envs/*.yaml from the locks")
    parser.add_argument(
        "--hashes", action="store_true", help="write PyPI's digests into the locks, which pip then requires; on Linux"
    )
    parser.add_argument("--register", action="store_true", help="make Coiled software environments")
    parser.add_argument("--prefix", default="aifs-ensemble", help="their names are PREFIX-gpu, PREFIX-etl and so on")
    parser.add_argument("--container", nargs=2, metavar=("GPU", "ETL"), help="register these images, not the locks")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Do what was asked and print a line an environment."""
    from snakemake_executor_plugin_coiled.service import token_problem

    from aifs_ensemble.common.errors import ConfigError
    from aifs_ensemble.common.files import write_bytes
    from aifs_ensemble.workflow.images import CLASSES, FOLDER, conda_yaml, environment_names, read_environment, register

    if args.overlays:
        return _make_overlays(as_json=args.json)
    config = config_from(args, "begun")
    rows = []
    if args.register and (problem := token_problem()):
        raise ConfigError(problem)
    containers = dict(zip(CLASSES, args.container or (), strict=False))
    if args.hashes:
        _write_hashes()
    for name in environment_names():
        environment = read_environment(name)
        row = {"name": name, "packages": environment.packages, "machine_class": environment.machine_class}
        rows.append(row)
        if not args.json:
            print(f"{name}: {len(environment.packages)} packages, machine class {environment.machine_class}")
        if args.write:
            write_bytes(FOLDER / f"{name}.yaml", conda_yaml(environment).encode())
        if args.register and (not containers or name in containers):
            title = f"{args.prefix}-{name}"
            register(environment, title, config.cloud.workspace, containers.get(name))
            row["registered"] = title
            if not args.json:
                print(f"registered {title}; set cloud.{environment.machine_class}_image: {title}")
    if args.json:
        print_json(rows)
    return 0


def _write_hashes() -> None:
    """Write PyPI's digests into all locks."""
    from aifs_ensemble.common.files import write_bytes
    from aifs_ensemble.common.overlays import lock_of, overlay_names
    from aifs_ensemble.workflow.images import CLASSES, FOLDER, hashed_lock, pip_report

    for lock in [*(FOLDER / f"{name}.lock" for name in CLASSES), *map(lock_of, overlay_names())]:
        write_bytes(lock, hashed_lock(lock.read_text(), pip_report(lock), str(lock)).encode())


def _make_overlays(*, as_json: bool) -> int:
    """Install what each overlay lists into its folder, where it is not there already."""
    from aifs_ensemble.common.overlays import make_overlay, overlay_folder, overlay_names, overlay_pins

    rows = []
    for name in overlay_names():
        made = make_overlay(name)
        rows.append({"name": name, "folder": overlay_folder(name), "packages": overlay_pins(name), "made": made})
        if not as_json:
            listed = ", ".join(f"{package} {version}" for package, version in overlay_pins(name).items())
            print(f"{name}: {listed} {'installed into' if made else 'are in'} {overlay_folder(name)}")
    if as_json:
        print_json(rows)
    return 0
