"""Initial states and restart states: float32 arrays with their description, no pickles.

A state is one safetensors file: an aligned float32 tensor ``fields`` of shape
``(time, variable, value)`` and a text header that says what it is. It can be memory-mapped,
by numpy, by torch, or by any of the safetensors readers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import atomic_writer, encode_crc32c
from aifs_ensemble.common.text import foreign

SCHEMA = "aifs-ensemble/state/1"
_CHUNK = 8 << 20
_METADATA = frozenset(("schema", "grid", "cycle", "member", "times", "variables", "units", "provenance", "crc32c"))
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format
REMEDY = "delete it where it is kept, and the next run makes it again"


@dataclass(frozen=True)
class State:
    """Fields at one or more times on one grid.

    Attributes
    ----------
    fields : float32 array ``(time, variable, value)`` in `units`
    extra : further float32 arrays by name, such as running accumulations ``(variable, value)``
    provenance : JSON-compatible record of how the state was made
    """

    fields: npt.NDArray[np.float32]
    times: tuple[datetime, ...]
    variables: tuple[str, ...]
    units: tuple[str, ...]
    grid: str
    cycle: str
    member: int
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.times), len(self.variables))
        if self.fields.ndim != 3 or self.fields.shape[:2] != expected or len(self.units) != len(self.variables):
            raise InputError(f"state: fields have shape {self.fields.shape}, expected {expected} and the grid's points")

    def variable(self, name: str) -> npt.NDArray[np.float32]:
        """Return one variable, shape ``(time, value)``."""
        return self.fields[:, self.variables.index(name)]


def write_state(path: Path, state: State, *, keep_equal: bool = False, durable: bool = False) -> None:
    """Write a state atomically, with the CRC32C of all of it.

    With `keep_equal` a file of the same bytes stays, with its time; a `durable` one outlives a power cut.
    """
    header = {
        "schema": SCHEMA,
        "grid": state.grid,
        "cycle": state.cycle,
        "member": str(state.member),
        "times": json.dumps([time.isoformat() for time in state.times]),
        "variables": json.dumps(state.variables),
        "units": json.dumps(state.units),
        "provenance": json.dumps(state.provenance, sort_keys=True),
    }
    tensors = {"fields": np.ascontiguousarray(state.fields, np.float32)}
    tensors |= {name: np.ascontiguousarray(array, np.float32) for name, array in state.extra.items()}
    with atomic_writer(path, keep_equal=keep_equal, durable=durable) as file:
        _write_tensors(file, tensors, header)


def _write_tensors(file: BinaryIO, tensors: dict[str, npt.NDArray[np.float32]], metadata: dict[str, str]) -> None:
    """Write the safetensors layout: the header's length, the header with its keys sorted, the arrays by name.

    The library's own writer puts the header in random order, so that the same state has other bytes each time,
    and copies everything twice while all threads wait, which a forecast would feel at every restart state.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in sorted(tensors.items()):
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (end, end + array.nbytes)}
        end += array.nbytes
    parts = [array.reshape(-1).view(np.uint8).data for _, array in sorted(tensors.items())]
    metadata["crc32c"] = _checksum(header, parts)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for part in parts:
        file.write(part)


def _checksum(header: Mapping[str, Any], parts: Iterable[bytes | memoryview]) -> str:
    """Return the CRC32C of a header without its own checksum and of what follows it, in base64."""
    told = dict(header) | {"__metadata__": {k: v for k, v in header["__metadata__"].items() if k != "crc32c"}}
    value = google_crc32c.value(json.dumps(told, sort_keys=True).encode())
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            value = google_crc32c.extend(value, bytes(part[start : start + _CHUNK]))
    return encode_crc32c(value)


def _check(path: Path) -> None:
    """Raise InputError for a state whose bytes are not those that were written; older ones hold no checksum."""
    with open(path, "rb") as file:
        header = _header(path, file)
        metadata = header["__metadata__"]
        if unknown := sorted(set(metadata) - _METADATA):
            raise InputError(f"{path}: header with {foreign(repr(unknown[0]))}, expected that of a state; {REMEDY}")
        if "crc32c" not in metadata:
            return
        found = _checksum(header, iter(lambda: file.read(_CHUNK), b""))
    if found != metadata["crc32c"]:
        raise InputError(f"{path}: crc32c {found}, expected {foreign(metadata['crc32c'])}: damaged; {REMEDY}")


def _header(path: Path, file: BinaryIO) -> dict[str, Any]:
    """Read the header of a state; InputError when it is none of the safetensors layout."""
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"header of {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
        if not isinstance(header["__metadata__"], dict):
            raise TypeError("metadata that are no table")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable state ({foreign(repr(error))}); {REMEDY}") from None
    return header


def read_state(path: Path, *, variables: Sequence[str] | None = None, grid: str | None = None) -> State:
    """Return the state in `path`, memory-mapped where the reader can; InputError where its checksum tells of damage.

    With `variables` or `grid`, InputError unless the state has exactly that grid and at least those
    variables, of which it then holds just these, in that order.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file, expected an initial or restart state")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("schema") != SCHEMA:
                raise InputError(f"{path}: schema {foreign(repr(header.get('schema')))}, expected {SCHEMA!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable state ({foreign(error)}); {REMEDY}") from None
    _check(path)
    try:
        return _state(path, header, tensors, variables, grid)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not a readable state ({foreign(repr(error))}); {REMEDY}") from None


def _state(
    path: Path,
    header: Mapping[str, str],
    tensors: dict[str, npt.NDArray[Any]],
    variables: Sequence[str] | None,
    grid: str | None,
) -> State:
    names, units = json.loads(header["variables"]), json.loads(header["units"])
    fields = tensors.pop("fields")
    provenance = json.loads(header["provenance"])
    if not (_texts(names) and _texts(units) and isinstance(provenance, dict)):
        raise ValueError("variables, units or provenance of another kind")
    if grid is not None and header["grid"] != grid:
        raise InputError(f"{path}: grid {foreign(header['grid'])}, expected {grid}")
    if variables is not None and list(variables) != names:
        missing = sorted(set(variables) - set(names))
        if missing:
            raise InputError(f"{path}: missing {', '.join(missing)}")
        order = [names.index(name) for name in variables]
        fields, names, units = fields[:, order], list(variables), [units[i] for i in order]
    return State(
        fields=fields,
        times=tuple(datetime.fromisoformat(time) for time in json.loads(header["times"])),
        variables=tuple(names),
        units=tuple(units),
        grid=header["grid"],
        cycle=header["cycle"],
        member=int(header["member"]),
        provenance=provenance,
        extra=tensors,
    )


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def state_digest(path: Path) -> str:
    """Return the SHA-256 of a state's content without its provenance, so that a state made again the same is the same.

    InputError when the file is not in the safetensors layout (a length, a JSON header, the arrays).
    """
    with open(path, "rb") as file:
        header = _header(path, file)
        for own in ("provenance", "crc32c"):
            header["__metadata__"].pop(own, None)
        value = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while chunk := file.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()
