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
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.files import folder_problem
from aifs_ensemble.common.gpu import cards, driver_version
from aifs_ensemble.common.models import check_listed
from aifs_ensemble.common.storage import Storage, open_destination, open_storage, transfer_settings
from aifs_ensemble.delivery.lease import RunLease
from aifs_ensemble.delivery.room import ToCome
from aifs_ensemble.delivery.standing import Destination, on_scratch
from aifs_ensemble.model.checkpoint.digest import compute_digest
from aifs_ensemble.planning.machines import machines_of
from aifs_ensemble.planning.own_pass import why_own_pass
from aifs_ensemble.workflow import refusals
from aifs_ensemble.workflow.ensemble_products import jobs_of_ensemble
from aifs_ensemble.workflow.notify import check_notify, program_problem
from aifs_ensemble.workflow.own_files import INITIAL, files_read, problems
from aifs_ensemble.workflow.preflight import check_begun, check_destination, check_destination_room, check_sources

ROLES = ("coordinator", "gpu", "cpu")
OK, WARNING, FAILURE = "ok", "warning", "failure"
_PACKAGES = {
    "coordinator": ("snakemake", "snakemake-storage-plugin-gcs", "google-cloud-storage"),
    "gpu": ("snakemake", "snakemake-storage-plugin-gcs", "torch", "anemoi-inference", "anemoi-models", "eccodes"),
    "cpu": ("snakemake", "snakemake-storage-plugin-gcs", "ecmwf-opendata", "mir-python", "eccodes"),
}
_ANSWER_SECONDS = 20.0
_SCRATCH_GB = {"coordinator": 0.1, "gpu": 20.0, "cpu": 2.0}


@dataclass(frozen=True)
class CheckResult:
    """One line: what was looked at, how it is, what was seen or is missing."""

    name: str
    state: str
    text: str


def examine(config: Config, role: str, files: Iterable[Path] = (), profile: str | None = None) -> list[CheckResult]:
    """Return what was found, in order; a check that breaks is a finding, not an error.

    `files` are those that the configuration was read from. `profile` says on whose machines jobs run, as plans name
    them: what those need is then a failure where it is missing, and what others need is not looked at.
    """
    checks: list[Callable[[Config, str], Iterator[CheckResult]]] = [_system, _packages]
    rents = role == "coordinator" and profile != "local"
    if role == "gpu":
        checks += [_gpu]
    if rents and profile != "googlebatch":
        checks.append(partial(_coiled, needed=profile is not None))
    if rents:
        checks += [_cloud_settings, _prices]
    if role != "cpu":
        checks += [_model, _checkpoint]
    checks += [_home, _scratch, _destination, _times]
    if role == "coordinator":
        checks += [_other_run, _notified]
    if role != "gpu":
        checks += [partial(_own_files, rented=role == "coordinator" and profile not in (None, "local")), _source]
    findings: list[CheckResult] = list(_machines_get(config, files)) if rents else []
    for check in checks:
        of_each = [(one, list(_findings(check, one, role))) for one in config.of_each_model]
        for place, (one, found) in enumerate(of_each):
            # what is the same of both models is said once
            alike = all(found == other for _, other in of_each)
            named = f"{one.model.name}: " if one.model_folder and not alike else ""
            if place == 0 or not alike:
                findings += [replace(each, text=f"{named}{each.text}") for each in found]
    return [*findings, *_findings(_room, config, role)]


def _findings(
    check: Callable[[Config, str], Iterator[CheckResult]], config: Config, role: str
) -> Iterator[CheckResult]:
    try:
        yield from check(config, role)
    except Exception as error:
        name = getattr(check, "func", check).__name__.strip("_")
        yield CheckResult(name, FAILURE, " ".join(f"{error}".split())[:300])


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
    needed: float = config.forecast.gpu_mem_mb
    if why_own_pass(config, ()):
        needed = max(needed, config.model.own_pass_mb(config.forecast.chunks))
    if not (found := cards()):
        yield CheckResult("gpu", FAILURE, "the driver lists no card")
    for index, card in enumerate(found):
        free, total = card.memory_free / 2**20, card.memory_total / 2**20
        text = f"{card.name}, {free:.0f} of {total:.0f} MiB free, a member needs {needed:.0f}"
        yield CheckResult(f"gpu {index}", OK if free >= needed else FAILURE, text)


def _model(config: Config, role: str) -> Iterator[CheckResult]:
    check_listed(config.model, trust=config.trust_checkpoint)
    how = "trust_checkpoint is set" if config.trust_checkpoint else "built here" if config.model.built else "listed"
    yield CheckResult("model", OK, f"{config.model.name}, its checkpoint's digest: {how}")


def _checkpoint(config: Config, role: str) -> Iterator[CheckResult]:
    """Whether the checkpoint is there, and the one listed; of one in a bucket the digest is known once it is here."""
    named, listed = config.checkpoint, config.model.checkpoint.get("sha256")
    if named is None:
        made = "built by the workflow" if config.model.built else "fetched by the workflow"
        yield CheckResult("checkpoint", OK, made)
    elif str(named).startswith("gs://"):
        place, _, name = str(named).rpartition("/")
        found = open_storage(place, transfer_settings(config)).stat(name) if role == "coordinator" else None
        if role == "coordinator" and found is None:
            yield CheckResult("checkpoint", FAILURE, f"{named}: no such object")
        else:
            yield CheckResult(
                "checkpoint", OK, f"{named}, {f'{found.size / 1e6:.0f} MB' if found else 'comes with the job'}"
            )
    elif not Path(named).is_file():
        yield CheckResult("checkpoint", FAILURE, f"{named}: no such file")
    else:
        size = f"{named}, {Path(named).stat().st_size / 1e6:.0f} MB"
        if not listed or (digest := compute_digest(Path(named))) == listed:
            yield CheckResult("checkpoint", OK, size)
        else:
            state = WARNING if config.trust_checkpoint else FAILURE
            yield CheckResult("checkpoint", state, f"{size}: sha256 {digest}, expected {listed}")


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
    try:
        storage = open_destination(config)
        found = storage.stat(config.of_each_cycle[0].objects.ensemble_manifest)
        yield CheckResult("credentials", OK, f"{storage.url} answers{', ensemble there' if found else ''}")
        if role == "coordinator":
            yield _can_write(storage)
        # Snakemake's storage plugin asks for the bucket's description before it looks for an object
        yield CheckResult("bucket", OK, f"in {storage.location()}")  # type: ignore[attr-defined]
    except WorkflowError as error:
        yield CheckResult("credentials", FAILURE, str(error))


