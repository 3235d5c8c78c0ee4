"""Draw maps and meteograms."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.pictures.draw import deliver_pictures, draw_pictures

with rule(snakemake) as config, ensemble_product(snakemake, config):
    members = snakemake.params.members
    weekly = [Path(path) for path in snakemake.input.weekly]
    quintiles = Path(snakemake.input.quintiles[0]) if snakemake.input.quintiles else None
    if snakemake.params.by_job:
        deliver_pictures(config, members, weekly, quintiles)
    else:
        draw_pictures(config, members, Path(snakemake.output[0]).parents[1], weekly, quintiles)
