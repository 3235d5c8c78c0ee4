"""Bring finished members from scratch to the destination, verified. What is there already is not sent again."""

from __future__ import annotations

import argparse

from aifs_ensemble.cli._common import add_config_arguments, config_from
from aifs_ensemble.delivery import deliver_member
from aifs_ensemble.ensemble import write_ensemble_manifest
from aifs_ensemble.errors import ConfigError
from aifs_ensemble.names import member_name

HELP = "deliver finished members to the destination"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--no-ensemble", action="store_true", help="leave the ensemble's manifest as it is")


def run(args: argparse.Namespace) -> int:
    config = config_from(args)
    finished = [member for member in config.members if config.scratch.manifest(member).exists()]
    if not finished:
        raise ConfigError(
            f"{config.scratch.base / 'manifests'}: no finished member, expected some of {config['members']}"
        )
    for member in finished:
        receipt = deliver_member(config, member)
        moved = f"{receipt.sent_bytes} bytes in {receipt.sent_objects} objects sent in {receipt.seconds:.1f} s"
        print(f"{member_name(member)}: {receipt.bytes} bytes, {moved if receipt.sent_objects else 'no bytes moved'}")
    if not args.no_ensemble:
        print(write_ensemble_manifest(config))
    return 0
