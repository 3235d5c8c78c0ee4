"""Print the plan."""

import sys

from _adapter import rule
from aifs_ensemble.planning.plans import print_plan

with rule(snakemake) as config:
    print_plan(config, file=sys.stderr)
