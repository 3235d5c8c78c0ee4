"""Write the tables of members and of the initial conditions' spread."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.initial.spread import ensemble_statistics
from aifs_ensemble.planning.tables import html_page, member_html

with rule(snakemake) as config:  # noqa: F821
    write_bytes(Path(snakemake.output.members), member_html(config).encode())  # noqa: F821
    states = [config.scratch.initial(member) for member in config.members]
    spread = ensemble_statistics(path for path in states if path.exists()).reset_index()
    page = html_page(f"Initial conditions, {config.cycle}", {"Spread over the members": spread})
    write_bytes(Path(snakemake.output.spread), page.encode())  # noqa: F821
