"""Plans for members that are not accelerated: what is known of that before a run, and what it changes.

Whether a checkpoint is accelerated shows on a card. A plan knows of it what the configuration says, the version of
anemoi-models in the catalogue, and what members say that were made before with the same model and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aifs_ensemble.common.acceleration import why_not_accelerated
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.forms import unknown_version
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.planning.throughput import Speed, Throughput

# Forward pass of the model's own, compiled and deterministic, over that of the accelerated one: 0.136 s and 0.0926 s on
# an H100 (docs/performance.md).
SLOWER = 1.47


def why_own_pass(config: Config, manifests: Sequence[MemberManifest]) -> str:
    """Return why members of a configuration are not accelerated on a GPU, empty where nothing says so.

    The newest of the `manifests` with the same model and numerics decides.
    """
    settings = Numerics.of(config)
    if settings.not_accelerated("cuda"):
        return ""  # the table has entries of those settings
    if not config.forecast.accelerate:
        return "forecast.accelerate is false"
    if unknown_version(config.model.anemoi_models):
        return f"{config.model.name} is of anemoi-models {config.model.anemoi_models}, which has no accelerated pass"
    alike = [one for one in manifests if one.model == config.model.name and _made_with(one, settings)]
    return why_not_accelerated(max(alike, key=_ended).acceleration) if alike else ""


def _made_with(manifest: MemberManifest, settings: Numerics) -> bool:
    made = manifest.settings
    asked = (settings.precision, settings.compile, settings.deterministic)
    return manifest.device != "cpu" and (made.get("precision"), made.get("compile"), made.get("deterministic")) == asked


def _ended(manifest: MemberManifest) -> str:
    return str(manifest.attempts[-1].get("ended", "")) if manifest.attempts else ""


def unmixed(manifests: Sequence[MemberManifest], *, own: bool) -> list[MemberManifest]:
    """Return the manifests that say how fast a pass is: of members made with the model's own, or of all others."""
    return [one for one in manifests if (one.settings.get("pass") == "own") == own]


def _setting(entry: Speed) -> tuple[str, str, str, bool]:
    return entry.model, entry.gpu, entry.precision, entry.deterministic


def without_acceleration(table: Throughput, model: Model, chunks: int) -> Throughput:
    """Return the table for members that are not accelerated: its entries with an accelerated pass are changed.

    Where the model's own pass was measured, that is taken. Memory is what the catalogue says of `chunks`.
    """
    own = {_setting(entry): entry for entry in table.entries if entry.way == "compiled"}

    def slower(entry: Speed) -> Speed:
        if entry.way != "accelerated" or entry.gpu == "cpu" or entry.precision not in ("16", "bf16"):
            return entry
        if measured := own.get(_setting(entry)):
            known = model.own_pass_mb(chunks) if model.chunked_gpu_mb else measured.peak_gpu_mb
            return replace(measured, accelerated=True, peak_gpu_mb=known)
        forward = SLOWER * entry.forward_seconds
        return replace(
            entry,
            forward_seconds=forward,
            step_seconds=entry.step_seconds + forward - entry.forward_seconds,
            peak_gpu_mb=max(entry.peak_gpu_mb, model.own_pass_mb(chunks)),
            status="estimated",
            source=f"estimated from {entry.gpu} with the accelerated pass, {SLOWER} times as fast as the model's own",
        )

    return replace(table, entries=tuple(slower(entry) for entry in table.entries))
