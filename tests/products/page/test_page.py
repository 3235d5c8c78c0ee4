"""The page of a cycle without a browser: it parses, nothing in it is dead or foreign, and its lines of Python work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import html5lib
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.products.page.downloads import downloads
from aifs_ensemble.products.page.write import page, write_page
from aifs_ensemble.products.pictures.catalogue import map_files, meteogram_files

from products.pictures.conftest import changed


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def links(self) -> Iterator[str]:
        for _, attributes in self.found:
            yield from (value for key in ("href", "src") if (value := attributes.get(key)))


def folder_of(config: Config) -> Path:
    return Path(str(config.destination)) / config.cycle


def text_of(config: Config) -> str:
    return (folder_of(config) / "index.html").read_text()


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_it_is_html_and_nothing_in_it_is_foreign(site: Config) -> None:
    text = text_of(site)
    html5lib.HTMLParser(strict=True).parse(text)  # raises for what is no HTML
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", text)
    assert "[[" not in text
    ids = [attributes["id"] for _, attributes in Elements(text).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    # every element that the script asks for is there
    assert set(re.findall(r'\bat\("([a-z]+)"\)', text)) <= set(ids)


def test_every_link_and_picture_is_there(site: Config) -> None:
    folder, text = folder_of(site), text_of(site)
    links = [link for link in Elements(text).links() if not link.startswith(("#", "data:"))]
    assert len(links) >= 8
    for link in links:
        assert not link.startswith("/") and (folder / unquote(link)).is_file(), link
    for anchor in (link for link in Elements(text).links() if link.startswith("#")):
        assert f'id="{anchor[1:]}"' in text
    data = data_of(text)
    named = {
        f"{series['name']}_{kind['name']}_{area['name']}_{when['name']}-{theme}.png"
        for series in data["series"]
        for kind in series["kinds"]
        for area in data["areas"]
        for when in series["whens"]
        for theme in ("light", "dark")
    }
    assert named == set(map_files(site)) == {path.name for path in (folder / "products/maps").iterdir()}
    places = {f"{place['name']}{end}" for place in data["places"] for end in ("-light.png", "-dark.png", ".json")}
    assert places == set(meteogram_files(site))
    for figure in data["figures"]:
        assert all((folder / figure.replace("THEME", theme)).is_file() for theme in ("light", "dark"))


def test_it_says_what_a_reader_must_know_first(site: Config) -> None:
    text = "".join(Elements(text_of(site)).text)
    for words in (
        "Ensemble forecast, 19 August 2025, 00 UTC", "3 members, model demo, 48 hours",
        "Untrained model: this is not a forecast.", "$1.20, $0.40 a member", "<b>",
    ):  # fmt: skip
        assert words in text, words
    assert "Short" not in text
    sizes = {f"manifests/member00{member}.json": 10 for member in (1, 3)}
    assert "Short ensemble: without member 2." in page(site, sizes)
    with pytest.raises(InputError, match="no member is delivered, nothing to show"):
        page(site, {})


def test_lines_of_python_open_what_they_stand_beside(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_of(site))
    text = text_of(site)
    html = html5lib.HTMLParser(namespaceHTMLElements=False).parse(text)
    lines = ["".join(code.itertext()) for code in html.iterfind(".//pre/code")]
    assert len(lines) == 5
    for line in lines:
        given: dict[str, Any] = {}
        exec(line, given)
        data = given["data"]
        assert len(data.data_vars if hasattr(data, "data_vars") else data) >= 1, line
        if hasattr(data, "close"):
            data.close()


def test_a_picture_that_is_not_there_is_no_choice(site: Config, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(str(site.destination), folder)
    config = changed(site, destination=str(folder))
    for lost in ("products/maps/2t_mean_globe_h024-light.png", "products/meteograms/nairobi-light.png"):
        (folder / config.cycle / lost).unlink()
    write_page(config, tmp_path / "index.html")
    data = data_of((tmp_path / "index.html").read_text())
    assert [when["name"] for when in data["series"][0]["whens"]] == ["h012", "h036", "h048"]
    assert [place["title"] for place in data["places"]] == ["Zürich"]


def test_without_pictures_it_is_a_page_of_downloads(site: Config) -> None:
    config = changed(site, products={"pictures": {"enabled": False}})
    sizes = {"manifests/member001.json": 1, "forecasts/aifs_ens_forecast_20250819_0000_member001_h006.grib2": 5}
    text = page(config, sizes)
    assert data_of(text)["series"] == [] and data_of(text)["places"] == []
    assert "aifs_ens_forecast_20250819_0000_member001_h006.grib2" in text and "aifs-ensemble account" in text


KINDS = [
    ("coarse/a_member001_h006_1p5.grib2", "Forecasts on a coarse grid, GRIB2"),
    ("products/ensemble/a_h006-em.grib2", "Statistics of the ensemble, GRIB2"),
    ("products/ensemble/quantiles.nc", "Statistics of the ensemble, NetCDF"),
    ("products/ensemble.zarr/2t/c/0/0", "The ensemble on a coarse grid as one data set, Zarr"),
    ("products/ensemble.icechunk/chunks/AB", "The ensemble as one data set, Icechunk"),
    ("products/evaluation/scores.nc", "How good it was, tables"),
    ("products/somebody/else.bin", "Other files"),
    ("products/ensemble_quintile_probabilities_20250819.nc", "Probabilities of climatological classes, NetCDF"),
]


@pytest.mark.parametrize(("path", "title"), KINDS)
def test_products_of_others_are_listed_when_they_are_there(path: str, title: str) -> None:
    (found,) = downloads({path: 1000})
    assert (found.kind.title, list(found.files)) == (title, [path])


def test_what_nobody_reads_is_not_listed() -> None:
    unread = [
        "index.html", "_SUCCESS", "run.json", "receipts/member001.json", "manifests/member001.json",
        "status/member001.json", "forecasts/a.index", "products/maps/x-light.png",
        "restarts/member001/h024.safetensors",
    ]  # fmt: skip
    assert downloads(dict.fromkeys(unread, 1)) == []


def test_names_of_files_are_text(site: Config) -> None:
    evil = '"><script>alert(1)</script>&.nc'
    text = page(
        site, {"manifests/member001.json": 1, f"products/weekly/{evil}": 1, f"products/evaluation/{evil}-light.png": 1}
    )
    html5lib.HTMLParser(strict=True).parse(text)
    scripts = [attributes for tag, attributes in Elements(text).found if tag == "script"]
    assert len(scripts) == 2 and text.count("</script>") == 2


@pytest.mark.cloud
def test_it_names_what_is_in_a_bucket(site: Config, tmp_path: Path, bucket) -> None:
    from aifs_ensemble.common.storage import open_destination

    config = changed(site, destination=bucket())
    storage = open_destination(config)
    for key in (config.objects.manifest(1), config.objects.member_netcdf(1, "1.5x1.5")):
        storage.put_bytes(b"12345", key)
    write_page(config, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert 'href="1p5deg_nc/aifs_ensemble_forecast_1p5deg_member001.nc"' in text and "1 file, 5 B" in text
