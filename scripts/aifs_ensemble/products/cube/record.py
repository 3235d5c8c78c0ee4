"""The record of the data sets' files, compared with what is at the destination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.records import json_object
from aifs_ensemble.common.storage import MissingError, ObjectInfo, open_destination
from aifs_ensemble.common.text import first_of

_SETS = ("virtual", "regular")


def record_problems(
    config: Config,
    record: bytes,
    listed: Mapping[str, ObjectInfo],
    checked: Callable[[ObjectInfo], ObjectInfo] | None = None,
) -> Iterator[str]:
    """Yield what is lost or damaged of the files that ``cube.json`` names, or what is wrong of the record itself.

    `checked` fills in the checksum of an object that the listing does not know (`Storage.with_crc32c` reads it).
    """
    name = config.objects.cube
    try:
        sets = [found for part in _SETS if (found := json_object(record, name).get(part)) is not None]
        files = {
            f"{one['key']}/{file}": (it["size"], it["crc32c"]) for one in sets for file, it in one["files"].items()
        }
    except VerificationError as error:
        yield str(error)
        return
    except (AttributeError, KeyError, TypeError):
        yield f"{name}: not the record of data sets"
        return
    for key, (size, crc32c) in files.items():
        info = listed.get(key)
        if info is None:
            yield f"{key}: missing"
        elif info.size != size:
            yield f"{key}: {info.size} bytes, expected {size}"
        elif (found := (checked(info) if checked else info).crc32c) not in (None, crc32c):
            yield f"{key}: crc32c {found}, expected {crc32c}"


def check_cube(config: Config, *, mend: bool) -> tuple[str, ...]:
    """Return what is lost or damaged of the ensemble's data sets at the destination; with `mend` a run makes them anew.

    Nothing is said where there are none. Raises StorageError when the destination does not answer.
    """
    storage, keys = open_destination(config), config.objects
    try:
        record = storage.get_bytes(keys.cube)
    except MissingError:
        return ()
    listed = {info.key: info for key in (keys.virtual_cube, keys.regular_cube) for info in storage.list(f"{key}/")}
    problems = tuple(record_problems(config, record, listed, storage.with_crc32c))
    if problems and mend:
        # the record is how a run knows of them; of a bucket, so is its copy on scratch
        storage.delete(keys.cube)
        config.scratch.copy(keys.cube).unlink(missing_ok=True)
    return problems


def require_whole(problems: Sequence[str], *, mended: bool, told: bool = False) -> None:
    """Raise VerificationError, one line, when `check_cube` has found something, which it counts if each was `told`."""
    if problems:
        next_step = "the next run makes the data sets anew" if mended else "verify --mend, then run again"
        raise VerificationError(f"data sets of the ensemble: {first_of(problems, 1, told=told)}; {next_step}")
