"""The bucket, named once: in the configuration's `destination`.

Snakemake wants it again as ``--default-storage-prefix`` as soon as jobs run on machines that share no
files with this one. The Snakefile calls `use_bucket`, which sets what that option would have set. It
runs after the profile and the command line were read and before any rule is, so every relative path of
a rule becomes an object under the destination, the sources go there for the jobs, and the commands of
remote jobs name it, because Snakemake writes them from the same settings.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, StorageError
from aifs_ensemble.delivery.standing import undelivered
from aifs_ensemble.workflow import snakemake_internals as internals

PROVIDER = "gcs"
_DESCRIBED_SECONDS = 20.0


def bucket_problem(config: Config) -> str | None:
    """Return why jobs cannot run on other machines with this configuration, or None when they can."""
    destination = config.destination
    if not destination:
        return (
            "config: destination is not set, so this profile only plans (-n): name your bucket once, "
            "destination: gs://BUCKET[/PREFIX] in config/operational.yaml or --config destination=gs://BUCKET"
        )
    if not str(destination).startswith("gs://"):
        return (
            f"config: destination: {destination!r} is a folder, expected gs://BUCKET[/PREFIX]: machines share no files"
        )
    return None


def use_bucket(workflow: Any, config: Config) -> bool:
    """Make the destination the workflow's default storage; return whether jobs run on other machines.

    Call it in the Snakefile before the rules are included. Where files are shared (local profile)
    nothing changes. Without a bucket a dry-run plans on local paths, so it needs no credentials;
    anything more is refused by `refuse_without_bucket`. So does a dry-run that has no credentials or
    project for the bucket, and a line says it. In a remote job, whose command line names provider and
    prefix, it only has the bucket looked at by listings. Raises ConfigError for a checkpoint that only
    this machine has, names that shells do not take, resources without a provider, and for missing
    credentials or a missing project.
    """
    from aifs_ensemble.workflow.routing import provider

    if internals.shares_files(workflow):
        return False
    planning = internals.is_dry_run(workflow)
    for one in config.of_each_model:
        _refuse_local_checkpoint(one)
    # before Snakemake writes a name into a command or asks a storage for it
    if internals.is_coordinator(workflow) and provider(workflow) == "local":
        raise ConfigError(
            "--default-resources: no provider among them, expected provider=coiled or provider=googlebatch: on the "
            "command line they take the place of all that the profile names"
        )
    if problem := bucket_problem(config):
        if provider(workflow) == "googlebatch":
            # this executor lets nobody say that files are shared, not even for a dry-run
            raise ConfigError(f"{problem}; a plan without a bucket: snakemake --profile coiled-gpu -n")
        # Snakemake refuses even a dry-run that shares no files and names no storage.
        internals.share_files(workflow)
        return True
    if not planning and not config.delivery.streaming:
        raise ConfigError(
            "config: delivery.streaming: false, expected true: machines that are rented keep nothing when they end"
        )
    if not internals.has_default_storage(workflow):
        if problem := _out_of_reach(workflow, config, planning=planning):
            if not planning or provider(workflow) == "googlebatch":
                raise ConfigError(problem)
            # after the jobs and the plan, where it is seen
            atexit.register(print, f"planned without looking into {config.destination}: {problem}", file=sys.stderr)
            internals.share_files(workflow)
            return True
        internals.use_default_storage(workflow, PROVIDER, str(config.destination).rstrip("/"))
    _look_by_listings(workflow, config)
    return True


def _look_by_listings(workflow: Any, config: Config) -> None:
    """Have Snakemake know the units' objects from listings instead of requests for each; here and in jobs."""
    # imports Google's library
    from aifs_ensemble.workflow.listed_bucket import StorageProvider

    provider = internals.replace_default_storage(workflow, PROVIDER, StorageProvider)
    below = internals.default_storage_prefix(workflow).removeprefix("gs://").partition("/")[2]
    provider.prefix, provider.units = f"{below}/" if below else "", frozenset(config.units)
    provider.delivered = lambda unit, member: not undelivered(config.of_unit(unit), [member])


def refuse_without_bucket(config: Config) -> None:
    """Raise ConfigError unless the destination is a bucket; for `onstart`, which a dry-run never reaches."""
    problem = bucket_problem(config)
    if problem:
        raise ConfigError(problem)


def _refuse_local_checkpoint(config: Config) -> None:
    """Raise ConfigError for a checkpoint that is a file here: Snakemake would run all its forecasts here, too."""
    named = config.checkpoint
    if named and not str(named).startswith("gs://"):
        raise ConfigError(
            f"config: checkpoint: {named!r} is a file of this machine, expected gs://BUCKET/OBJECT or null: "
            "rented machines share no files with it"
        )


def _out_of_reach(workflow: Any, config: Config, *, planning: bool) -> str | None:
    """Return why this machine cannot look into the bucket, where the storage plugin would fail with a stack, or None.

    Gives the plugin the project it requires, from the configuration or the usual variable.
    """
    from aifs_ensemble.common.storage import open_destination

    if planning:
        # read at Google's first import: who only plans does not wait long for a machine's identity
        os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    try:
        storage: Any = open_destination(config, within=_DESCRIBED_SECONDS)
        _refresh(storage.client._credentials)
    except StorageError as error:
        return str(error)
    given = internals.storage_plugin_settings(workflow, PROVIDER)
    given.project = config.cloud.project or given.project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not given.project:
        return "config: cloud.project is missing: a gs:// destination needs your Google Cloud project"
    # the plugin requires a project and makes its client without it
    os.environ.setdefault("GOOGLE_CLOUD_PROJECT", str(given.project))
    try:
        # the plugin asks for the bucket's description before it looks for an object, and fails with a stack
        storage.location()
    except StorageError as error:
        return str(error)
    return None


def _refresh(credentials: Any) -> None:
    """Raise StorageError for credentials that are there and give no access, such as a login that ended."""
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        if not credentials.valid:
            credentials.refresh(functools.partial(Request(), timeout=10))
    except GoogleAuthError as error:
        raise StorageError(
            f"gs://: application default credentials do not work ({' '.join(str(error).split())[:300]}), "
            "expected `gcloud auth application-default login` or a machine with an identity"
        ) from error
