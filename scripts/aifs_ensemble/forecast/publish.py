"""What a finished member leaves: links to its leads, and the manifest that describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aifs_ensemble.common.files import link
from aifs_ensemble.common.manifest import AttemptRecord, LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.forecast.work_folder import KnownFile, WorkFolder
from aifs_ensemble.model import noise

if TYPE_CHECKING:
    from aifs_ensemble.forecast.request import ForecastRequest


def member_manifest(
    request: ForecastRequest,
    settings: Mapping[str, Any],
    files: Mapping[str, KnownFile],
    records: Sequence[LeadRecord],
    attempts: Sequence[Mapping[str, Any]],
) -> MemberManifest:
    """Return the manifest: the same whenever it is made from the same work folder."""
    known: dict[str, Any] = {}
    for attempt in attempts:
        known |= attempt
    long = ("versions", "initial_conditions", "step_seconds")
    return MemberManifest(
        model=request.model.name,
        untrained=request.model.untrained,
        cycle=request.cycle,
        member=request.member,
        ensemble_size=request.ensemble_size,
        grid=request.model.grid,
        leads=tuple(records),
        seed={"scheme": noise.SCHEME, "of": ["model", "cycle", "member", "step"], "first_step": request.seed(1)},
        checkpoint={"name": Path(files["checkpoint"].path).name, "sha256": files["checkpoint"].sha256},
        initial_conditions={**known.get("initial_conditions", {}), "sha256": files["initial_state"].sha256},
        versions=known.get("versions", {}),
        settings=settings,
        device=known.get("device", ""),
        acceleration=known.get("acceleration", {}),
        machine=known.get("machine", {}) | {key: known[key] for key in ("peak_gpu_mb",) if known.get(key)},
        timings=known.get("timings", {}),
        step_seconds=tuple(known.get("step_seconds", ())),
        attempts=tuple(
            cast(AttemptRecord, {key: value for key, value in attempt.items() if key not in long})
            for attempt in attempts
        ),
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
        for folder, files in ((request.coarse_leads, record.coarse_files), (request.forecasts, record.files)):
            for file in files:
                source = work.leads / file.name
                if source.exists():  # else delivered, and removed since
                    folder.mkdir(exist_ok=True)
                    link(source, folder / file.name)
    write_member_manifest(request.manifest, manifest)
