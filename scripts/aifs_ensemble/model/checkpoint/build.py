"""Untrained checkpoints of the AIFS ENS architecture, at any size, the same bytes every time.

They stand in for a trained one in demonstrations, tests and benchmarks. A step changes the fields a little and
never much, noise makes members differ, and diagnostics stay within what they can be; nothing in it is a forecast.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import pickle
import struct
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.files import atomic_writer
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.overlays import use_packages
from aifs_ensemble.fields.grids import Grid, grid_coordinates
from aifs_ensemble.model.checkpoint.architecture import (
    ATTENTIONS,
    Size,
    all_variables,
    architecture,
    checkpoint_metadata,
)
from aifs_ensemble.model.checkpoint.architecture_0_11 import architecture_0_11
from aifs_ensemble.model.checkpoint.digest import write_record
from aifs_ensemble.model.checkpoint.graph import add_truncation, build_graph, build_truncation
from aifs_ensemble.model.checkpoint.statistics import statistics_of
from aifs_ensemble.model.edges import KERNEL_CLASS, KERNEL_FUNCTION, KERNEL_MODULE, EdgeKernel, as_released

if TYPE_CHECKING:
    import torch
    from anemoi.models.interface import AnemoiModelInterface
    from scipy.sparse import csr_matrix

LOG = logging.getLogger(__name__)

# Change of a prognostic variable in one step, in standard deviations.
UPDATE = 0.005
# How strongly the noise modulates the processor's layers; in a model fresh from its constructor not at all.
_NOISE_GAIN = 1.0
# What the matrix that spreads noise is called in the configuration of a checkpoint.
_NOISE_FILE = "noise.npz"
# 1980-01-01 00:00:00 as DOS date and time, the earliest a zip archive can say.
_DOS_EPOCH = struct.pack("<HH", 0, (1 << 5) | 1)


def build_checkpoint(
    model: Model,
    path: Path,
    *,
    hidden: str,
    channels: int,
    layers: int,
    heads: int,
    window: int,
    attention: str = "scaled_dot_product_attention",
    seed: int = 0,
    data_grid: str | None = None,
    update: float = UPDATE,
    statistics: Mapping[str, Sequence[float]] | None = None,
    truncation: str | None = None,
    noise: str | None = None,
) -> None:
    """Write an untrained checkpoint for a catalogue entry, atomically.

    Parameters
    ----------
    hidden, channels, layers, heads, window, attention : see `architecture.Size`
    seed : of the weights; the same arguments in the same environment give the same bytes
    data_grid : grid instead of the entry's, for trials at another size
    update : change of prognostic variables in one step, in standard deviations
    statistics : mean and standard deviation of variables that the table of parameters lacks
    truncation : coarse grid through which the skip connection passes, as it most likely does in the released model;
        the weights of the interpolation are kept beside the checkpoint, in ``weights/``
    noise : coarse grid on which noise is drawn, as it is in AIFS ENS v2; by default the hidden nodes' own

    Raises ConfigError when the sizes do not go together, or this machine lacks the packages of the model.
    """
    use_packages(model)
    if channels % heads:
        raise ConfigError(f"{model.name}: channels {channels}, expected a multiple of heads {heads}")
    if attention not in ATTENTIONS:
        raise ConfigError(f"{model.name}: attention {attention!r}, expected {' or '.join(ATTENTIONS)}")
    size = Size(hidden, channels, layers, heads, window, attention)
    grid, nodes = grid_coordinates(data_grid or model.grid), grid_coordinates(hidden)
    if truncation == grid.name:
        raise ConfigError(f"{model.name}: truncation {truncation}, expected a coarser grid than the data's {grid.name}")
    if noise and not is_newer(model):
        raise ConfigError(
            f"{model.name}: noise {noise}, expected none: anemoi-models {model.anemoi_models} has no such"
        )
    made_by = {"seed": seed, "update": update, "hidden": hidden, "data_grid": grid.name, "truncation": truncation}
    made_by |= {"noise": noise} if noise else {}
    matrices = build_truncation(grid, grid_coordinates(truncation), path.parent) if truncation else {}
    make = _newer_interface if is_newer(model) else _interface
    interface = make(model, size, grid, nodes, made_by=made_by, given=statistics, truncation=matrices)
    _settle_weights(interface, model, seed, update)
    _write(path, interface)
    LOG.info("%s: untrained, %.1f M parameters", path, sum(p.numel() for p in interface.parameters()) / 1e6)


def build_demo(model: Model, path: Path) -> None:
    """Write the checkpoint that a catalogue entry describes under ``checkpoint.build``.

    Raises ConfigError when the entry does not say how, or says it wrongly.
    """
    recipe = model.checkpoint.get("build")
    if not recipe:
        raise ConfigError(f"model: {model.name!r} has no checkpoint.build in models.yaml: it is fetched, not built")
    try:
        inspect.signature(build_checkpoint).bind(model, path, **recipe)
    except TypeError as error:
        raise ConfigError(f"{model.name}: checkpoint.build in models.yaml: {error}") from None
    build_checkpoint(model, path, **recipe)
    write_record(path, built_from=recipe_digest(model))


def recipe_digest(model: Model) -> str:
    """Return the SHA-256 of all that decides the bytes of a built checkpoint: entry, table, code version, packages."""
    use_packages(model)
    variables = all_variables(model)
    recipe = dict(model.checkpoint.get("build") or {})
    table = statistics_of(variables, recipe.get("statistics"))
    made_by = {"seed": recipe.get("seed", 0)}
    content: dict[str, Any] = {
        "metadata": checkpoint_metadata(
            model, grid=model.grid, points=0, config=recipe, indices=None, identity="", made_by=made_by
        ),
        "statistics": {name: values.tolist() for name, values in table.items()},
    }
    if recipe.get("truncation"):
        content["interpolation"] = version("mir-python")
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def is_newer(model: Model) -> bool:
    """Whether a model's anemoi-models is of the form of 0.11; else it is of 0.6."""
    return model.anemoi_models.startswith("0.11.")


