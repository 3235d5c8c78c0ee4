"""All pictures of a cycle, drawn by one job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.products.pictures.catalogue import lead_series
from aifs_ensemble.products.pictures.maps import delivered_members, draw_lead_maps, draw_period_maps
from aifs_ensemble.products.pictures.meteograms import draw_meteograms


def draw_pictures(config: Config, maps: Path, meteograms: Path, weekly: Sequence[Path], quintiles: Path | None) -> None:
    """Draw every picture that the configuration asks for into the folders `maps` and `meteograms`.

    `weekly` are the members' files of periods, `quintiles` the probabilities of classes, if there are any.
    Raises InputError for fewer members than ``min_members``.
    """
    sources = sorted({source for series in lead_series(config) for source in series.quantity.sources})
    members = delivered_members(config, sources)
    draw_lead_maps(config, members, maps)
    if weekly:
        draw_period_maps(config, weekly, quintiles, maps)
    draw_meteograms(config, {number: member.native for number, member in members.items()}, meteograms)
