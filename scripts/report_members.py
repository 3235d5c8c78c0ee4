"""Write the tables of members and of the initial conditions' spread."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.planning.tables import member_html, spread_html

with rule(snakemake) as config:
    write_bytes(Path(snakemake.output.members), member_html(config).encode())
    write_bytes(Path(snakemake.output.spread), spread_html(config).encode())
