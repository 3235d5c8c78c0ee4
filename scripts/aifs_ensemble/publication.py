"""What a finished member leaves: links to its leads, and the manifest that describes them."""

from __future__ import annotations

import errno
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble import noise
from aifs_ensemble.cloud.instance import instance
from aifs_ensemble.files import temporary
from aifs_ensemble.journal import KnownFile, WorkFolder
from aifs_ensemble.manifest import LeadRecord, MemberManifest, write_member_manifest

if TYPE_CHECKING:
    from aifs_ensemble.forecast import ForecastRequest

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


def member_manifest(
    request: ForecastRequest,
    settings: Mapping[str, Any],
    files: Mapping[str, KnownFile],
    records: Sequence[LeadRecord],
    attempts: Sequence[Mapping[str, Any]],
) -> MemberManifest:
    """Return the manifest: the same whenever it is made from the same work folder."""
    told: dict[str, Any] = {}
    for attempt in attempts:
        told |= attempt
    long = ("versions", "initial_conditions", "step_seconds")
    return MemberManifest(
        model=request.model.name,
        untrained=request.model.untrained,
        cycle=request.cycle,
        member=request.member,
        ensemble_size=request.ensemble_size,
        grid=request.model.grid,
        leads=tuple(records),
        seed={
            "scheme": noise.SCHEME,
            "of": ["model", "cycle", "member", "step"],
            "first_step": request.seed(1),
        },
        checkpoint={"name": Path(files["checkpoint"].path).name, "sha256": files["checkpoint"].sha256},
        initial_conditions={**told.get("initial_conditions", {}), "sha256": files["initial_state"].sha256},
        versions=told.get("versions", {}),
        settings=settings,
        device=told.get("device", ""),
        machine=told.get("machine", {}) | {key: told[key] for key in ("peak_gpu_mb",) if told.get(key)},
        timings=told.get("timings", {}),
        step_seconds=tuple(told.get("step_seconds", ())),
        attempts=tuple({key: value for key, value in attempt.items() if key not in long} for attempt in attempts),
    )


def publish(
    request: ForecastRequest, work: WorkFolder, records: Sequence[LeadRecord], manifest: MemberManifest
) -> None:
    """Link the leads into the forecasts folder, then write the manifest.

    A manifest that is there already goes first: it never stands beside leads that it does not describe.
    """
    request.forecasts.mkdir(parents=True, exist_ok=True)
    request.manifest.unlink(missing_ok=True)
    for record in records:
        for file in (record.grib, record.index):
            source = work.leads / file.name
            if source.exists():  # else delivered, and removed since
                link(source, request.forecasts / file.name)
    write_member_manifest(request.manifest, manifest)


def link(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy where there can be none, replacing it atomically.

    Its time of change becomes now, as of any file that a rule has just made.
    """
    if not (target.exists() and target.samefile(source)):
        part = temporary(target)
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            try:
                shutil.copyfile(source, part)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(target)
    os.utime(target)
