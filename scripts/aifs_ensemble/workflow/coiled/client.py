"""Coiled's client: opened without its browser login, asked by name, and not waited for without end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError


def require_token() -> None:
    """Raise ConfigError when Coiled knows no token, in which case its client would open a browser and wait."""
    import coiled  # noqa: F401  (reads its own configuration)
    import dask.config

    if not dask.config.get("coiled.token", None):
        raise ConfigError("coiled: no token found, run `coiled login` once (or set DASK_COILED__TOKEN)")


@contextmanager
def coiled_cloud(config: Config) -> Iterator[Any]:
    """Open the Coiled client; ConfigError instead of its browser login when no token is set up."""
    require_token()
    import coiled

    with coiled.Cloud(workspace=config.cloud.workspace) as cloud:
        yield cloud


def find_cluster(name: str, cloud: Any) -> int | None:
    """Return the id of the cluster of a name, or None when Coiled knows none."""
    from coiled.errors import DoesNotExist

    try:
        found = cloud.get_clusters_by_name(name=name)
    except DoesNotExist:
        return None
    return max((int(cluster["id"]) for cluster in found), default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after `seconds`; elsewhere nothing can interrupt a client."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