def _interface(
    model: Model,
    size: Size,
    grid: Grid,
    nodes: Grid,
    *,
    made_by: dict[str, Any],
    given: Mapping[str, Sequence[float]] | None,
    truncation: Mapping[str, csr_matrix],
) -> AnemoiModelInterface:
    """Return the model with weights drawn from the seed, its metadata and supporting arrays inside."""
    config = architecture(model, size)
    identity, parts = _parts(model, size, grid, nodes, config=config, made_by=made_by, given=given)
    return _made(config, identity, parts | {"truncation_data": dict(truncation)}, made_by["seed"])


def _newer_interface(
    model: Model,
    size: Size,
    grid: Grid,
    nodes: Grid,
    *,
    made_by: dict[str, Any],
    given: Mapping[str, Sequence[float]] | None,
    truncation: Mapping[str, csr_matrix],
) -> AnemoiModelInterface:
    """Return the same in the form of anemoi-models 0.11: matrices come from a file and from the graph."""
    from anemoi.utils.config import DotDict

    from aifs_ensemble.model.checkpoint.spread_noise import noise_matrix, write_noise_matrix

    noise = made_by.get("noise")
    configured = partial(architecture_0_11, model, size, truncated=bool(truncation))
    config = configured(noise_file=_NOISE_FILE if noise else None)
    identity, parts = _parts(model, size, grid, nodes, config=config, made_by=made_by, given=given)
    if truncation:
        add_truncation(parts["graph_data"], grid_coordinates(made_by["truncation"]), truncation)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _NOISE_FILE
        if noise:
            write_noise_matrix(path, noise_matrix(grid_coordinates(noise), nodes))
        with _silent("anemoi.models.layers.block"):  # which says on a machine without a card that it does without one
            interface = _made(configured(noise_file=str(path) if noise else None), identity, parts, made_by["seed"])
    interface.config = DotDict(config)  # without the folder, which is another each time
    as_released(interface)
    _plain_factories(interface)
    return interface


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    quiet = logging.getLogger(logger)
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield
    finally:
        quiet.setLevel(level)


def _plain_factories(interface: AnemoiModelInterface) -> None:
    """Have the factories of layers be plain partials, as hydra made them when AIFS ENS v2 was trained."""
    for module in interface.modules():
        for name, made in getattr(module, "layer_factory", {}).items():
            module.layer_factory[name] = partial(made.func, **made.keywords)


def _parts(
    model: Model,
    size: Size,
    grid: Grid,
    nodes: Grid,
    *,
    config: dict[str, Any],
    made_by: dict[str, Any],
    given: Mapping[str, Sequence[float]] | None,
) -> tuple[str, dict[str, Any]]:
    """Return the identity of a model, and what its constructor takes besides the configuration."""
    from anemoi.models.data_indices.collection import IndexCollection
    from omegaconf import OmegaConf

    from aifs_ensemble.model.attention import ensure_flash_attention

    if size.attention == "flash_attention":
        ensure_flash_attention()
    variables = all_variables(model)
    indices = IndexCollection(OmegaConf.create(config), {name: index for index, name in enumerate(variables)})
    # A name made of what the checkpoint is, not a random one, so that equal checkpoints are equal files.
    recipe = json.dumps([model.name, variables, made_by, config], sort_keys=True)
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, recipe))
    plain_indices = json.loads(json.dumps(indices.todict(), default=lambda tensor: tensor.tolist()))
    metadata = checkpoint_metadata(
        model,
        grid=grid.name,
        points=grid.points,
        config=config,
        indices=plain_indices,
        identity=identity,
        made_by=made_by,
    )
    return identity, {
        "graph_data": build_graph(grid, nodes),
        "statistics": statistics_of(variables, given),
        "data_indices": indices,
        "metadata": metadata,
        "supporting_arrays": {"latitudes": np.array(grid.latitudes), "longitudes": np.array(grid.longitudes)},
    }


