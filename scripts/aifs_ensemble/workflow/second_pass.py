"""After a run in which members failed: the products of those that are delivered, where `min_members` accepts them.

Snakemake makes nothing that depends on a failed job. So the run starts itself once more, for the delivered members: it
finds the products that are missing, makes them, and rents or computes for nothing else. The first run fails all the
same, and says that the ensemble is short.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError, VerificationError
from aifs_ensemble.common.names import count_members, format_members
from aifs_ensemble.delivery.ensemble import parse_ensemble_manifest
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.ensemble_products import PAIRS, accepted_as_short, as_told, jobs_of_ensemble

PRODUCTS = "products"
# by these a run asks for products of the ensemble; another target may need a member that failed
TARGETS = frozenset({"all", PRODUCTS, "evaluation"})


def only_products() -> bool:
    """Tell whether the command line asks for products of the ensemble and nothing else."""
    if PRODUCTS not in sys.argv or internals.is_unlock():
        return False  # Snakemake's parser takes 10 to 30 ms
    return internals.targets() == {PRODUCTS}


def make_products(workflow: Any, configs: Mapping[str, Config], say: Callable[[str], None]) -> None:
    """Start the run again for the delivered members of short ensembles; say what is done, or to be done.

    `configs` are those of each unit. Call it in ``onerror``. Nothing is started for a run that was stopped, that
    forces jobs, or that asks for files.
    """
    left = internals.rules_to_run(workflow)
    like = next(iter(configs.values()))
    wanted = {
        cycle: one
        for cycle, one in configs.items()
        if one.destination and left & {*jobs_of_ensemble(one, like), *PAIRS}
    }
    ended = internals.ended_by_failures(workflow)
    short: dict[str, tuple[int, ...]] = {}
    for cycle, config in wanted.items():
        try:
            there = Destination(config)
            accepted = accepted_as_short(there)
        except StorageError:
            continue  # the closing lines say that it does not answer
        if accepted is not None:
            short[cycle] = tuple(entry.member for entry in accepted.members)
        elif ended and (refused := _too_few(there)):
            say(f"{cycle}: {refused}")
    if not short:
        return
    targets = internals.targets()
    command = shlex.join(["snakemake", PRODUCTS, *_options(sys.argv[1:], targets)])
    goes_on = targets <= TARGETS and ended and not any(internals.forced(workflow))
    for cycle, used in short.items():
        missing = format_members(set(wanted[cycle].members) - set(used))
        how = "are made now, short" if goes_on else "can be made, short"
        say(f"{cycle}: products of the ensemble {how}: without members {missing}")
    if not goes_on:
        say(f"by this command: {command}")
    elif _run_again(short, [*dict.fromkeys(one.cycle for one in configs.values())]):
        say(f"products of the ensemble were not made; again: {command}")


def _too_few(there: Destination) -> str | None:
    """Return that there are no products of the ensemble, where too few members are delivered."""
    config = there.config
    data = there.content(config.objects.ensemble_manifest) or b""
    delivered: list[int] = []
    with suppress(VerificationError):
        found = parse_ensemble_manifest(data, config.objects.ensemble_manifest, config.cycle)
        delivered = [entry.member for entry in found.members]
    if len(delivered) >= config.min_members:
        return None
    count = count_members(config.members, delivered)
    return f"no products of the ensemble: {count} delivered, expected at least {config.min_members}"


def _options(arguments: Sequence[str], targets: frozenset[str]) -> list[str]:
    """Return the arguments of a command line but for its targets."""
    return [argument for argument in arguments if argument not in targets]


def _run_again(members: Mapping[str, tuple[int, ...]], cycles: Sequence[str]) -> int:
    """Run this command for some members of some of its cycles, its output where ours goes; return its exit code.

    A signal that would stop this process stops that one, which ends its jobs and machines by itself.
    """
    # The lock is ours until we end. Members that shared a machine with a failed one count as incomplete, although they
    # are delivered; files of products appear whole, and their stamps last.
    command = [sys.executable, "-m", "snakemake", "--nolock", "--ignore-incomplete", *sys.argv[1:]]
    told = os.environ | {environment.USED: as_told(members), environment.CYCLES: ",".join(cycles)}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with subprocess.Popen(command, env=told, stdout=sys.stdout, stderr=sys.stderr) as child:
        before = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
