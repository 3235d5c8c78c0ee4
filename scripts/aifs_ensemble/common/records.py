"""The door for records: JSON that an earlier job, another machine or a bad disk left is checked here, once.

A record is a dataclass. `read_record` returns one whose every field has its type, or raises VerificationError with one
line; callers then treat the record as missing. A record may be sealed: its member `digest` is the SHA-256 of all of the
rest, whatever keys a newer version adds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from aifs_ensemble.common.errors import DiskFullError, VerificationError
from aifs_ensemble.common.files import crc32c_bytes, write_bytes
from aifs_ensemble.common.text import foreign

LOG = logging.getLogger(__name__)
T = TypeVar("T")
SEAL = "digest"
# Sizes in bytes, hours and counts: more than any disk holds, and few enough digits to print.
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Generation = Annotated[int, Field(ge=0, le=1 << 63)]
Crc32c = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{6}==$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, expected a number")


def parse_json(data: bytes | str, name: str) -> Any:
    """Return the content of JSON; VerificationError naming it when it is none."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise VerificationError(f"{name}: not JSON") from None


def json_object(data: bytes | str, name: str) -> dict[str, Any]:
    """Return the JSON object in `data`; VerificationError naming it when there is none."""
    content = parse_json(data, name)
    if not isinstance(content, dict):
        raise VerificationError(f"{name}: not JSON")
    return content


def seal(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-compatible content but for its seal, whatever the order of its keys."""
    rest = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON-compatible content with its seal."""
    return {**content, SEAL: seal(content)}


def read_record(
    kind: type[T], data: bytes | str, name: str, *, schema: str | None = None, unsealed: str | None = None
) -> T:
    """Return the record of a `kind` in `data`; VerificationError naming it when it is not a sound one.

    Parameters
    ----------
    schema : what the record must say of itself, sealed
    unsealed : the schema of earlier versions, which wrote no seal
    """
    if schema is not None:
        check_seal(json_object(data, name), name, schema=schema, unsealed=unsealed)
    try:
        return _adapter(cast(Any, kind)).validate_json(data, strict=True)
    except ValidationError as error:
        raise VerificationError(f"{name}: {explained(error)}") from None


def check_seal(content: Mapping[str, Any], name: str, *, schema: str, unsealed: str | None = None) -> None:
    """Raise VerificationError unless content is of a schema and as its seal says."""
    found = content.get("schema")
    if found == schema:
        try:
            own = seal(content)
        except RecursionError:
            own = ""
        if content.get(SEAL) != own:
            raise VerificationError(f"{name}: differs from its own {SEAL}: edited or damaged")
    elif found is None or found != unsealed:
        raise VerificationError(f"{name}: schema {foreign(repr(found))}, expected {schema!r}")


def explained(error: ValidationError) -> str:
    """Return the first problem that pydantic found with a record, in words."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return foreign(f"{place}: {first['msg']}" if place else first["msg"])


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class JsonLines(Generic[T]):
    """A file of records, one a line, that is only ever appended to; a last line torn by a kill is left out.

    Each line begins with the checksum of its rest. Lines of earlier versions begin with the key `first` and have none.
    """

    def __init__(self, path: Path, kind: type[T], first: str):
        self.path = path
        self._kind, self._first = kind, first

    def read(self) -> list[T]:
        """Return the record of every whole line; lines that are none are left out with one line in the log."""
        try:
            *lines, _torn = self.path.read_bytes().split(b"\n")
        except (FileNotFoundError, IsADirectoryError):
            return []
        found, odd = [], []
        for number, line in enumerate(lines, 1):
            try:
                found.append(self._record(line))
            except VerificationError as error:
                odd.append(f"line {number}: {str(error).removeprefix(': ')}")
        if odd:
            LOG.warning("%s: left out: %s%s", self.path, odd[0], f" and {len(odd) - 1} more" if len(odd) > 1 else "")
        return found

    def _record(self, line: bytes) -> T:
        content = json_object(line, "")
        first = next(iter(content), None)
        if first == _CHECK:
            told = content.pop(_CHECK)
            if told != _line_check(content):
                raise VerificationError("differs from its checksum")
        elif first != self._first:
            raise VerificationError("not a record")
        return read_record(self._kind, json.dumps(content), "")

    def append(self, content: Mapping[str, Any]) -> None:
        """Append one line; whatever a torn line left is cut off first. DiskFullError when there is no room."""
        try:
            with open(self.path, "a+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.seek(0)
                        file.truncate(file.read().rfind(b"\n") + 1)
                file.write(_line(content))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"{self.path}: no space left on device") from error
            raise

    def write(self, contents: Iterable[Mapping[str, Any]]) -> None:
        """Write the file anew, in one step."""
        write_bytes(self.path, b"".join(map(_line, contents)))


_CHECK = "check"


def _line_check(content: Mapping[str, Any]) -> str:
    return crc32c_bytes(json.dumps(content, sort_keys=True).encode())


def _line(content: Mapping[str, Any]) -> bytes:
    plain = json.loads(json.dumps(content))
    return json.dumps({_CHECK: _line_check(plain), **plain}).encode() + b"\n"
