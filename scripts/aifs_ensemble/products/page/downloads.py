"""What a cycle has to download, by kind, and the line of Python that opens it.

A product of another module is listed once it has a row here; without one its files stand under "other files".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aifs_ensemble.common.text import size

_IMPORTS = "import xarray as xr"


@dataclass(frozen=True)
class Kind:
    """A kind of files: what it is, which keys relative to the cycle's folder it has, and how the first is opened.

    `many` are too many to name each: the page names the first. `folder` is what stands for all of them, such as a Zarr.
    """

    title: str
    pattern: str
    code: str = ""
    many: bool = False
    folder: str = ""
    note: str = ""


@dataclass
class Download:
    """Files of a kind that are there, by their paths relative to the page, with bytes."""

    kind: Kind
    files: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> str:
        return size(sum(self.files.values()))

    @property
    def code(self) -> str:
        """The line that opens the first file, or the folder."""
        opened = self.kind.folder or next(iter(self.files))
        return self.kind.code.format(path=opened)

    @property
    def named(self) -> Mapping[str, int]:
        """The files that the page names."""
        return dict(list(self.files.items())[:1]) if self.kind.many or self.kind.folder else self.files


_OPEN = f'{_IMPORTS}; data = xr.open_dataset("{{path}}")'
_GRIB = f'{_IMPORTS}; data = xr.open_dataset("{{path}}", engine="cfgrib", backend_kwargs={{{{"indexpath": ""}}}}'
_LEAD = f'{_GRIB}, filter_by_keys={{{{"shortName": "2t"}}}})'
_JSON = 'import json; data = json.load(open("{path}"))'
KINDS = (
    Kind(
        "Forecasts: every field of a member and lead, GRIB2", r"forecasts/.*\.(grib2|grib)", _LEAD, many=True,
        note="The index beside each file gives the byte range of each field.",
    ),
    Kind("Forecasts on a coarse grid, GRIB2", r"coarse/.*\.grib2", _LEAD, many=True),
    Kind("Members on a regular grid, NetCDF", r"[^/]+_nc/.*\.nc", _OPEN),
    Kind("Mean and spread over periods, NetCDF", r"products/weekly/ensemble\.nc", _OPEN),
    Kind("Periods of each member, NetCDF", r"products/weekly/member\d+\.nc", _OPEN),
    Kind("Probabilities of climatological classes, NetCDF", r"products/ensemble_quintile_probabilities_\d+\.nc", _OPEN),
    Kind(
        "Probabilities of classes of the model's own climate, NetCDF",
        r"products/ensemble_quintile_probabilities_model_climate_\d+\.nc", _OPEN,
    ),
    Kind("Submission to AI Weather Quest, NetCDF", r"products/aiwq/.*\.nc", _OPEN),
    Kind("Statistics of the ensemble, GRIB2", r"products/ensemble/.*\.grib2", _GRIB + ")", many=True),
    Kind("Statistics of the ensemble, NetCDF", r"products/ensemble/.*\.nc", _OPEN),
    Kind(
        "The ensemble as one data set, Icechunk", r"products/ensemble\.icechunk/.*",
        'import icechunk, xarray as xr; store = icechunk.local_filesystem_storage("{path}"); '
        'data = xr.open_zarr(icechunk.Repository.open(store).readonly_session("main").store, consolidated=False)',
        folder="products/ensemble.icechunk",
    ),
    Kind(
        "The ensemble on a coarse grid as one data set, Zarr", r"products/ensemble\.zarr/.*",
        f'{_IMPORTS}; data = xr.open_zarr("{{path}}")', folder="products/ensemble.zarr",
    ),
    Kind("How good it was, tables", r"products/evaluation/.*\.(nc|csv|json|parquet|html)"),
    Kind("What the ensemble consists of, JSON", r"manifest\.json", _JSON),
    Kind("Figures of the meteograms, JSON", r"products/meteograms/.*\.json", _JSON),
)  # fmt: skip
# what the page shows, or nobody reads; run.json tells who makes the cycle at the moment
_SHOWN = re.compile(
    r"index\.html|_SUCCESS|run\.json|products/(maps|meteograms|page|stamps)/.*|products/evaluation/.*\.(png|svg)|"
    r".*\.index(\.gz)?|(status|metrics|restarts|initial|receipts|manifests)/.*"
)
_OTHER = Kind("Other files", r".*")


def downloads(sizes: Mapping[str, int]) -> list[Download]:
    """Return what there is to download, of paths relative to the page with their bytes; every file in one kind."""
    found = {kind.title: Download(kind) for kind in (*KINDS, _OTHER)}
    for path, count in sizes.items():
        kind = next((kind for kind in KINDS if re.fullmatch(kind.pattern, path)), None)
        if kind is not None:
            found[kind.title].files[path] = count
        elif not _SHOWN.fullmatch(path):
            found[_OTHER.title].files[path] = count
    return [download for download in found.values() if download.files]


def themed_figures(paths: Iterable[str]) -> list[str]:
    """Return the figures of an evaluation by their names without theme and ending: ``x`` of ``x-light.png``."""
    match = (re.fullmatch(r"(products/evaluation/.*)-light\.(png|svg)", path) for path in paths)
    return [f"{one[1]}-THEME.{one[2]}" for one in match if one]
