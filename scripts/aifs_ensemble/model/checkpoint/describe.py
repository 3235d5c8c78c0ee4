"""What a checkpoint says of itself, read from its metadata: nothing is unpickled, torch is not imported."""

from __future__ import annotations

import platform
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata as distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.text import foreign
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.model.checkpoint.digest import existing

if TYPE_CHECKING:
    from anemoi.inference.metadata import Metadata

_MOST_BESIDE = 1 << 30  # the pickle, the metadata and their arrays, inflated: tens of MB in any that was seen
_ZIP_START = b"PK\x03\x04"
# Packages other than anemoi's own whose version decides whether a model can be unpickled.
_PICKLED_FROM = ("torch", "torch_geometric", "numpy", "omegaconf", "hydra", "einops", "flash_attn")

_MATTER = (
    *("python", "anemoi.models", "anemoi.utils", "anemoi.training", "anemoi.graphs", "anemoi.datasets"),
    *_PICKLED_FROM,
)


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, as its own metadata has it.

    `name` is what errors call the file. `made_by` is the record of an untrained checkpoint that this workflow built,
    empty for others.
    """

    path: Path
    name: str
    size: int
    metadata: Mapping[str, Any] = field(repr=False)
    arrays: Mapping[str, Any] = field(repr=False)

    @cached_property
    def anemoi(self) -> Metadata:
        """The same, as anemoi-inference understands it."""
        from anemoi.inference.metadata import MetadataFactory

        names = self.metadata.get("metadata_inference", {}).get("dataset_names", ["data"])
        return MetadataFactory(dict(self.metadata), dict(self.arrays), dataset_name=names[0])

    @property
    def made_by(self) -> Mapping[str, Any]:
        found = self.metadata.get("aifs_ensemble")
        return found if isinstance(found, Mapping) else {}

    @property
    def untrained(self) -> bool:
        return bool(self.made_by.get("untrained", False))

    @property
    def points(self) -> int:
        """Number of points of the data grid."""
        return int(self.anemoi.number_of_grid_points)

    @property
    def timestep_hours(self) -> float:
        return self.anemoi.timestep.total_seconds() / 3600

    @cached_property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """Variables by the part they play: prognostic, constant, computed, diagnostic; each sorted."""
        parts: dict[str, list[str]] = {"prognostic": [], "constant": [], "computed": [], "diagnostic": []}
        for name, categories in self.anemoi.variable_categories().items():
            if "computed" in categories:
                parts["computed"].append(name)
            elif "forcing" in categories:
                parts["constant"].append(name)
            else:
                parts["diagnostic" if "diagnostic" in categories else "prognostic"].append(name)
        return {part: tuple(sorted(names)) for part, names in parts.items()}

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and packages that the model was pickled with; empty when not recorded."""
        provenance = self.metadata.get("provenance_training") or {}
        recorded = {name: _version(value) for name, value in (provenance.get("module_versions") or {}).items()}
        return ({"python": str(provenance["python"])} if provenance.get("python") else {}) | recorded

    @property
    def versions_that_matter(self) -> dict[str, str]:
        """Those of `versions` on which unpickling and running depend: a full record names every module imported."""
        return {name: version for name, version in self.versions.items() if name in _MATTER}


def _version(value: Any) -> str:
    return str(value["version"] if isinstance(value, Mapping) and "version" in value else value)


