"""Writing a checkpoint's digest into the model catalogue, whose comments and order stay as they are."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.models import CATALOGUE, Model, get_model
from aifs_ensemble.model.checkpoint.describe import check_description, describe_checkpoint
from aifs_ensemble.model.checkpoint.digest import check_size, checkpoint_digest, read_record


def register_checkpoint(name: str, path: Path, catalogue: Path = CATALOGUE) -> str:
    """Write ``sha256`` and ``size`` of a checkpoint into its entry of the catalogue and return the digest.

    Where the file was fetched from the entry's repository, ``revision`` becomes the commit that it was fetched from.

    Raises CheckpointError when the file does not fit the entry or another digest is listed already, ConfigError when
    the entry has no such lines to write to.
    """
    model = get_model(name, catalogue)
    if model.checkpoint.get("build"):
        raise ConfigError(f"model: {name!r} is built, not fetched: its digest follows from checkpoint.build")
    check_description(describe_checkpoint(path), model)
    check_size(path, model)
    digest, listed = checkpoint_digest(path), model.checkpoint.get("sha256")
    if listed and listed != digest:
        raise CheckpointError(
            f"{path}: sha256 {digest}, but {catalogue.name} lists {listed} for {name}: remove that first"
        )
    before = catalogue.read_text()
    after = _with_value(before, name, "sha256", f'"{digest}"')
    after = _with_value(after, name, "size", str(path.stat().st_size))
    if (commit := fetched_commit(path, model)) and "revision" in model.checkpoint:
        after = _with_value(after, name, "revision", f'"{commit}"')
    _check_only_these_changed(before, after, name)
    write_bytes(catalogue, after.encode())
    return digest


def fetched_commit(path: Path, model: Model) -> str | None:
    """Return the commit of the entry's repository that a file was fetched from; None of a file from elsewhere."""
    record, entry = read_record(path), model.checkpoint
    pattern = rf"{re.escape(str(entry.get('repository')))}@([0-9a-f]{{40}})/{re.escape(str(entry.get('file')))}"
    found = re.fullmatch(pattern, (record and record.source) or "")
    return found[1] if found else None


def _with_value(text: str, name: str, key: str, value: str) -> str:
    """Return the catalogue with one value of an entry's ``checkpoint`` replaced, a comment after it kept."""
    entry = re.search(rf"^  {re.escape(name)}:\n(?:(?: {{4,}}.*| *)\n?)*", text, re.MULTILINE)
    line = entry and re.search(rf"^( {{6}}{key}:)[ ]*[^\s#]*", entry[0], re.MULTILINE)
    if not entry or not line:
        raise ConfigError(f"models.yaml: {name}: no line `{key}:` under checkpoint to write to, add `{key}: null`")
    start = entry.start()
    return f"{text[: start + line.start()]}{line[1]} {value}{text[start + line.end() :]}"


def _check_only_these_changed(before: str, after: str, name: str) -> None:
    """Make sure that an edit of text was one of the entry: nothing is written otherwise."""
    old, new = (yaml.safe_load(text)["models"] for text in (before, after))
    for models in (old, new):
        models[name]["checkpoint"] |= {"sha256": None, "size": None, "revision": None}
    if old != new:
        raise ConfigError(f"models.yaml: {name}: cannot be edited safely, write sha256, size and revision by hand")
