"""Loading a checkpoint, as safely as unpickling can be."""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.file_identity import file_identity
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.overlays import use_packages
from aifs_ensemble.model.checkpoint.archive import read_archive, torch_may_map
from aifs_ensemble.model.checkpoint.build import build_demo, recipe_digest
from aifs_ensemble.model.checkpoint.describe import (
    Description,
    check_description,
    describe_checkpoint,
    environment_difference,
)
from aifs_ensemble.model.checkpoint.digest import (
    check_size,
    checkpoint_digest,
    compute_digest,
    read_record,
    write_record,
)
from aifs_ensemble.model.checkpoint.plain_archive import check_seen_alike, plain_records
from aifs_ensemble.model.checkpoint.unpickle import pickle_module
from aifs_ensemble.model.edges import choose_edges

if TYPE_CHECKING:
    import torch
    from anemoi.models.interface import AnemoiModelInterface

LOG = logging.getLogger(__name__)


def load_model(path: Path, model: Model, *, device: str | torch.device, trust: bool = False) -> AnemoiModelInterface:
    """Return the model in a checkpoint, on a device, ready to predict.

    Before anything is unpickled its digest must be the one that the catalogue lists, or it must be what the
    catalogue's ``checkpoint.build`` makes; `trust` does without. Its grid, time step and variables must be those of
    the entry. Every record of the archive is compared with its CRC. Weights are memory-mapped where the archive is
    stored, and inflated into memory where it is not.

    Raises CheckpointError naming what is wrong, with the difference between this environment and the one of the
    checkpoint when that may be the reason.
    """
    use_packages(model)
    description = describe_checkpoint(path)
    identity = file_identity(path)
    check_description(description, model)
    check_size(path, model)
    if trust:
        LOG.warning("%s: loaded on the user's word, its digest is not checked", path)
    else:
        check_digest(path, model)
    interface = unpickle_checkpoint(description, str(device), model.checkpoint.get("globals") or ())
    interface.requires_grad_(requires_grad=False)
    interface = interface.to(device).eval()
    if file_identity(path) != identity:
        raise CheckpointError(f"{path}: changed while it was loaded, expected nobody to write it; run again")
    return interface


def check_digest(path: Path, model: Model) -> None:
    """Raise CheckpointError unless a file is the one that the catalogue lists, or builds, for a model."""
    if model.checkpoint.get("build"):
        _check_built(path, model)
        return
    expected = model.checkpoint.get("sha256")
    if not expected:
        raise CheckpointError(
            f"{path}: models.yaml lists no sha256 for {model.name}; after a download that you trust, run "
            f"`aifs-ensemble checkpoint register {model.name} {path}`, or set trust_checkpoint"
        )
    found = checkpoint_digest(path)
    if found != str(expected).lower():
        raise CheckpointError(f"{path}: sha256 {found}, expected {expected} ({model.name} in models.yaml)")


def _check_built(path: Path, model: Model) -> None:
    """Check a built checkpoint by the record of its building, and without one by building it again."""
    recipe = recipe_digest(model)
    record = read_record(path)
    if record is not None and record.built_from == recipe:
        return
    LOG.info("%s: no record that it was built from %s, building it again to compare", path, model.name)
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "again.ckpt"
        build_demo(model, again)
        expected = compute_digest(again)
    found = compute_digest(path)
    if found != expected:
        raise CheckpointError(
            f"{path}: sha256 {found}, expected {expected}, which checkpoint.build of {model.name} makes here; "
            "build it anew, or set trust_checkpoint"
        )
    write_record(path, built_from=recipe, sha256=found)


def unpickle_checkpoint(description: Description, device: str, also: Collection[str] = ()) -> AnemoiModelInterface:
    """Return the model in a checkpoint that somebody vouches for; `also` are further names that its pickle may have.

    Raises CheckpointError as `load_model` does.
    """
    import torch
    from anemoi.models.interface import AnemoiModelInterface

    from aifs_ensemble.model.attention import ensure_flash_attention

    path = description.path
    pickled = pickle_module(also, plain_records(path, description.name))
    ensure_flash_attention()
    with torch_may_map(read_archive(path)) as mapped:
        check_seen_alike(mapped, read_archive(mapped), description.name)
        try:
            # weights_only=False, for the checkpoint is a whole model; pickle_module is what limits it.
            interface: Any = torch.load(
                mapped, map_location=device, mmap=True, weights_only=False, pickle_module=pickled
            )
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except (ImportError, AttributeError, TypeError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            difference = environment_difference(description)
            hint = f"; pickled with {difference}" if difference else ""
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path}: cannot be loaded ({type(error).__name__}: {reason}){hint}") from error
    if isinstance(interface, torch.nn.Module):
        choose_edges(interface, torch.device(device).type)
    if type(interface) is not AnemoiModelInterface:
        raise CheckpointError(f"{path}: holds a {type(interface).__name__}, expected an AnemoiModelInterface")
    return interface
