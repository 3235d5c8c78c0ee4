"""One step of a checked model by both forward passes, on a device: compared and timed."""

from __future__ import annotations

from typing import Any

from aifs_ensemble.model.checkpoint.check import NOT_LOADED, Report


def tell_passes(report: Report, device: str, precision: str | None = None) -> None:
    """Put down how long a step takes by each pass on a device, and how far the two are apart.

    `precision` is of the accelerated pass, 16 without; the model's own has 16 beside fp8. The model is of no use
    afterwards. Where not even its own pass runs, the reason is told. Raises ConfigError where there is no such device,
    or none that has the precision.
    """
    if report.model is None:
        report.tell("passes", "compared", NOT_LOADED)
        return
    import torch

    from aifs_ensemble.common.errors import ConfigError
    from aifs_ensemble.model.measured_check import measure_check
    from aifs_ensemble.model.numerics import Numerics, why_no_float8
    from aifs_ensemble.model.stepper import resolve_device

    place = resolve_device(device)
    on_card = place.type == "cuda"
    report.tell("passes", "device", torch.cuda.get_device_name(place) if on_card else "cpu")
    if precision and not on_card:
        raise ConfigError(f"--precision: {precision}, expected none on a CPU: there is no accelerated pass to compare")
    numerics = Numerics(precision=precision or "16", compile=True, deterministic=True, chunks=16)
    if not on_card:
        numerics = Numerics(precision="32", compile=False, deterministic=True, chunks=1)
    numerics.refuse(why_no_float8(place))
    try:
        found = measure_check(report.model.to(place), place, numerics)
    except Exception as error:  # whatever a kernel or a compiler says is what the user is to read
        report.tell("passes", "own pass", f"fails ({type(error).__name__}: {' '.join(str(error).split())[:300]})")
        return
    for name, seconds in found.seconds.items():
        memory = f", {found.gpu_mb[name]:,.0f} MB" if name in found.gpu_mb else ""
        report.tell("passes", f"{name.partition(',')[0]} pass", f"{seconds:.4f} s a step{memory}")
    report.tell("passes", "used", str(found.acceleration))
    report.tell("passes", "difference", _difference(found.acceleration.self_check, found.acceleration.unchecked))


def _difference(check: Any, unchecked: str) -> str:
    if not check:
        return f"not compared{f': {unchecked}' if unchecked else ''}"
    of = f"of what a step changes ({check['variable']}), up to {check['threshold']:.0e} is taken"
    return f"{check['largest']:.1e} {of}"
