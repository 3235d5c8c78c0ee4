"""What a checkpoint is, and whether it runs here: everything that can be told without running anything of it.

`examine` reads the archive, the metadata and the structure of the pickled network (`inert`), and compares them with
the catalogue and with this environment. It needs neither a GPU nor the versions that made the file. Only where the
digest is the one listed, or the user vouches for the file, is the model loaded, to see what will be accelerated.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.models import CATALOGUE, Model, get_model
from aifs_ensemble.common.overlays import overlay_of, use_overlay
from aifs_ensemble.common.parameters import split_variable
from aifs_ensemble.model.checkpoint.anatomy import anatomy, anatomy_configured, octahedral
from aifs_ensemble.model.checkpoint.archive import read_archive, verify_records
from aifs_ensemble.model.checkpoint.describe import (
    Description,
    describe_checkpoint,
    differences,
    environment_difference,
)
from aifs_ensemble.model.checkpoint.digest import check_size, checkpoint_digest, existing, read_record
from aifs_ensemble.model.checkpoint.inert import Inert, read_inert
from aifs_ensemble.model.checkpoint.load import check_digest, load_model, unpickle_checkpoint
from aifs_ensemble.model.known_classes import why_not_accelerated

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)
_METADATA_NAMES = ("anemoi.json", "ai-models.json")
_WHOLE = "every record is whole"
NOT_LOADED = "not told: the model is not loaded without --trust"
_TEXTS = (".json", ".yaml", ".yml")


@dataclass
class Report:
    """What `examine` found.

    `facts` are by section and name, None where the file does not tell; `problems` say why the file cannot be run here;
    `entry` is the catalogue's entry that it fits, `model` the loaded model where it was loaded.
    """

    path: Path
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    entry: Model | None = None
    model: torch.nn.Module | None = None
    accelerated: bool | None = None

    def tell(self, section: str, name: str, fact: Callable[[], Any] | Any) -> None:
        """Put a fact down; one that cannot be had from this file is said, not raised."""
        try:
            value = fact() if callable(fact) else fact
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            value = f"not told ({type(error).__name__}: {error})"
        self.facts.setdefault(section, {})[name] = value

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON knows it."""
        return {
            "path": str(self.path),
            "runs": not self.problems,
            "problems": self.problems,
            "model": self.entry.name if self.entry else None,
            **self.facts,
        }


def examine(path: Path, *, name: str | None = None, trust: bool = False) -> Report:
    """Return what a checkpoint is, and whether it runs here.

    Parameters
    ----------
    path : a checkpoint, or a JSON or YAML file with the metadata or the training configuration of one
    name : the catalogue's entry to compare it with; by default the one that it fits
    trust : load the model although its digest is not listed

    Raises CheckpointError when it is neither, ConfigError when there is no such entry.
    """
    report = Report(path)
    if existing(path).suffix.lower() in _TEXTS:
        description = _described(path)
        report.tell("file", "weights", "none: metadata only")
        report.problems.append("no weights in it")
    else:
        description = describe_checkpoint(path)
        _archive(report)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anemoi-inference, which would like old metadata to be patched
        report.entry = _entry(report, description, name)
        environment = _use_packages(report, description)
        _data(report, description)
        if environment:
            report.tell("versions", "environment", environment)
    if path.suffix.lower() in _TEXTS:
        report.facts["network"] = anatomy_configured(description.metadata.get("config") or {})
        return report
    _catalogue(report, description, trust=trust)
    _network(report, description, trust=trust)
    return report


def _described(path: Path) -> Description:
    """Return what a file of metadata, or of a training configuration, says."""
    text = path.read_text(errors="replace")
    try:
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    if isinstance(content, Mapping) and "model" in content and "data" in content and "config" not in content:
        content = {"config": content}
    if not (isinstance(content, Mapping) and isinstance(content.get("config"), Mapping)):
        found = f"a list of {len(content)}" if isinstance(content, list) else type(content).__name__
        if isinstance(content, Mapping):
            found = f"keys {', '.join(map(str, list(content)[:4]))}"
        raise CheckpointError(
            f"{path}: {found}, expected a checkpoint, its metadata (a key `config`) or its training configuration"
        )
    return Description(path, str(path), path.stat().st_size, dict(content), {})


def _archive(report: Report) -> None:
    """Tell how the archive keeps its records, and whether each is what it was."""
    path = report.path
    archive = read_archive(path)
    report.tell("file", "size", path.stat().st_size)
    report.tell("file", "records", f"{len(archive.records)}, {archive.method}")
    report.tell("file", "load", "mapped into memory" if archive.mappable else "read into memory")
    try:
        verify_records(archive)
        report.tell("file", "CRC", _WHOLE)
    except CheckpointError as error:
        report.tell("file", "CRC", str(error).removeprefix(f"{path}: "))
        report.problems.append(str(error).removeprefix(f"{path}: "))
    names = [record.name for record in archive.records]
    report.tell("file", "metadata", ", ".join(n for n in names if n.rpartition("/")[2] in _METADATA_NAMES))
    report.tell("file", "sha256", checkpoint_digest(path))
    record = read_record(path)
    report.tell("file", "source", (record and record.source) or "not recorded")


