"""Maps of two models' means, and of what lies between these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.areas import Area
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.themes import THEMES
from aifs_ensemble.products.compare.fields import Ensemble
from aifs_ensemble.products.compare.files import DIFFERENCE, map_name
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.pictures.catalogue import Series, When, areas_of, lead_series
from aifs_ensemble.products.pictures.layout import layout_of_size
from aifs_ensemble.products.pictures.looks import Look, difference_look, value_look
from aifs_ensemble.products.pictures.maps import read_quantities
from aifs_ensemble.products.pictures.projection import sampler
from aifs_ensemble.products.pictures.quantities import Quantity
from aifs_ensemble.products.pictures.sheet import Drawn, Sheet, png_files
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.wording import cycle_words, ensemble_words, warnings

Array = npt.NDArray[np.float32]
Mean = npt.NDArray[np.float64]
# three of them stand beside each other: smaller than a picture that stands alone, with letters of the same size
_BOX = (560, 420)


def looks_of(series: Series) -> dict[str, Look]:
    """Return the look of a mean, and of the difference."""
    return {"mean": value_look(series.quantity), DIFFERENCE: difference_look(series.quantity)}


def _means(one: Ensemble, lead: int, quantities: Sequence[Quantity]) -> list[Mean]:
    """Return the means of quantities over the members at a lead, in GRIB's units, float64."""
    with ThreadPoolExecutor(readers(one.config)) as pool:
        read = pool.map(lambda member: read_quantities(one.config, member, lead, quantities), one.members)
        return [np.stack(fields).mean(axis=0, dtype=np.float64) for fields in zip(*read, strict=True)]


class PairMaps:
    """Draws the maps of two ensembles into a folder."""

    def __init__(self, pair: tuple[Ensemble, Ensemble], folder: Path):
        self._pair, self._folder = pair, folder
        self._config = pair[0].config
        self._grid = RegularGrid(self._config)
        self._names = [one.config.model.name for one in pair]
        self._sheet = cache(self._new_sheet)
        (folder / "maps").mkdir(parents=True, exist_ok=True)

    def draw_all(self) -> None:
        """Draw the maps of every lead, one lead after the other."""
        by_lead: dict[int, list[tuple[Series, When]]] = {}
        for series in lead_series(self._config):
            for when in series.whens:
                by_lead.setdefault(when.lead, []).append((series, when))
        for lead, wanted in sorted(by_lead.items()):
            quantities = [series.quantity for series, _ in wanted]
            means = [_means(one, lead, quantities) for one in self._pair]
            for place, (series, when) in enumerate(wanted):
                for shown, title, field in self._fields(series, means[0][place], means[1][place]):
                    for area in areas_of(self._config):
                        self._draw(series, shown, area, when, title, field)

    def _fields(self, series: Series, first: Mean, second: Mean) -> Iterator[tuple[str, str, Array]]:
        """Yield what is shown, in words, and the fields in the units shown."""
        units = series.quantity.units
        for name, mean in zip(self._names, (first, second), strict=True):
            yield name, f"mean of {name}", units.shown(mean)
        words = f"{self._names[1]} less {self._names[0]}"
        yield DIFFERENCE, words, units.shown(second - first, difference=True)

    def _new_sheet(self, series: Series, shown: str, area: Area) -> Sheet:
        about = {one.config.model.name: one for one in self._pair}
        said = f"Forecast of {cycle_words(self._config)}"
        warned: dict[str, None] = {}
        for name in [shown] if shown in about else self._names:
            one = about[name]
            warned |= dict.fromkeys(warnings(one.config, one.numbers, untrained=one.untrained))
        if shown in about:
            said += f", {ensemble_words(about[shown].config, about[shown].numbers)}, model {shown}"
        look = looks_of(series)[DIFFERENCE if shown == DIFFERENCE else "mean"]
        return Sheet(look, layout_of_size(area, _BOX), said, list(warned))

    def _draw(self, series: Series, shown: str, area: Area, when: When, words: str, field: Array) -> None:
        sheet = self._sheet(series, shown, area)
        sample = sampler(sheet.layout.frame, self._grid.latitudes, self._grid.longitudes)
        title = f"{series.title}: {words}"
        numbers = sheet.draw(title, when.words, [Drawn(sample.sample(field), sample.outside)])
        about = {"Title": f"{title}. {area.title}. {when.words}"}
        files = png_files(numbers, {theme.name: sheet.colors(theme) for theme in THEMES}, about)
        for theme, content in files.items():
            write_bytes(self._folder / map_name(series, shown, area, when, theme), content)
