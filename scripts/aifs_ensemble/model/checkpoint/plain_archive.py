"""The archive that a checkpoint is, looked at before torch reads it.

`torch.load` hands an archive of TorchScript to `torch.jit.load`, which runs what the archive says whatever unpickler
was asked for; and Python and torch read archives with code of their own, which may see two different ones in a file
made for that. Only a plain archive is let through: one that both see alike, with none of TorchScript's records.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from aifs_ensemble.common.errors import CheckpointError

_END = struct.Struct("<4s4H2LH")  # the end of the central directory
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
            file.seek(-_END.size, 2)
            end = _END.unpack(file.read())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{name}: truncated or damaged ({error})") from None
    if end[0] != b"PK\5\6" or comment or (end[6] not in (start, 0xFFFFFFFF)):
        raise CheckpointError(f"{name}: bytes before or after the archive, expected what torch.save writes")
    folders = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    if len(folders) != 1 or len(set(names)) != len(names) or any(".." in n.split("/") for n in names):
        raise CheckpointError(f"{name}: entries of several folders or names, expected what torch.save writes")
    if script := sorted(n for n in names if n.split("/")[0].lower() in _SCRIPT):
        raise CheckpointError(f"{name}: has {script[0]}, a TorchScript archive; expected a model that torch.save wrote")
    return {record: entry.file_size for record, entry in zip(names, entries, strict=True)}