def _models(names: Iterable[str]) -> list[Model]:
    found = []
    for name in names:
        with suppress(ConfigError):  # an entry that is not sound is `plan`'s to refuse
            found.append(get_model(name))
    return found


def _entry(report: Report, description: Description, name: str | None) -> Model | None:
    """Return the entry that a file fits; what differs from the one asked for, or nearest, becomes a problem."""
    models = [get_model(name)] if name else _models(yaml.safe_load(CATALOGUE.read_text())["models"])
    digest = report.facts.get("file", {}).get("sha256")

    def likeness(model: Model) -> tuple[bool, ...]:
        listed = model.checkpoint
        return (
            bool(digest) and listed.get("sha256") == digest,
            description.made_by.get("model") == model.name,
            model.untrained == description.untrained,
            listed.get("size") == description.size,
        )

    found = {model.name: list(differences(description, model)) for model in models}
    fitting = [model for model in models if not found[model.name]]
    if fitting:
        return max(fitting, key=likeness)
    nearest = max(models, key=lambda model: (*likeness(model), -sum(map(len, found[model.name]))))
    report.tell("file", "catalogue", f"no entry of models.yaml fits; nearest is {nearest.name}")
    report.problems += found[nearest.name]
    return None


def _use_packages(report: Report, description: Description) -> str:
    """Take the packages that the file was made with, where they lie over the common ones; return their name."""
    name = report.entry.environment if report.entry else overlay_of(description.versions)
    if name:
        try:
            use_overlay(name, "it")
        except ConfigError as error:
            report.problems.append(str(error))
            return ""
    return name


def _levels(names: Iterable[str]) -> str:
    """Return pressure levels by parameter, those with the same levels together."""
    by_parameter: dict[str, list[int]] = {}
    for name in names:
        with suppress(ValueError):
            parameter, level = split_variable(name)
            if level:
                by_parameter.setdefault(parameter, []).append(level)
    groups: dict[tuple[int, ...], list[str]] = {}
    for parameter, levels in sorted(by_parameter.items()):
        groups.setdefault(tuple(sorted(levels)), []).append(parameter)
    return "; ".join(f"{' '.join(names)}: {' '.join(map(str, levels))}" for levels, names in groups.items()) or "none"


def _order(names: list[str]) -> str:
    if names == sorted(names):
        return "sorted by name"
    return f"its own, places are taken by name: {' '.join(names)}"


def _data(report: Report, description: Description) -> None:
    """Tell grid, times and variables."""
    metadata = description.metadata

    def data_sets() -> str:
        names = (metadata.get("metadata_inference") or {}).get("dataset_names") or ["one"]
        return f"{', '.join(names)}: those of {names[0]} are told" if len(names) > 1 else "one"

    def grid() -> str:
        told = ((metadata.get("dataset") or {}).get("data_request") or {}).get("grid")
        name = told if isinstance(told, str) else octahedral(description.points)
        return f"{description.points:,} points" + (f" ({name})" if name else "")

    def arrays() -> Any:
        return sorted(description.arrays) or sorted(metadata.get("supporting_arrays_paths") or ()) or "none"

    report.tell("data", "data sets", data_sets)
    report.tell("data", "grid", grid)
    report.tell("data", "supporting arrays", arrays)
    report.tell("data", "time step", lambda: f"{description.timestep_hours:g} h")
    report.tell("data", "times read", lambda: description.anemoi.multi_step_input)
    report.tell("data", "times made", lambda: description.anemoi.multi_step_output)
    if report.facts["data"]["times made"] not in (1, None) and isinstance(report.facts["data"]["times made"], int):
        report.problems.append(f"makes {report.facts['data']['times made']} times in a step, expected 1")
    for part in ("prognostic", "constant", "computed", "diagnostic"):
        report.tell("data", part, partial(_described_part, description, part))
    report.tell("data", "levels", lambda: _levels([name for names in description.variables.values() for name in names]))
    report.tell("data", "order", lambda: _order(list(description.anemoi.variable_to_input_tensor_index)))
    report.tell("data", "trained", "no: untrained" if description.untrained else "yes, as far as its metadata says")
    report.tell("versions", "made with", lambda: description.versions_that_matter or None)
    report.tell("versions", "differs here", lambda: _differs_here(description))


def _differs_here(description: Description) -> str | None:
    return environment_difference(description) or "no" if description.versions_that_matter else None


