"""Draw maps and meteograms."""

from pathlib import Path

from _adapter import product, rule
from aifs_ensemble.products.pictures.draw import deliver_pictures, draw_pictures

with rule(snakemake) as config:
    weekly = [Path(path) for path in snakemake.input.weekly]
    quintiles = Path(snakemake.input.quintiles[0]) if snakemake.input.quintiles else None
    if snakemake.params.by_job:
        deliver_pictures(config, weekly, quintiles)
    else:
        with product(snakemake, config):
            draw_pictures(config, Path(snakemake.output[0]).parents[1], weekly, quintiles)
