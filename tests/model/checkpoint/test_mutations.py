"""Random changes of the instructions of a real model's pickle: whatever they make, nothing is run, opened or changed.

`pytest -m long tests/model/checkpoint/test_mutations.py` takes ten minutes, with a new seed each time.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.model.attention import ensure_flash_attention
from aifs_ensemble.model.checkpoint.unpickle import pickle_module

from model.checkpoint.test_attacks import g

CODES = [bytes([code]) for code in b"Rb\x81suae02\x85\x86\x87)}]N\x88Q(t\x90\x91dlo\x92\x94"]
NAMES = [
    "torch.Tensor",
    "builtins.object",
    "numpy.ndarray",
    "builtins.getattr",
    "_operator.getitem",
    "copyreg._reconstructor",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.modules.module.Module",
    "torch.nn.modules.rnn.LSTM",
    "torch.nn.modules.module._WrappedHook",
    "torch.nn.modules.lazy.LazyModuleMixin",
    "uuid.UUID",
    "pathlib.PosixPath",
    "functools.partial",
    "os.system",
]
WATCHED = ("os.", "subprocess.", "exec", "compile", "open", "socket.", "shutil.", "ctypes.", "marshal.")
EXPECTED = (CheckpointError, ImportError, AttributeError, TypeError, RuntimeError, EOFError)

_seen: list[tuple[str, str]] = []
_armed = [False]


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _armed[0] and event.startswith(WATCHED):
        _seen.append((event, str(arguments)[:100]))


def _storages(path: Path) -> Any:
    """Return what gives the storages of a checkpoint by their persistent names; an odd name is refused."""
    with zipfile.ZipFile(path) as archive:
        records = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist() if "/data/" in name}

    def load(name: Any) -> Any:
        try:
            _, kind, key, _, _ = name
            content = bytearray(records[key])
            data = (
                torch.frombuffer(content, dtype=torch.uint8).untyped_storage() if content else torch.UntypedStorage(0)
            )
            return torch.storage.TypedStorage(wrap_storage=data, dtype=kind.dtype, _internal=True)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise pickle.UnpicklingError(f"storage {error}") from None

    return load


def _unpickle(content: bytes, storages: Any) -> Any:

    class Unpickler(pickle_module().Unpickler):  # type: ignore[misc, name-defined]
        def find_class(self, module: str, name: str) -> Any:
            if type(name) is str and module == "torch" and name.endswith("Storage"):
                return torch.serialization.StorageType(name)
            return super().find_class(module, name)

    unpickler = Unpickler(io.BytesIO(content), encoding="utf-8")
    unpickler.persistent_load = storages
    _armed[0] = True
    try:
        return unpickler.load()
    except (*EXPECTED, pickle.UnpicklingError):
        return None
    finally:
        _armed[0] = False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seconds", [5, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_nothing_happens(seconds: float, demo_path: Path) -> None:
    ensure_flash_attention()
    sys.addaudithook(_audit)  # stays for the life of the process, and looks away between
    with zipfile.ZipFile(demo_path) as archive:
        content = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    found = list(pickletools.genops(content))
    starts = [place for _, _, place in found] + [len(content)]
    parts = [content[a:b] for a, b in pairwise(starts)]
    named = [number for number, (operation, _, _) in enumerate(found) if operation.name == "GLOBAL"]
    names = [parts[number] for number in named] + [g(name) for name in NAMES]
    storages = _storages(demo_path)
    assert _unpickle(content, storages) is not None  # unchanged, it loads; and everything is imported
    seed = random.randrange(1 << 32)
    draw, end, tried = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        changed, tried = list(parts), tried + 1
        for _ in range(draw.choice([1, 1, 2, 4])):
            place = draw.randrange(len(changed))
            match draw.randrange(5):
                case 0:
                    changed[place] = draw.choice(CODES)
                case 1:
                    changed.insert(place, draw.choice(CODES))
                case 2:
                    changed[draw.choice(named)] = draw.choice(names)
                case 3:
                    changed.insert(place, draw.choice(names))
                case _:
                    changed[place] = b"h" + bytes([draw.randrange(256)])
        _unpickle(b"".join(changed), storages)
        assert not _seen, f"seed {seed}, try {tried}: {_seen[:3]}"
    assert tried