def _described_part(description: Description, part: str) -> str:
    """Return how many variables play a part, and which of them are on no level."""
    names = description.variables[part]
    surface = [name for name in names if not _on_level(name)]
    levels = [f"{len(names) - len(surface)} on levels"] if len(surface) < len(names) else []
    return f"{len(names)}: {' '.join(surface)}" + (f" and {levels[0]}" if levels else "") if names else "none"


def _on_level(name: str) -> bool:
    with suppress(ValueError):
        return bool(split_variable(name)[1])
    return False


def _catalogue(report: Report, description: Description, *, trust: bool) -> None:
    """Tell whether the catalogue knows this very file."""
    model = report.entry
    if model is None:
        return
    listed = model.checkpoint
    report.tell("file", "catalogue", f"{model.name}: grid, time step and variables fit")
    if listed.get("build"):
        said = "not compared with what checkpoint.build makes"
    elif not listed.get("sha256"):
        said = f"none listed: `aifs-ensemble checkpoint register {model.name} FILE` once you trust it"
    elif listed["sha256"] == report.facts["file"]["sha256"]:
        said = "the one listed"
    else:
        said = f"another than the one listed, {listed['sha256']}"
        if not trust:
            report.problems.append(
                f"sha256 {report.facts['file']['sha256']}, expected {listed['sha256']} ({model.name})"
            )
    report.tell("file", "digest", said)
    try:
        check_size(description.path, model)
    except CheckpointError as error:
        report.problems.append(str(error).removeprefix(f"{description.path}: "))


def _pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise CheckpointError(f"{path}: {len(names)} records data.pkl, expected one")
        return archive.read(names[0])


def _network(report: Report, description: Description, *, trust: bool) -> None:
    """Tell what the network consists of and whether this environment has it; load it where that is allowed."""
    damaged = report.facts["file"]["CRC"] != _WHOLE
    try:
        found, names = read_inert(_pickle_of(report.path), str(report.path))
        if not isinstance(found, Inert):
            raise CheckpointError(f"the pickle holds a {type(found).__name__}, expected an AnemoiModelInterface")
    except (CheckpointError, zipfile.BadZipFile, zlib.error) as error:
        report.problems.append(str(error).removeprefix(f"{report.path}: "))
        return
    try:
        report.facts["network"] = anatomy(found)
    except Exception as error:  # parts of other kinds than any version has: the rest can still be told
        report.tell("network", "model class", f"{type(found).full_name}, not told ({type(error).__name__}: {error})")
    also = (report.entry.checkpoint.get("globals") or ()) if report.entry else ()
    refused, absent = names_here(names, also)
    report.tell("here", "names refused", refused or "none")
    report.tell("here", "names absent", absent or "none")
    if refused:
        report.problems.append(f"unpickling refuses {', '.join(refused)}: see checkpoint.globals in docs/models.md")
    if absent:
        difference = environment_difference(description)
        report.problems.append(
            f"not here: {', '.join(absent)}" + (f"; pickled with {difference}" if difference else "")
        )
    if not refused and not absent and not damaged:
        _load(report, description, trust=trust)


def names_here(names: Iterable[tuple[str, str]], also: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which names of a pickle are refused, and which are allowed but absent in this environment."""
    from aifs_ensemble.model.attention import ensure_flash_attention
    from aifs_ensemble.model.checkpoint.unpickle import pickle_module

    ensure_flash_attention()
    unpickler = pickle_module(tuple(also)).Unpickler(io.BytesIO())
    refused, absent = [], []
    for module, name in names:
        if module == "torch" and name.endswith("Storage"):  # torch.load takes these itself
            continue
        try:
            unpickler.find_class(module, name)
        except CheckpointError:
            refused.append(f"{module}.{name}")
        except (ImportError, AttributeError):
            absent.append(f"{module}.{name}")
    return refused, absent


def _load(report: Report, description: Description, *, trust: bool) -> None:
    """Load a model that may be loaded, and tell what of it will be accelerated."""
    model = report.entry
    try:
        if trust:
            also = (model.checkpoint.get("globals") or ()) if model else ()
            report.model = unpickle_checkpoint(description, "cpu", also)
        elif model is None or not _known(report, model):
            report.tell("here", "accelerated", NOT_LOADED)
            return
        else:
            report.model = load_model(report.path, model, device="cpu")
    except CheckpointError as error:
        report.problems.append(str(error).removeprefix(f"{report.path}: "))
        return
    why_not = why_not_accelerated(report.model)
    report.accelerated = not why_not
    report.tell("here", "accelerated", f"no, because of {why_not}: the model's own pass runs" if why_not else "yes")


def _known(report: Report, model: Model) -> bool:
    """Whether the catalogue vouches for the file; of a built one it is told here."""
    try:
        check_digest(report.path, model)
    except CheckpointError as error:
        if model.built:
            report.tell("file", "digest", str(error).removeprefix(f"{report.path}: "))
        return False
    if model.built:
        report.tell("file", "digest", f"what checkpoint.build of {model.name} makes here")
    return True