def describe_checkpoint(path: Path, name: str | None = None) -> Description:
    """Return what a checkpoint says of itself; errors call it by its `name`, by default its path.

    Raises CheckpointError when there is no such file, when it is not a zip archive or not a whole one, and when it
    holds no anemoi metadata.
    """
    from anemoi.utils.checkpoints import load_metadata

    name = name or str(path)
    with open(existing(path), "rb") as file:
        start = file.read(4)
    if start != _ZIP_START:
        raise CheckpointError(f"{name}: starts with {start!r}, expected the zip archive that torch.save writes")
    try:
        with zipfile.ZipFile(path) as archive:
            beside = sum(info.file_size for info in archive.infolist() if "/data/" not in info.filename)
        if beside > _MOST_BESIDE:
            raise CheckpointError(f"{name}: {beside} bytes beside the weights, expected at most {_MOST_BESIDE}")
        metadata, arrays = load_metadata(str(path), supporting_arrays=True)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{name}: truncated or damaged ({error}), {path.stat().st_size} bytes") from None
    except FileNotFoundError:
        raise CheckpointError(f"{name}: no anemoi metadata in it, expected a checkpoint saved for inference") from None
    except Exception as error:  # of JSON, of JSON that is something else, of other methods of compression
        raise CheckpointError(f"{name}: metadata cannot be read ({foreign(error)})") from None
    return Description(path, name, path.stat().st_size, metadata, arrays)


def _installed(module: str) -> str:
    if module == "python":
        return platform.python_version()
    names = {"hydra": "hydra-core", "flash_attn": "flash-attn"}
    try:
        return distributions.version(names.get(module, module.replace(".", "-").replace("_", "-")))
    except distributions.PackageNotFoundError:
        return "absent"


def environment_difference(description: Description) -> str:
    """Return how this environment differs from the one the model was pickled in, empty when it does not.

    Only packages that the pickle can refer to are compared, such as ``anemoi.models 0.6.0 (here 0.7.1)``.
    """
    relevant = {
        name: version
        for name, version in description.versions.items()
        if name in (*_PICKLED_FROM, "python", "anemoi.models", "anemoi.utils")
    }
    here = {name: _installed(name) for name in relevant}
    return ", ".join(
        f"{name} {version} (here {here[name]})" for name, version in relevant.items() if version != here[name]
    )


def _listing(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - 12
    return ", ".join(ordered[:12]) + (f" and {rest} more" if rest > 0 else "")


def check_description(description: Description, model: Model) -> None:
    """Raise CheckpointError unless a checkpoint has the grid, time step and variables of the catalogue entry."""
    for difference in differences(description, model):
        raise CheckpointError(f"{description.name}: {difference}")


def differences(description: Description, model: Model) -> Iterator[str]:
    """Yield what a checkpoint has otherwise than the catalogue entry: grid, times, variables; one line each."""
    name = model.name
    grid = grid_coordinates(model.grid)
    try:
        _ = description.points, description.timestep_hours, description.anemoi.multi_step_input, description.variables
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        yield f"metadata lacks what inference needs ({type(error).__name__}: {error})"
        return
    if description.points != grid.points:
        yield f"{description.points} grid points, expected the {grid.points} of {model.grid} ({name})"
    else:
        for coordinate, expected in (("latitudes", grid.latitudes), ("longitudes", grid.longitudes)):
            found = getattr(description.anemoi, coordinate)
            if found is None:
                continue
            difference = np.abs(np.asarray(found) - expected)
            if np.max(np.minimum(difference, 360 - difference)) > 1e-3:
                yield f"{coordinate} are not those of {model.grid}, the grid of {name}"
    if description.timestep_hours != model.timestep_hours:
        yield f"time step {description.timestep_hours:g} h, expected {model.timestep_hours} h ({name})"
    if description.anemoi.multi_step_input != 2:
        yield f"reads {description.anemoi.multi_step_input} times, expected 2 ({name})"
    yield from _different_variables(description, model)


def _different_variables(description: Description, model: Model) -> Iterator[str]:
    wrong = []
    for part, found in description.variables.items():
        expected = set(getattr(model, part))
        if missing := expected - set(found):
            wrong.append(f"{part} lacks {_listing(missing)}")
        if extra := set(found) - expected:
            wrong.append(f"{part} has {_listing(extra)}")
    if wrong:
        yield f"variables differ from {model.name} in models.yaml: {'; '.join(wrong)}"
