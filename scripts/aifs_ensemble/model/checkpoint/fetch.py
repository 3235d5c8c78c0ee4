"""Getting a checkpoint: from Hugging Face, a URL, a bucket or a path, checked, and in place whole or not at all."""

from __future__ import annotations

import errno
import logging
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.common.errors import CheckpointError, DiskFullError, StorageError
from aifs_ensemble.common.files import atomic_writer, crc32c_file, replace_durably
from aifs_ensemble.common.http import Deadline, Policy, TransferError, persist
from aifs_ensemble.common.models import Model, check_listed
from aifs_ensemble.model.checkpoint.build import build_demo
from aifs_ensemble.model.checkpoint.describe import check_description, describe_checkpoint
from aifs_ensemble.model.checkpoint.digest import (
    DigestRecord,
    check_size,
    compute_digest,
    existing,
    read_record,
    write_record,
)
from aifs_ensemble.model.checkpoint.download import Download
from aifs_ensemble.model.checkpoint.load import check_digest
from aifs_ensemble.model.checkpoint.remote import Remote, hub_remote, plain_remote

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOG = logging.getLogger(__name__)

_BUCKET_PIECE = 32 << 20


def provide_checkpoint(model: Model, path: Path, *, trust: bool = False, policy: Policy | None = None) -> DigestRecord:
    """Make sure that `path` is a checkpoint of a model: keep it, build it or fetch it.

    A file that is there and right is kept as it is. Where the catalogue has no ``checkpoint.build``, it is fetched.
    Raises as `fetch_checkpoint` does, and CheckpointError at once, before a
    gigabyte is fetched and a GPU rented, when `load_model` would refuse the file for want of a digest in the catalogue.
    """
    check_listed(model, trust=trust)
    if not model.built:
        return fetch_checkpoint(model, path, trust=trust, policy=policy)
    policy = policy or Policy()
    with _alone(path, Deadline(policy.deadline_seconds)):
        try:
            check_digest(path, model)
        except CheckpointError:
            build_demo(model, path)
    return read_record(path) or write_record(path)


def fetch_checkpoint(
    model: Model, path: Path, *, source: str | None = None, trust: bool = False, policy: Policy | None = None
) -> DigestRecord:
    """Fetch the checkpoint of a catalogue entry to `path` and return its digest and where it is from.

    Parameters
    ----------
    source : path, ``gs://bucket/object`` or ``https://`` URL to take it from instead of where the catalogue says
        (``checkpoint.url``, else Hugging Face)
    trust : keep a file although its digest is not the one that the catalogue lists

    An interrupted download goes on where it stopped. Several processes that want the same file wait for the one that
    fetches it. The file gets its name only when its digest is the catalogue's (when it lists one) and the source's
    (when it tells one) and its metadata fit the entry.

    Raises CheckpointError when there is no such file, no access, no whole file within the policy's limits, or another
    digest than expected; DiskFullError when it does not fit.
    """
    policy = policy or Policy()
    deadline = Deadline(policy.deadline_seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path, deadline):
        if kept := _kept(model, path, trust=trust):
            return kept
        source = source or model.checkpoint.get("url")
        mirror = None if source else model.checkpoint.get("mirror")
        elsewhere = f"; a copy may be had with --source {mirror}" if mirror else ""
        try:
            part, origin, told = _bring(model, path, source, policy, deadline)
        except TransferError as error:
            hint = "; run again to go on from there" if error.again else ""
            raise CheckpointError(f"{_called(model, source)}: {error}{hint}{elsewhere}") from None
        except CheckpointError as error:
            raise CheckpointError(f"{error}{elsewhere}") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"{path.parent}: no space left on device") from None
            raise
        digest = _checked(model, part, name=origin, told=told, trust=trust)
        replace_durably(part, path)
        part.with_suffix(".json").unlink(missing_ok=True)
        LOG.info("%s: fetched from %s, sha256 %s", path, origin, digest)
        return write_record(path, sha256=digest, source=origin)


def _called(model: Model, source: str | None) -> str:
    if source:
        return source.partition("?")[0]
    entry = model.checkpoint
    return f"{entry.get('repository')}@{entry.get('revision') or 'main'}/{entry.get('file')}"


def _kept(model: Model, path: Path, *, trust: bool) -> DigestRecord | None:
    """Return the record of a file that need not be fetched again; CheckpointError when it is not the one listed."""
    if not path.exists():
        return None
    record = read_record(path)
    if record is None and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a checkpoint, expected the zip archive that torch.save writes; remove to fetch anew"
        )
    record = record or write_record(path)
    check_size(path, model)
    expected = model.checkpoint.get("sha256")
    if expected and record.sha256 != expected and not trust:
        raise CheckpointError(
            f"{path}: sha256 {record.sha256}, expected {expected} ({model.name} in models.yaml); remove to fetch anew"
        )
    return record


