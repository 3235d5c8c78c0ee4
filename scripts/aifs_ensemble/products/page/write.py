"""The page of a cycle: one HTML file with its data in it, no server, nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import parse_member_name, place_label
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.common.text import size
from aifs_ensemble.products.page.downloads import Download, downloads, themed_figures
from aifs_ensemble.products.page.frame import framed, legend
from aifs_ensemble.products.pictures.catalogue import Series, areas_of, lead_series, map_file, period_series
from aifs_ensemble.products.pictures.looks import look_of
from aifs_ensemble.products.wording import cycle_words, ensemble_words, warnings

_TEMPLATE = Path(__file__).with_name("page.html")
Summary = tuple[Sequence[tuple[str, str]], Sequence[Sequence[str]]]


def write_page(config: Config, path: Path, summary: Summary = ((), ())) -> None:
    """Write the page of a cycle: what is at the destination now, and a `summary` of the run.

    `summary` are figures by name, and a table of members with its header. Raises StorageError when the destination
    does not answer, InputError when there is no member.
    """
    write_bytes(path, page(config, _sizes(config), summary).encode())


def _sizes(config: Config) -> dict[str, int]:
    """Return the cycle's files at the destination with their bytes, by paths relative to the page."""
    prefix = f"{config.cycle}/"
    return {info.key.removeprefix(prefix): info.size for info in open_destination(config).list(prefix)}


def page(config: Config, sizes: Mapping[str, int], summary: Summary = ((), ())) -> str:
    """Return the page as HTML, of the files that are there with their bytes."""
    names = [Path(key).stem for key in sizes if key.startswith("manifests/")]
    there = {number for name in names if (number := parse_member_name(name)) is not None}
    members = sorted(there & set(config.members))
    if not members:
        raise InputError(f"{config.destination}/{config.cycle}: no member is delivered, nothing to show")
    warned = warnings(config, members, untrained=config.model.untrained)
    parts = {
        "TITLE": escape(f"Ensemble forecast, {cycle_words(config)}"),
        "SAID": escape(f"{ensemble_words(config, members)}, model {config.model.name}, {config.lead_hours} hours"),
        "DOWNLOADS": "\n".join(_download(config, one) for one in downloads(sizes)),
        "ACCOUNT": _account(summary),
    }
    return framed(_TEMPLATE, parts, _data(config, sizes), warned=warned)


def _data(config: Config, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the choices of the page: only pictures that are there."""
    every = [*lead_series(config), *period_series(config)] if config.products.pictures.enabled else []
    series = [found for one in every if (found := _series(config, one, sizes))]
    places = config.products.pictures.places if config.products.pictures.enabled else {}
    return {
        "series": series,
        "areas": [{"name": area.name, "title": area.title} for area in areas_of(config)],
        "places": [
            {"name": place_label(name), "title": name}
            for name in places
            if f"products/meteograms/{place_label(name)}-light.png" in sizes
        ],
        "figures": themed_figures(sizes),
    }


def _series(config: Config, series: Series, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    areas = areas_of(config)
    whens = [
        when
        for when in series.whens
        if all(
            f"products/maps/{map_file(series, kind, area, when, 'light')}" in sizes
            for kind in series.kinds
            for area in areas
        )
    ]
    if not whens:
        return None
    return {
        "name": series.name,
        "title": series.title,
        "kinds": [
            {"name": kind.name, "title": kind.title, "legend": legend(look_of(kind, series.quantity))}
            for kind in series.kinds
        ],
        "whens": [{"name": when.name, "label": when.label, "words": when.words} for when in whens],
    }


def _download(config: Config, one: Download) -> str:
    """Return a kind of files: how many, how large, the first or each of them, and the line that opens it."""
    count = len(one.files)
    head = f"<h3>{escape(one.kind.title)}</h3>"
    where = f"{count:,} file{'s' if count > 1 else ''}, {one.size}"
    note = f" {escape(one.kind.note)}" if one.kind.note else ""
    named = one.named
    links = [
        f'<li><a href="{escape(path)}" download>{escape(Path(path).name)}</a> <span>{size(count)}</span></li>'
        for path, count in named.items()
    ]
    if one.kind.folder:
        shown = f"<p>{escape(one.kind.folder)}: {where}.{note}</p>"
    elif len(links) > 6:
        shown = f"<p>{where}.{note}</p><details><summary>Each file</summary><ul>{''.join(links)}</ul></details>"
    else:
        first = " The first:" if count > len(links) else ""
        shown = f"<p>{where}.{note}{first}</p><ul>{''.join(links)}</ul>"
    code = f"<pre><code>{escape(one.code)}</code></pre>" if one.code else ""
    return f"<section>{head}{shown}{code}</section>"


def _account(summary: Summary) -> str:
    figures, members = summary
    if not figures:
        return (
            "<p>This page was made where nothing is known of the run. <code>aifs-ensemble account</code> says it.</p>"
        )
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in figures)
    head, *body = members
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    table = f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    return f"<dl>{rows}</dl><details><summary>Each member</summary>{table}</details>"
