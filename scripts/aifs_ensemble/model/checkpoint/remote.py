"""Where a checkpoint can be fetched from: Hugging Face, by its own client, or a plain URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.http import RETRIABLE, TransferError
from aifs_ensemble.common.models import Model

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes
    ----------
    name : what messages call it; never holds a token or a signature
    url, headers : of the request; both may hold secrets and are kept out of messages
    version : what tells this content from another one, None when only the answer will say
    size, sha256 : of the content, None when not known beforehand
    cached : where other programs' shared cache has it, None where it does not
    """

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    version: str | None = None
    size: int | None = None
    sha256: str | None = None
    cached: Path | None = None


def plain_remote(url: str) -> Remote:
    """Return the file at an ``https://`` URL, or at an ``http://`` one on this machine."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CheckpointError(f"checkpoint: {url.partition('?')[0]}: {error}, expected an https:// URL") from None
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise CheckpointError(f"checkpoint: {url.partition('?')[0]}: expected https, for nothing else vouches for it")
    # A query is where signed URLs keep their signature.
    host = parts.netloc.rpartition("@")[2]
    return Remote(f"{parts.scheme}://{host}{parts.path}", url)


def _endpoint() -> str | None:
    """Return ``HF_ENDPOINT``, None for the hub itself; CheckpointError for one to which the token would go in clear."""
    endpoint = os.environ.get("HF_ENDPOINT") or None
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not (secure and parts.hostname):
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise CheckpointError(f"HF_ENDPOINT: {shown}: expected an https:// URL, for HF_TOKEN and the digest pass there")
    return endpoint


def hub_remote(model: Model, timeout: float) -> Remote:
    """Return the catalogue's file on Hugging Face, as its client finds it.

    The endpoint is ``HF_ENDPOINT``, the token ``HF_TOKEN``, both from the environment; no token is read from
    elsewhere. Raises CheckpointError when there is no such file or no access, TransferError when asking again may help.
    """
    import httpx2  # the HTTP library of huggingface_hub 2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers

    entry = model.checkpoint
    endpoint = _endpoint()
    token = os.environ.get("HF_TOKEN") or False
    url = hf_hub_url(entry["repository"], entry["file"], revision=entry.get("revision"), endpoint=endpoint)
    name = f"{entry['repository']}@{entry.get('revision') or 'main'}/{entry['file']}"
    try:
        found = get_hf_file_metadata(url, token=token, timeout=timeout, endpoint=endpoint)
    except HfHubHTTPError as error:
        raise _explain(error, name, entry["repository"], has_token=bool(token)) from None
    except FileMetadataError as error:
        raise CheckpointError(f"{name}: {' '.join(str(error).split())}") from None
    except httpx2.TransportError as error:
        raise TransferError(f"no answer from the hub ({type(error).__name__})", again=True) from None
    if found.commit_hash is None:
        raise CheckpointError(f"{name}: the server is no Hugging Face hub (no commit in its answer), see HF_ENDPOINT")
    cached = try_to_load_from_cache(entry["repository"], entry["file"], revision=found.commit_hash)
    return Remote(
        name=f"{entry['repository']}@{found.commit_hash}/{entry['file']}",
        url=hf_hub_url(entry["repository"], entry["file"], revision=found.commit_hash, endpoint=endpoint),
        headers=build_hf_headers(token=token),
        version=f"{found.commit_hash} {found.etag}",
        size=found.size,
        # Large files are kept by their SHA-256, which is then their ETag; small ones by a git hash.
        sha256=found.etag if found.etag and _SHA256.fullmatch(found.etag) else None,
        cached=Path(cached) if isinstance(cached, str) else None,
    )


def _explain(error: HfHubHTTPError, name: str, repository: str, *, has_token: bool) -> CheckpointError | TransferError:
    """Return what an answer of the hub means and what to do about it."""
    from huggingface_hub import errors

    status = error.response.status_code
    if status in RETRIABLE:
        wait = error.response.headers.get("Retry-After", "")
        return TransferError(f"hub answers HTTP {status}", again=True, wait=float(wait) if wait.isdigit() else 0.0)
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{name}: no such revision, see checkpoint.revision in models.yaml")
    if isinstance(error, errors.EntryNotFoundError):
        return CheckpointError(f"{name}: no such file there, see checkpoint.file in models.yaml")
    token = "HF_TOKEN is set but gives no access" if has_token else "HF_TOKEN is not set"
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{name}: accept its licence on the page of {repository} first, with the account of HF_TOKEN ({token})"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(f"{name}: no such repository, or it is private ({token})")
    return CheckpointError(f"{name}: hub answers HTTP {status} ({token})")
