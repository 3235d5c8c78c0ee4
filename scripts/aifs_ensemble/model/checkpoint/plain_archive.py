"""The archive that a checkpoint is, looked at before torch reads it.

`torch.load` hands an archive of TorchScript to `torch.jit.load`, which runs what the archive says whatever unpickler
was asked for; and Python and torch read archives with code of their own, which may see two different ones in a file
made for that. Only a plain archive is let through: one that both see alike, with none of TorchScript's records.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.text import foreign
from aifs_ensemble.model.checkpoint.archive import Archive

_END = struct.Struct("<4s4H2LH")  # the end of the central directory
_LOCATOR = struct.Struct("<4sLQL")  # where the larger end is, of archives that need one
_LARGE_END = 56  # its bytes
_SCRIPT = ("constants.pkl", "code", "tensors", "constants")


def plain_records(path: Path, name: str | None = None) -> dict[str, int]:
    """Return the records of a checkpoint below its one folder, with their bytes unpacked.

    Raises CheckpointError, calling the file by its `name`, when it is no plain archive of a pickled model.
    """
    name = name or str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            start, comment = archive.start_dir, archive.comment
        with open(path, "rb") as file:
            at = file.seek(-_END.size, 2)
            end = _END.unpack(file.read())
            file.seek(max(0, at - _LOCATOR.size))
            locator = file.read(_LOCATOR.size)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{name}: truncated or damaged ({error})") from None
    if end[0] != b"PK\5\6" or comment or (end[6] not in (start, 0xFFFFFFFF)):
        raise CheckpointError(f"{name}: bytes before or after the archive, expected what torch.save writes")
    # Python looks for the larger end before its locator, torch where the locator says
    if locator[:4] == b"PK\6\7" and _LOCATOR.unpack(locator)[2] != at - _LOCATOR.size - _LARGE_END:
        raise CheckpointError(f"{name}: two ends of the archive, expected what torch.save writes")
    folders = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    if len(folders) != 1 or len(set(names)) != len(names) or any(".." in n.split("/") for n in names):
        raise CheckpointError(f"{name}: entries of several folders or names, expected what torch.save writes")
    if script := sorted(n for n in names if n.split("/")[0].lower() in _SCRIPT):
        raise CheckpointError(f"{name}: has {script[0]}, a TorchScript archive; expected a model that torch.save wrote")
    return {record: entry.file_size for record, entry in zip(names, entries, strict=True)}


def check_seen_alike(path: Path, archive: Archive, name: str) -> None:
    """Raise CheckpointError unless torch finds the records of the archive at `path` by the names and where Python does.

    Torch compares names without regard to case, and knows other extra fields: no list of such differences is complete.
    """
    import torch

    expected = {record.name.partition("/")[2]: record.start for record in archive.records}
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))
        found = {record: reader.get_record_offset(record) for record in reader.get_all_records()}
    except RuntimeError as error:
        raise CheckpointError(f"{name}: torch cannot read it ({foreign(error)})") from None
    if found != expected:
        odd = min(name for name, _ in set(found.items()) ^ set(expected.items()))
        raise CheckpointError(f"{name}: Python and torch find {foreign(odd)} in two places, expected one archive")
