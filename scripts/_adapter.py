"""What every rule's script shares: logging to the rule's log, and errors in one line with their exit code."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DiskFullError, WorkflowError
from aifs_ensemble.common.extras import lacks
from aifs_ensemble.common.files import remove_leftovers_of
from aifs_ensemble.common.units import model_of, unit_of

FORMAT = "%(asctime)s %(levelname)s %(message)s"


@contextmanager
def rule(snakemake: Any) -> Iterator[Config]:
    """Set up logging and yield the configuration, of the job's unit; a WorkflowError ends the job in one line."""
    target = str(snakemake.log[0]) if snakemake.log else None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if target:
        handlers.append(logging.FileHandler(target, mode="w"))
    logging.basicConfig(level=logging.INFO, format=FORMAT, handlers=handlers, force=True)
    for noisy in ("urllib3", "google", "earthkit", "matplotlib", "anemoi", "findlibs", "filelock", "numexpr"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        remove_leftovers_of(Path(path) for path in snakemake.output)
        config, unit = of_run(snakemake), unit_of(snakemake.wildcards)
        yield config.of_model(model_of(snakemake.wildcards)) if unit is None else config.of_unit(unit)
    except WorkflowError as error:
        logging.error("%s", error)  # noqa: TRY400 - one line, no traceback
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        logging.error("%s: no space left on device", error.filename or "this machine")  # noqa: TRY400
        sys.exit(DiskFullError.exit_code)


@contextmanager
def product(snakemake: Any, config: Config) -> Iterator[None]:
    """Run a product's code, then bring what it made to a bucket that Snakemake itself does not write to."""
    from aifs_ensemble.products.deliver import deliver_copies

    yield
    deliver_copies(config, [Path(path) for path in snakemake.output])


@contextmanager
def ensemble_product(snakemake: Any, config: Config) -> Iterator[None]:
    """Run the code of a product of the ensemble as `product` does, and note of which members it was made."""
    from aifs_ensemble.products.stamps import Stamp

    stamp = Stamp.now(config, snakemake.params.members)
    with product(snakemake, config):
        yield
    stamp.leave(config, snakemake.rule)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if isinstance(error, ModuleNotFoundError) and (told := lacks(error)):
        logging.error("%s", told)
        return
    logging.critical("uncaught %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def of_run(snakemake: Any) -> Config:
    """Return the configuration of the run, of all its units."""
    return Config(snakemake.config)


def member(snakemake: Any) -> int:
    """Return the member that the job is for."""
    return int(snakemake.wildcards.member)


# from here on: a script imports what it calls before it enters `rule`
sys.excepthook = _log_uncaught