def _bring(
    model: Model, path: Path, source: str | None, policy: Policy, deadline: Deadline
) -> tuple[Path, str, str | None]:
    """Bring the file beside its place and return where it is, where it is from and the digest its source tells."""
    part = path.with_name(f".{path.name}.download.part")
    if source and source.startswith("gs://"):
        _from_bucket(source, part, policy, deadline)
        return part, source, None
    if source and "://" not in source:
        with atomic_writer(part) as file, open(existing(Path(source)), "rb") as original:
            shutil.copyfileobj(original, file, _BUCKET_PIECE)
        return part, str(Path(source).absolute()), None
    if source:
        remote = plain_remote(source)
    elif model.checkpoint.get("repository"):
        remote = persist(lambda: hub_remote(model, policy.stall_seconds), policy, deadline, name=_called(model, None))
    else:
        raise CheckpointError(
            f"model: {model.name} says neither checkpoint.repository nor checkpoint.url in models.yaml"
        )
    if not _from_cache(remote, part, model):
        _download(remote, part, model, policy, deadline)
    return part, remote.name, remote.sha256


def _from_cache(remote: Remote, part: Path, model: Model) -> bool:
    """Copy a file from the hub's shared cache, if it is there and its digest is the one expected."""
    expected = model.checkpoint.get("sha256") or remote.sha256
    if remote.cached is None or not expected:
        return False
    if compute_digest(remote.cached) != expected:
        LOG.warning("%s: in the shared cache with other content, fetched anew", remote.name)
        return False
    with atomic_writer(part) as file, open(remote.cached, "rb") as original:
        shutil.copyfileobj(original, file, _BUCKET_PIECE)
    LOG.info("%s: taken from the shared cache, %s", remote.name, remote.cached)
    return True


def _download(remote: Remote, part: Path, model: Model, policy: Policy, deadline: Deadline) -> None:
    """Download a file; when bytes of an earlier process went into it and it is not the right one, once more anew."""
    expected = model.checkpoint.get("sha256") or remote.sha256
    download = Download(remote, part, policy, deadline)
    download.run()
    if download.resumed and expected and compute_digest(part) != expected:
        LOG.warning("%s: resumed to something else than expected, starting over", remote.name)
        download.discard()
        Download(remote, part, policy, deadline).run()


def _from_bucket(url: str, part: Path, policy: Policy, deadline: Deadline) -> None:
    """Bring an object of Google Cloud Storage, in pieces, going on where an earlier process stopped."""
    from aifs_ensemble.common.storage import TransferSettings, open_storage

    folder, _, key = url.rpartition("/")
    if folder == "gs:/" or not key:
        raise CheckpointError(f"{url}: expected gs://bucket/object")
    storage = open_storage(folder, TransferSettings(deadline=min(policy.deadline_seconds, deadline.remaining)))
    try:
        info = storage.stat(key)
        if info is None:
            raise CheckpointError(f"{url}: no such object, expected a checkpoint")
        label = part.with_suffix(f".{info.generation}.part")
        with open(label, "ab") as file:
            while file.tell() < info.size:
                _ = deadline.remaining
                file.write(storage.get_range(key, file.tell(), min(_BUCKET_PIECE, info.size - file.tell())))
                file.flush()
    except StorageError as error:
        raise CheckpointError(str(error)) from None
    if info.crc32c and crc32c_file(label) != info.crc32c:
        label.unlink()
        raise CheckpointError(f"{url}: content differs from its crc32c {info.crc32c}; removed, run again")
    label.replace(part)


def _checked(model: Model, part: Path, *, name: str, told: str | None, trust: bool) -> str:
    """Return the digest of a complete file; CheckpointError, the file removed, when it is not the one expected."""
    digest = compute_digest(part)
    listed = model.checkpoint.get("sha256")
    try:
        if told and digest != told:
            raise CheckpointError(f"{name}: sha256 {digest}, expected {told} as the source says")
        if listed and digest != listed and not trust:
            raise CheckpointError(f"{name}: sha256 {digest}, expected {listed} ({model.name} in models.yaml)")
        check_size(part, model, name)
        check_description(describe_checkpoint(part, name), model)
    except CheckpointError:
        part.unlink()
        part.with_suffix(".json").unlink(missing_ok=True)
        raise
    return digest


@contextmanager
def _alone(path: Path, deadline: Deadline) -> Iterator[None]:
    """Hold the right to make `path`; CheckpointError when another process keeps it until the deadline.

    The lock is the kernel's where the file system has one, and goes with its process: a lock file left behind stops
    nobody. Elsewhere the file names its process and is taken over when that is gone.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")

    def acquire(lock: BaseFileLock) -> BaseFileLock:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            LOG.info("%s: another process is making it, waiting", path)
            try:
                lock.acquire(timeout=deadline.remaining)
            except Timeout:
                raise CheckpointError(f"{path}: another process holds {name} and has not finished in time") from None
        return lock

    try:
        lock = acquire(FileLock(name))
    except NotImplementedError:
        lock = acquire(SoftFileLock(name))
    try:
        yield
    finally:
        lock.release()
