"""Compare scratch, destination and the ensemble's data sets with what was recorded of them."""

import logging

from _adapter import rule
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import each_cycle
from aifs_ensemble.delivery.verify import verify_ensemble
from aifs_ensemble.products.cube.record import check_cube, require_whole


def verify(config: Config) -> None:
    """Compare one cycle, and make what is damaged unfinished."""
    problems = check_cube(config, mend=True) if config.destination else ()
    for line in problems:
        logging.warning("data sets: %s", line)
    verify_ensemble(config)
    require_whole(problems, mended=True)


with rule(snakemake) as config:
    each_cycle(config.of_each_cycle, verify, logging.error)