def _made(config: dict[str, Any], identity: str, parts: Mapping[str, Any], seed: int) -> AnemoiModelInterface:
    """Return the interface of anemoi-models, its weights drawn from the seed."""
    import torch
    from anemoi.models.interface import AnemoiModelInterface
    from anemoi.utils.config import DotDict

    # torch asks for a word on whether sparse tensors, of the truncation, are to be checked
    with torch.random.fork_rng(devices=[]), torch.sparse.check_sparse_tensor_invariants(True):
        torch.manual_seed(seed)
        interface = AnemoiModelInterface(config=DotDict(config), **parts)
    interface.id = identity
    return interface.eval()


def _settle_weights(interface: AnemoiModelInterface, model: Model, seed: int, update: float) -> None:
    """Make the step small for prognostic variables, of usual size for diagnostics, and sensitive to the noise."""
    import torch
    from anemoi.models.layers.normalization import ConditionalLayerNorm

    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in interface.modules():
            if isinstance(module, ConditionalLayerNorm):
                for linear in (module.scale, module.bias):
                    linear.weight.normal_(std=_NOISE_GAIN, generator=generator)
        last = interface.model.decoder.node_data_extractor[-1]
        last.weight.normal_(std=last.in_features**-0.5, generator=generator)
        last.bias.zero_()
        places = interface.data_indices.model.output.name_to_index
        prognostic = [places[name] for name in model.prognostic]
        last.weight[prognostic] *= update
        for name in model.diagnostic:
            _settle_diagnostic(interface, last, name, places[name])


def _settle_diagnostic(interface: AnemoiModelInterface, last: torch.nn.Linear, name: str, place: int) -> None:
    """Centre a diagnostic, which nothing but this layer makes, on its mean where it is not scaled around it."""
    normalizer = interface.pre_processors.processors["normalizer"]
    index = interface.data_indices.data.input.name_to_index[name]
    mean, deviation = (interface.statistics[key][index] for key in ("mean", "stdev"))
    method = normalizer.methods.get(name, normalizer.default)
    if method == "std":
        last.bias[place] = mean / deviation
    elif method == "none":
        last.bias[place] = mean
        last.weight[place] *= deviation


class _OrderedPickler(pickle._Pickler):
    """A pickler that writes sets in order: a set of strings is otherwise ordered anew in every process."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_set(self, value: set[Any]) -> None:
        self.save_reduce(set, (sorted(value, key=repr),), obj=value)  # type: ignore[attr-defined]

    def save_kernel(self, value: EdgeKernel) -> None:
        """Write what a model that was made on a card pickles: a method of a class that may not be here."""
        self.save(getattr)  # type: ignore[attr-defined]
        self.write(f"c{KERNEL_MODULE}\n{KERNEL_CLASS}\n".encode())  # type: ignore[attr-defined]
        self.save(KERNEL_FUNCTION)  # type: ignore[attr-defined]
        self.write(pickle.TUPLE2 + pickle.REDUCE)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[set] = save_set
    dispatch[EdgeKernel] = save_kernel


class _Ordered:
    """What `torch.save` takes for a pickle module."""

    Pickler = _OrderedPickler


def _write(path: Path, interface: AnemoiModelInterface) -> None:
    """Write the model and its metadata, atomically; torch names the archive after an open file always the same."""
    import torch
    from anemoi.utils.checkpoints import save_metadata

    with atomic_writer(path, durable=True) as file:
        torch.save(interface, file, pickle_module=_Ordered)
        file.flush()
        # atomic_writer's temporary file is complete here; anemoi appends to it by name.
        save_metadata(file.name, interface.metadata, supporting_arrays=interface.supporting_arrays)
        with open(file.name, "r+b") as archive:
            _settle_dates(archive)


def _settle_dates(archive: BinaryIO) -> None:
    """Set the modification time of every entry of a zip archive to 1980: `save_metadata` writes the time of day.

    Layout of local (4.3.7) and central (4.3.12) headers: PKWARE, .ZIP File Format Specification 6.3.
    """
    with zipfile.ZipFile(archive) as zipped:
        entries = zipped.infolist()
        position = zipped.start_dir
    for entry in entries:
        archive.seek(entry.header_offset + 10)
        archive.write(_DOS_EPOCH)
        archive.seek(position)
        header = archive.read(46)
        archive.seek(position + 12)
        archive.write(_DOS_EPOCH)
        position += 46 + sum(struct.unpack("<HHH", header[28:34]))