def _room(config: Config, role: str) -> Iterator[CheckResult]:
    """Whether a folder has room for what is still to come of all cycles and models, as a run would find it."""
    if not config.destination or config.cloud_destination or folder_problem(Path(config.destination)):
        return  # which `_destination` tells
    work = {}
    for one in config.of_each_cycle:
        there = Destination(one)
        members = [member for member, standing in there.standings().items() if not standing.done]
        forecast = [member for member in members if not on_scratch(one, member).done]
        work[one.unit] = ToCome(members, forecast, there.listed)
    yield CheckResult("room", OK, check_destination_room(config, work, at_once=1) or "")


def _can_write(storage: Storage) -> CheckResult:
    """Whether objects can be made and removed: one without content is."""
    key = f"doctor-{uuid.uuid4().hex}"
    try:
        storage.delete(key, generation=storage.put_bytes(b"", key).generation)
    except WorkflowError as error:
        return CheckResult("destination", FAILURE, str(error))
    return CheckResult("destination", OK, f"{storage.url}, can be written")


def _coiled(config: Config, role: str, *, needed: bool) -> Iterator[CheckResult]:
    """Whether Coiled is installed and knows us; the service is asked only where it is `needed`."""
    missing = FAILURE if needed else WARNING
    try:
        version = metadata.version("coiled")
    except metadata.PackageNotFoundError:
        yield CheckResult("coiled", missing, "not installed: only the googlebatch and local profiles work")
        return
    from snakemake_executor_plugin_coiled.service import Service, token_problem

    if problem := token_problem():
        yield CheckResult("coiled", missing, f"{version}, no token: {problem.partition(': ')[2]}")
    elif needed and (refused := _answer_within(lambda: Service(config.cloud.workspace).cloud())):
        yield CheckResult("coiled", FAILURE, f"{version}, {refused}")
    else:
        yield CheckResult("coiled", OK, f"{version}, {'answers' if needed else 'token set'}")


def _answer_within(ask: Callable[[], object]) -> str | None:
    """Return why a service does not answer as it should, or None; a client that waits for longer is left to itself."""
    said = ["does not answer"]

    def wait() -> None:
        try:
            ask()
            said.clear()
        except Exception as error:
            said[:] = [" ".join(f"{type(error).__name__}: {error}".split())[:300]]

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return said[0] if said else None


def _prices(config: Config, role: str) -> Iterator[CheckResult]:
    """How old the prices are that plans and accounts of this configuration use."""
    machines = machines_of(config)
    used = [machines.types[name] for name in (config.cloud.gpu, config.cloud.cpu)]
    today = clock.now().date()
    lists = machines.price_lists(used, config.cloud.regions[0])
    state = WARNING if any(one.is_old(today) for one in lists) else OK
    yield CheckResult("prices", state, "; ".join(one.label(today) for one in lists))


def _other_run(config: Config, role: str) -> Iterator[CheckResult]:
    if config.destination:
        storage = open_destination(config)
        held = [said for one in config.of_each_cycle if (said := RunLease(one, storage).held())]
        yield from (CheckResult("run", WARNING, said) for said in held)
        if not held:
            yield CheckResult("run", OK, f"nobody else makes {name_cycles(config.cycles)}")


def _notified(config: Config, role: str) -> Iterator[CheckResult]:
    check_notify(config)
    if config.notify.command or config.notify.url:
        missing = program_problem(config)
        yield CheckResult("notify", FAILURE if missing else OK, missing or "whom a run tells can be told")


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


def _own_files(config: Config, role: str, *, rented: bool) -> Iterator[CheckResult]:
    """Whether the user's files are there that products read, and come to rented machines."""
    rules = {one.unit: {*jobs_of_ensemble(one, one), *INITIAL} for one in config.of_each_cycle}
    found = problems(rules, config, rented=rented)
    for one in found:
        yield CheckResult("files", FAILURE if one.refuses else WARNING, one.text.removeprefix("config: "))
    keys = {file.key for one in config.of_each_cycle for file in files_read(one, rules[one.unit])}
    if keys and not found:
        yield CheckResult("files", OK, f"{', '.join(sorted(keys))}: {'known to git' if rented else 'there'}")


def _source(config: Config, role: str) -> Iterator[CheckResult]:
    """Whether the source of initial conditions has the cycle and its members, by its index files."""
    for one in config.of_each_cycle:
        check_begun(one)
    unknown = check_sources(config.of_each_cycle)
    source = config.initial_conditions.source
    if not unknown and source != "idealised":
        from aifs_ensemble.initial.newest import Availability  # not every machine has the client of open data

        availability = Availability()
        lacking = {one.cycle: missing for one in config.of_each_cycle if (missing := availability.lacking(one))}
        yield from (CheckResult("source", FAILURE, f"{cycle}: {missing}") for cycle, missing in lacking.items())
        if lacking:
            return
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
