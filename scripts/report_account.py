"""Write the account of the run: tables and figures."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.planning.account_report import write_account

with rule(snakemake) as config:
    write_account(config, Path(snakemake.output[0]))
