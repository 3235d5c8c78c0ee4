"""Draw maps and meteograms."""

from pathlib import Path

from _adapter import product, rule
from aifs_ensemble.products.pictures.draw import draw_pictures

with rule(snakemake) as config, product(snakemake, config):
    folders = {Path(path).parent.name: Path(path).parent for path in snakemake.output}
    weekly = [Path(path) for path in snakemake.input.weekly]
    quintiles = Path(snakemake.input.quintiles[0]) if snakemake.input.quintiles else None
    draw_pictures(config, folders.get("maps"), folders.get("meteograms"), weekly, quintiles)
