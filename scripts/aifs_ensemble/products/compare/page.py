"""The page of a comparison: one HTML file with its data in it, nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.text import size
from aifs_ensemble.products.compare.fields import Ensemble
from aifs_ensemble.products.compare.files import DATA, DIFFERENCE, SCORES, TABLE
from aifs_ensemble.products.compare.maps import looks_of
from aifs_ensemble.products.compare.tables import DIFFERENCES, SIDE_BY_SIDE, Row
from aifs_ensemble.products.page.frame import framed, legend
from aifs_ensemble.products.pictures.catalogue import areas_of, lead_series
from aifs_ensemble.products.wording import cycle_words, ensemble_words, warnings

_TEMPLATE = Path(__file__).with_name("compare.html")
_FILES = {
    DATA: "Difference of the means, and both spreads, on the products' grid",
    TABLE: "Differences by variable, area and lead",
    SCORES: "Scores of both models, as far as both have any",
}


def comparison_page(
    pair: tuple[Ensemble, Ensemble], folder: Path, differences: Sequence[Row], scores: Sequence[Row]
) -> str:
    """Return the page as HTML; `folder` has the files that it names."""
    config, names = pair[0].config, [one.config.model.name for one in pair]
    said = [f"{one.config.model.name}: {ensemble_words(one.config, one.numbers)}" for one in pair]
    warned = [
        f"{one.config.model.name}: {text}"
        for one in pair
        for text in warnings(one.config, one.numbers, untrained=one.untrained)
    ]
    data = {
        "models": names,
        "difference": DIFFERENCE,
        **_maps(config),
        "differences": _rows(DIFFERENCES, differences),
        "scores": _rows(SIDE_BY_SIDE, scores),
    }
    parts = {
        "TITLE": escape(f"{names[0]} and {names[1]}, {cycle_words(config)}"),
        "FIRST": escape(names[0]),
        "SECOND": escape(names[1]),
        "SAID": escape("; ".join(said)),
        "LINKS": "".join(_link(one.config) for one in pair),
        "FILES": "".join(_file(folder, name) for name in _FILES),
    }
    return framed(_TEMPLATE, parts, data, warned=warned)


def _link(config: Config) -> str:
    """Return a link to a model's own page, where it has one."""
    if not config.products.page.enabled:
        return ""
    place = f"../../{config.model.name}/{config.objects.page}"
    return f' <a href="{escape(place)}">Page of {escape(config.model.name)}</a>'


def _file(folder: Path, name: str) -> str:
    bytes_ = size((folder / name).stat().st_size)
    return (
        f'<li><a href="{escape(name)}" download>{escape(name)}</a> <span>{bytes_}</span>: {escape(_FILES[name])}</li>'
    )


def _maps(config: Config) -> dict[str, Any]:
    """Return the choices of the maps."""
    if not config.products.pictures.enabled:
        return {"series": [], "areas": []}
    return {
        "series": [
            {
                "name": series.name,
                "title": series.title,
                "legends": {kind: legend(look) for kind, look in looks_of(series).items()},
                "whens": [{"name": when.name, "label": when.label, "words": when.words} for when in series.whens],
            }
            for series in lead_series(config)
        ],
        "areas": [{"name": area.name, "title": area.title} for area in areas_of(config)],
    }


def _rows(columns: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    return {"columns": list(columns), "rows": [[row.get(column, "") for column in columns] for row in rows]}
