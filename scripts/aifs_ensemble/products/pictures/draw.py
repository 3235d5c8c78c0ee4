"""All pictures of a cycle, drawn by one job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from aifs_ensemble.common.config import Config
from aifs_ensemble.products.deliver import deliver_files
from aifs_ensemble.products.pictures.catalogue import lead_series, map_files, meteogram_files
from aifs_ensemble.products.pictures.maps import delivered_members, draw_lead_maps, draw_period_maps
from aifs_ensemble.products.pictures.meteograms import draw_meteograms


def draw_pictures(
    config: Config, members: Sequence[int], folder: Path, weekly: Sequence[Path], quintiles: Path | None
) -> None:
    """Draw every picture that the configuration asks for into ``maps`` and ``meteograms`` of a folder.

    `members` are those to be used: pictures name who is missing. `weekly` are their files of periods, `quintiles` the
    probabilities of classes, if there are any. Raises InputError for a member that is not delivered.
    """
    sources = sorted({source for series in lead_series(config) for source in series.quantity.sources})
    delivered = delivered_members(config, members, sources)
    draw_lead_maps(config, delivered, folder / "maps")
    if weekly:
        draw_period_maps(config, weekly, quintiles, folder / "maps")
    draw_meteograms(config, {number: member.native for number, member in delivered.items()}, folder / "meteograms")


def deliver_pictures(config: Config, members: Sequence[int], weekly: Sequence[Path], quintiles: Path | None) -> None:
    """Draw every picture on a rented machine and store it in the bucket, many at once: Snakemake would take turns."""
    config.scratch.base.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=config.scratch.base, prefix="pictures-") as folder:
        draw_pictures(config, members, Path(folder), weekly, quintiles)
        keys = config.objects
        files = {keys.map(name): Path(folder, "maps", name) for name in map_files(config)}
        files |= {keys.meteogram(name): Path(folder, "meteograms", name) for name in meteogram_files(config)}
        deliver_files(config, files)
