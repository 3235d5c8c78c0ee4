"""Compiled parts of the model, kept on scratch and, for machines to come, at the destination.

torch.compile and Triton keep what they compile, and which of several variants was fastest, in a folder. A rented
machine starts with an empty one. The first that had to compile leaves its folder at the destination, under a name that
says for what it holds; others begin with that. They also choose the same variants then, which the same bits depend on.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import platform
import re
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import read_json, write_json
from aifs_ensemble.common.gpu import card_name
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.common.storage import MissingError, Storage, open_destination
from aifs_ensemble.model.numerics import Numerics

LOG = logging.getLogger(__name__)
PREFIX = "compile-cache"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_VARIABLES = (CACHE_VARIABLE, "TRITON_CACHE_DIR")
# Modules beside this one whose sources decide what is compiled: `accelerated` with what it imports from here.
KERNELS = (
    "accelerated", "attention", "banded_attention", "conditional_norm", "cuda_graph", "float8", "forms",
    "graph_attention", "launches", "network", "network_0_11", "network_0_6", "supported", "truncation",
)  # fmt: skip
_PATIENCE_SECONDS = 60.0
# Beside what was taken from the destination: which object, for the manifests of the members that ran it.
_ORIGIN = "taken-from-destination.json"


def cache_name(card: str, config: Config) -> str:
    """Return what a cache is good for: one card, one torch and Triton, one Python and processor, one program.

    The program is told by the model, the settings that its kernels depend on, and a digest of their sources.
    """
    numerics = Numerics.of(config)
    parts = [card or "cpu"]
    for package in ("torch", "triton", "anemoi-models"):
        with suppress(metadata.PackageNotFoundError):
            parts.append(f"{package}-{metadata.version(package)}")
    parts += [f"python-{platform.python_version()}", platform.machine(), config.model.name]
    parts += [f"precision-{numerics.precision}", f"chunks-{numerics.chunks}"]
    parts += [] if numerics.deterministic else ["any-order"]
    parts.append(sources_digest())
    return re.sub(r"[^\w.-]+", "-", "_".join(parts))


def sources_digest(also: Sequence[str] = ()) -> str:
    """Return a digest of the kernels' sources, and of other modules beside them."""
    found = hashlib.sha256()
    for module in (*KERNELS, *also):
        found.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    return found.hexdigest()[:12]


class CompileCache(Observer):
    """Gives a member the folder of compiled parts before it compiles, and keeps what it had to compile.

    An observer of the forecast. Nothing that goes wrong here stops one; where the environment names a cache
    already, that one is used and nothing is shared.

    Parameters
    ----------
    root : folder of the caches on scratch
    name : of `cache_name`
    storage : opens the destination that shares them, None for none
    """

    def __init__(self, root: Path, name: str, storage: Callable[[], Storage] | None):
        self.folder = root / name
        self._key = f"{PREFIX}/{name}.tar.gz"
        self._storage = storage
        self._new = self._set = False
        self._sending: threading.Thread | None = None

    @classmethod
    def of(cls, config: Config) -> CompileCache:
        """Return the cache of a configuration, shared where members are delivered as they are computed."""
        shared = config.delivery.streaming and config.delivery.share_compiled
        root = config.scratch_root / "cache" / "compiled"
        return cls(root, cache_name(card_name(), config), (lambda: open_destination(config)) if shared else None)

    @staticmethod
    def origin() -> dict[str, str] | None:
        """Return the object and digest of the compiled parts that this process uses; None for this machine's own."""
        folder = os.environ.get(_VARIABLES[0])
        try:
            told = read_json(Path(folder) / _ORIGIN) if folder else None
        except InputError:
            return None
        return told if isinstance(told, dict) else None

    def started(self, member: int, leads: int, done: int) -> None:
        """Point torch and Triton to the folder, filled from the destination when it is new."""
        if done == leads or any(name in os.environ for name in _VARIABLES):
            return
        os.environ |= {_VARIABLES[0]: str(self.folder), _VARIABLES[1]: str(self.folder / "triton")}
        self._set = True
        if not self.folder.exists():
            self._new = not self._fetch()

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        """Everything is compiled once there is a lead: send it, beside the forecast."""
        if self._new and self._storage is not None:
            self._new = False
            self._sending = threading.Thread(target=self._send, name="compile-cache", daemon=True)
            self._sending.start()

    def finished(self, manifest: MemberManifest) -> None:
        """Wait until it is sent, and leave the environment as it was."""
        if self._sending is not None:
            self._sending.join(_PATIENCE_SECONDS)
        self._restore_environment()

    def failed(self, error: BaseException) -> None:
        """Wait for nothing: a preempted machine has seconds left, and what to go on from needs them."""
        self._restore_environment()

    def _restore_environment(self) -> None:
        if self._set:
            for name in _VARIABLES:
                os.environ.pop(name, None)

    def _fetch(self) -> bool:
        """Fill the folder from the destination; return whether there was anything."""
        if self._storage is None:
            return False
        try:
            content = self._storage().get_bytes(self._key)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".part-"))
            try:
                with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                    archive.extractall(part, filter="data")
                write_json(part / _ORIGIN, {"name": self._key, "sha256": hashlib.sha256(content).hexdigest()})
                part.replace(self.folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        except MissingError:
            return False
        except Exception as error:
            if not self.folder.exists():  # else a member beside this one was quicker
                LOG.warning("compiled parts not taken from the destination: %s", error)
                return False
        LOG.info("compiled parts taken from %s at the destination", self._key)
        return True

    def _send(self) -> None:
        try:
            assert self._storage is not None
            store = self._storage()
            if store.stat(self._key) is None:
                content = self._packed()
                store.put_bytes(content, self._key)
                LOG.info("compiled parts kept at the destination as %s, %.1f MB", self._key, len(content) / 1e6)
        except Exception as error:
            LOG.warning("compiled parts not kept at the destination: %s", error)

    def _packed(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                with suppress(FileNotFoundError):  # temporary, of a member that compiles beside this one
                    archive.add(path, path.relative_to(self.folder).as_posix(), recursive=False)
        return packed.getvalue()
