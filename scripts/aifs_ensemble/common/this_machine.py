"""Which rented machine this is, as Google's metadata server says: its type, zone, whether it is preemptible, its name.

Coiled's machines and Google Batch's are both Google's, so one answer serves both. Elsewhere nothing is asked; nothing
that goes wrong here stops a forecast.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

import http.client
import logging
import urllib.error
import urllib.request

LOG = logging.getLogger(__name__)
PRODUCT_NAME = Path("/sys/class/dmi/id/product_name")
# its address rather than its name: nothing to look up
HOST = "169.254.169.254"
TIMEOUT_SECONDS = 1.0
TRIES = 2
_PATHS = ("machine-type", "zone", "name", "scheduling/preemptible")


def instance() -> dict[str, Any]:
    """Return `type`, `zone`, `region`, `spot` and `instance` of this machine, as far as Google says; else nothing.

    ``GCE_METADATA_HOST`` names another host and ``NO_GCE_CHECK=true`` asks none, as for Google's own libraries. A
    server that does not answer costs at most `TRIES` times `TIMEOUT_SECONDS`.
    """
    host = os.environ.get("GCE_METADATA_HOST") or (HOST if _made_by_google() else "")
    if not host or os.environ.get("NO_GCE_CHECK") == "true":
        return {}
    said: dict[str, str] = {}
    try:
        for path in _PATHS:
            value = _ask(host, path)
            if value is not None:
                said[path] = value
    except (OSError, ValueError, http.client.HTTPException) as error:
        LOG.warning("%s: no metadata of this machine (%s), its account will assume the configuration's", host, error)
    return _described(said)


def _made_by_google() -> bool:
    try:
        return PRODUCT_NAME.read_text().strip().startswith("Google")
    except (OSError, ValueError):
        return False


def _ask(host: str, path: str) -> str | None:
    """Return one value of the instance's metadata, None where it has none; OSError when nobody answers."""
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{path}", headers={"Metadata-Flavor": "Google"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for left in reversed(range(TRIES)):
        try:
            with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                if answer.headers.get("Metadata-Flavor") != "Google":
                    raise ValueError("an answer without Metadata-Flavor: Google")
                return answer.read(1000).decode().strip()
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_FOUND:
                return None
            if not left:
                raise
        except OSError:
            if not left:
                raise
    return None


def _described(said: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata in the words of a manifest; ``projects/123/zones/us-central1-a`` is a zone."""
    found: dict[str, Any] = {}
    if kind := said.get("machine-type", "").rpartition("/")[2]:
        found["type"] = kind
    if zone := said.get("zone", "").rpartition("/")[2]:
        found |= {"zone": zone, "region": zone.rpartition("-")[0]}
    if (preemptible := said.get("scheduling/preemptible", "").upper()) in ("TRUE", "FALSE"):
        found["spot"] = preemptible == "TRUE"
    if name := said.get("name"):
        found["instance"] = name
    return found


PACKAGES = ("torch", "anemoi-inference", "anemoi-models", "earthkit-data", "eccodes", "numpy", "torch-geometric")


def machine() -> dict[str, Any]:
    """Return what this machine is: name, processor, cores, memory in bytes, and what Google says of its own."""
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        **instance(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
