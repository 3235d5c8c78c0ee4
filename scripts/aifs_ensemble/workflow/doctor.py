"""Is this machine fit for its part: coordinator, GPU machine or CPU machine?

Checks look and never change anything but a temporary file, on scratch and at the destination. Each gives one line;
none imports torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.gpu import cards, driver_version
from aifs_ensemble.common.models import check_listed
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.workflow import refusals
from aifs_ensemble.workflow.preflight import check_begun, check_destination, check_sources

ROLES = ("coordinator", "gpu", "cpu")
OK, WARNING, FAILURE = "ok", "warning", "failure"
_PACKAGES = {
    "coordinator": ("snakemake", "snakemake-storage-plugin-gcs", "google-cloud-storage"),
    "gpu": ("snakemake", "snakemake-storage-plugin-gcs", "torch", "anemoi-inference", "anemoi-models", "eccodes"),
    "cpu": ("snakemake", "snakemake-storage-plugin-gcs", "ecmwf-opendata", "mir-python", "eccodes"),
}
_SCRATCH_GB = {"coordinator": 0.1, "gpu": 20.0, "cpu": 2.0}


@dataclass(frozen=True)
class CheckResult:
    """One line: what was looked at, how it is, what was seen or is missing."""

    name: str
    state: str
    text: str


def examine(config: Config, role: str, files: Iterable[Path] = ()) -> list[CheckResult]:
    """Return what was found, in order; a check that breaks is a finding, not an error.

    `files` are those that the configuration was read from.
    """
    checks: list[Callable[[Config, str], Iterator[CheckResult]]] = [_system, _packages]
    if role == "gpu":
        checks += [_gpu, _model, _checkpoint]
    if role == "coordinator":
        checks += [_coiled, _cloud_settings, _model]
    checks += [_home, _scratch, _destination, _times]
    if role != "gpu":
        checks.append(_source)
    findings: list[CheckResult] = list(_machines_get(config, files)) if role == "coordinator" else []
    for check in checks:
        try:
            findings += check(config, role)
        except Exception as error:
            findings.append(CheckResult(check.__name__.strip("_"), FAILURE, " ".join(f"{error}".split())[:300]))
    return findings


def _system(config: Config, role: str) -> Iterator[CheckResult]:
    state = OK if sys.version_info >= (3, 11) else FAILURE
    yield CheckResult("python", state, f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs")
    if hasattr(os, "geteuid") and os.geteuid() == 0 and role != "coordinator":
        yield CheckResult("user", WARNING, "root; the images run as another user")


def _packages(config: Config, role: str) -> Iterator[CheckResult]:
    for name in _PACKAGES[role]:
        try:
            yield CheckResult(name, OK, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield CheckResult(name, FAILURE, "not installed")


def _gpu(config: Config, role: str) -> Iterator[CheckResult]:
    yield CheckResult("driver", OK, driver_version())
    needed = config.forecast.gpu_mem_mb
    if not (found := cards()):
        yield CheckResult("gpu", FAILURE, "the driver lists no card")
    for index, card in enumerate(found):
        free, total = card.memory_free / 2**20, card.memory_total / 2**20
        text = f"{card.name}, {free:.0f} of {total:.0f} MiB free, a member needs {needed}"
        yield CheckResult(f"gpu {index}", OK if free >= needed else FAILURE, text)


def _model(config: Config, role: str) -> Iterator[CheckResult]:
    check_listed(config.model, trust=config.trust_checkpoint)
    how = "trust_checkpoint is set" if config.trust_checkpoint else "built here" if config.model.built else "listed"
    yield CheckResult("model", OK, f"{config.model.name}, its checkpoint's digest: {how}")


def _checkpoint(config: Config, role: str) -> Iterator[CheckResult]:
    named = config.checkpoint
    if named is None or str(named).startswith("gs://"):
        yield CheckResult("checkpoint", OK, f"{named or 'made or fetched by the workflow'}, comes with the job")
    elif Path(named).is_file():
        yield CheckResult("checkpoint", OK, f"{named}, {Path(named).stat().st_size / 1e6:.0f} MB")
    else:
        yield CheckResult("checkpoint", FAILURE, f"{named}: no such file")


def _scratch(config: Config, role: str) -> Iterator[CheckResult]:
    scratch = config.scratch_root
    place = scratch
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    needed = _SCRATCH_GB[role]
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        # a coordinator in the cloud profiles computes nothing itself
        yield CheckResult(
            "scratch", WARNING if role == "coordinator" else FAILURE, f"{scratch}: not writable ({error})"
        )
        return
    text = f"{scratch}: {free:.1f} GB free, {needed:g} needed at least"
    yield CheckResult("scratch", OK if free >= needed else FAILURE, text)


def _destination(config: Config, role: str) -> Iterator[CheckResult]:
    if not config.destination:
        yield CheckResult("destination", WARNING, "not set: only plans are possible")
        return
    if not config.cloud_destination:
        try:
            check_destination(config)
            yield CheckResult("destination", OK, f"folder {config.destination}, can be written")
        except WorkflowError as error:
            yield CheckResult("destination", FAILURE, str(error))
        return
    from aifs_ensemble.common.storage import open_destination

    try:
        storage = open_destination(config)
        found = storage.stat(config.of_each_cycle[0].objects.ensemble_manifest)
        yield CheckResult("credentials", OK, f"{storage.url} answers{', ensemble there' if found else ''}")
        # Snakemake's storage plugin asks for the bucket's description before it looks for an object
        yield CheckResult("bucket", OK, f"in {storage.location()}")  # type: ignore[attr-defined]
    except WorkflowError as error:
        yield CheckResult("credentials", FAILURE, str(error))


def _coiled(config: Config, role: str) -> Iterator[CheckResult]:
    try:
        version = metadata.version("coiled")
    except metadata.PackageNotFoundError:
        yield CheckResult("coiled", WARNING, "not installed: only the googlebatch and local profiles work")
        return
    import dask.config

    token = dask.config.get("coiled.token", None) or os.environ.get("DASK_COILED__TOKEN")
    text = f"{version}, {'token set' if token else 'no token: coiled login'}"
    yield CheckResult("coiled", OK if token else WARNING, text)


def _machines_get(config: Config, files: Iterable[Path]) -> Iterator[CheckResult]:
    """Whether rented machines would get the checkout and the configuration, and could take the names in it."""
    here = Path.cwd()
    problems = [refusals.checkout_problem(here), refusals.outside(files, here)]
    # who delivers to a folder rents none
    wrong = FAILURE if config.cloud_destination else WARNING
    found = [CheckResult("checkout", wrong, problem) for problem in problems if problem]
    yield from found or [CheckResult("checkout", OK, f"{here}: machines get what git knows of it")]


def _home(config: Config, role: str) -> Iterator[CheckResult]:
    problem = refusals.home_problem()
    yield CheckResult("home", FAILURE if problem else OK, problem or f"{Path.home()} can be written")


def _times(config: Config, role: str) -> Iterator[CheckResult]:
    problem = None
    for one in config.of_each_cycle:
        seen = Destination(one) if one.cloud_destination else None
        problem = problem or refusals.time_problem(refusals.changed(one, seen), time.time())
    yield CheckResult("times", FAILURE if problem else OK, problem or "no checkpoint or initial state is of the future")


def _source(config: Config, role: str) -> Iterator[CheckResult]:
    """Whether the source of initial conditions has the cycle and its members, by its index files."""
    for one in config.of_each_cycle:
        check_begun(one)
    unknown = check_sources(config.of_each_cycle)
    source = config.initial_conditions.source
    whose = "its" if len(config.cycles) == 1 else "their"
    for line in unknown or [f"{source}: {name_cycles(config.cycles)} and {whose} members"]:
        yield CheckResult("source", WARNING if unknown else OK, line)


def _cloud_settings(config: Config, role: str) -> Iterator[CheckResult]:
    cloud = config.cloud
    for name in cloud.secrets:
        known = bool(os.environ.get(name))
        yield CheckResult("secret", OK if known else FAILURE, f"{name} is {'set' if known else 'not set here'}")
    missing = [key for key in ("project", "gpu_image", "cpu_image") if not getattr(cloud, key)]
    price = "spot" if cloud.spot else "on demand"
    text = f"regions {', '.join(cloud.regions)}; {cloud.gpu} and {cloud.cpu}; {price}"
    if missing:
        yield CheckResult("cloud", WARNING, f"{text}; not set: {', '.join(f'cloud.{key}' for key in missing)}")
    else:
        yield CheckResult("cloud", OK, text)
