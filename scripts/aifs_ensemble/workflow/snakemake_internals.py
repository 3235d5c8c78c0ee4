"""Everything that leans on Snakemake beyond what its documentation promises to a Snakefile, in one place.

Each function says what it leans on, and (in parentheses) the version in which that was seen; each has a test against
the installed Snakemake, which fails when a new one works otherwise. Snakemake is imported where it is used: a Snakefile
has it already, and commands that only look into modules beside this one do without.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from aifs_ensemble.common.errors import WorkflowError


class errors_in_one_line:  # noqa: N801 - used like a function
    """Have Snakemake show an error of ours as our commands do: ``Error:`` and its message, with no line of any program.

    Leans on Snakemake (9.27.1) printing a `CliException` so, unless its traceback leads through the Snakefile.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, WorkflowError):
            from snakemake.exceptions import CliException

            class Said(CliException):
                __traceback__ = property(lambda _: None, lambda *_: None)  # type: ignore[assignment]

            raise Said(str(error)) from None


def filter_log(seen_first: logging.Filter) -> None:
    """Have a filter see every record of Snakemake's log before it is shown; one of a class is enough.

    Leans on `snakemake.logging.logger` being the one logger, and on records naming files in `input`, `output`, `log`,
    `reason` and `job_error_info` (9.27.1).
    """
    from snakemake.logging import logger

    if not any(type(one) is type(seen_first) for one in logger.filters):
        logger.addFilter(seen_first)


def log_handlers(workflow: Any) -> list[Any]:
    """Return the logger plugins of this run. Leans on `Workflow.logger_manager` and its `get_log_handlers` (9.27.1)."""
    return list(workflow.logger_manager.get_log_handlers())


class FolderLockedError(Exception):
    """Another run has locked files that this one makes or reads, or has left such locks behind."""


@dataclass(frozen=True)
class FolderLock:
    """Snakemake's lock of a folder: its own folder there, how it is taken, and how all locks are removed.

    `take` returns what holds it; to enter that raises FolderLockedError where others have it.
    """

    folder: Path
    take: Callable[[], AbstractContextManager[None]]
    remove: Callable[[], None]


def around_lock(workflow: Any, around: Callable[[FolderLock], AbstractContextManager[None]]) -> None:
    """Have Snakemake hold what `around` makes of its lock in place of it: while jobs are started; not in a dry-run.

    Leans on `Workflow._prepare_dag` making `Workflow.persistence`; on its `path` and `lock`, which is another object of
    the instance where nothing is locked; on `cleanup_locks`, and on `_lockdir`, which that removes and nothing makes
    again: of a run that begins while another one ends, it is gone too (9.27.1).
    """
    from snakemake.exceptions import LockException

    prepare = workflow._prepare_dag

    def prepared(*given: Any, **named: Any) -> None:
        prepare(*given, **named)
        persistence = workflow.persistence
        if "lock" in vars(persistence):  # nothing is locked
            return
        snakemakes = persistence.lock

        @contextmanager
        def take() -> Iterator[None]:
            Path(getattr(persistence, "_lockdir", persistence.path)).mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                try:
                    stack.enter_context(snakemakes())
                except LockException:
                    raise FolderLockedError from None
                yield

        lock = FolderLock(Path(persistence.path), take, persistence.cleanup_locks)
        persistence.lock = lambda: around(lock)

    workflow._prepare_dag = prepared


def is_dry_run(workflow: Any) -> bool:
    """Tell whether this is a dry-run, however it was asked for.

    Leans on `Workflow.output_settings`, which Snakemake's command line sets before the Snakefile is read (9.27.1).
    `Workflow.dryrun` knows only afterwards, when the executor is chosen.
    """
    return bool(workflow.output_settings.dryrun)


def config_files(workflow: Any) -> list[Path]:
    """Return the files that the configuration was read from, later ones over earlier ones, as seen from here.

    Leans on `Workflow.overwrite_configfiles`, those of the command line, and on `Workflow.configfiles`, which has those
    of the Snakefile as well (9.27.1).
    """
    given = [Path(file) for file in workflow.overwrite_configfiles]
    own = [Path(file) for file in workflow.configfiles if Path(file) not in given]
    here = Path.cwd()
    return [file.relative_to(here) if file.is_relative_to(here) else file for file in [*own, *given]]


def given_config(workflow: Any) -> dict[str, Any]:
    """Return the keys that ``--config`` sets. Leans on `ConfigSettings.config` (9.27.1)."""
    return dict(workflow.config_settings.config)


def settle_config(workflow: Any, config: dict[str, Any], key: str, value: str | None) -> None:
    """Set a key of the configuration for this process and for all jobs of the run, as ``--config`` would.

    Leans on `ConfigSettings.config_args`, the ``KEY=VALUE`` of the command line, from which commands of jobs are
    written, here and on other machines (9.27.1).
    """
    config[key] = value
    settings = workflow.config_settings
    given = [item for item in settings.config_args or () if item.partition("=")[0] != key]
    settings.config_args = [*given, f"{key}={'null' if value is None else value}"]


def is_lint(workflow: Any) -> bool:
    """Tell whether Snakemake only checks the rules' style.

    Leans on `Workflow.check_envvars`, which is off for ``--lint`` alone (9.27.1).
    """
    return not workflow.check_envvars


def is_unlock() -> bool:
    """Tell whether Snakemake only unlocks the folder.

    Leans on `snakemake.cli.get_argument_parser` (9.27.1): no setting tells a Snakefile, so Snakemake's own parser reads
    the command line again where an option may be ``--unlock`` or short for it.
    """
    if not any(argument.startswith("--u") for argument in sys.argv):
        return False  # the parser takes 10 to 30 ms
    from snakemake.cli import get_argument_parser

    arguments, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    return bool(arguments.unlock)


def is_coordinator(workflow: Any) -> bool:
    """Tell whether this process is the one that a user started, and no job's. Leans on `is_main_process` (9.27.1)."""
    return bool(workflow.is_main_process)


def is_remote_job(workflow: Any) -> bool:
    """Tell whether this process is a job's on another machine. Leans on `Workflow.remote_exec` (9.27.1)."""
    return bool(workflow.remote_exec)


def shares_files(workflow: Any) -> bool:
    """Tell whether jobs run on machines that see the same files.

    Leans on `StorageSettings.shared_fs_usage` (9.27.1), which is ``--shared-fs-usage``.
    """
    from snakemake.settings.types import SharedFSUsage

    return SharedFSUsage.INPUT_OUTPUT in workflow.storage_settings.shared_fs_usage


def share_files(workflow: Any) -> None:
    """Take files as shared, as ``--shared-fs-usage`` without a value would: a dry-run then needs no storage.

    Leans on `StorageSettings.shared_fs_usage` being looked at after the Snakefile was read (9.27.1).
    """
    from snakemake.settings.types import SharedFSUsage

    workflow.storage_settings.shared_fs_usage = SharedFSUsage.all()


def has_default_storage(workflow: Any) -> bool:
    """Tell whether relative paths of rules are objects of a storage. Leans on `Workflow.storage_registry` (9.27.1)."""
    return workflow.storage_registry.default_storage_provider is not None


def use_default_storage(workflow: Any, provider: str, prefix: str) -> None:
    """Make relative paths of rules objects below `prefix`, as ``--default-storage-prefix`` would; before any rule.

    Leans on `StorageSettings`, from which remote jobs' commands are written, and on `StorageRegistry.register_storage`
    and `_default_storage_provider` (9.27.1).
    """
    workflow.storage_settings.default_storage_provider = provider
    workflow.storage_settings.default_storage_prefix = prefix
    registry = workflow.storage_registry
    registry._default_storage_provider = registry.register_storage(provider, is_default=True)


def replace_default_storage(workflow: Any, provider: str, made_by: type) -> Any:
    """Have objects of the default storage be those of `made_by`, a class over the plugin's provider; return one of it.

    Before any rule, on the coordinator and in jobs. Leans on the registry's plugin naming its class in
    `storage_provider`, by which `StorageRegistry.register_storage` makes one, and on `_default_storage_provider`
    (9.27.1).
    """
    from snakemake_interface_storage_plugins.registry import StoragePluginRegistry

    StoragePluginRegistry().get_plugin(provider).storage_provider = made_by
    registry = workflow.storage_registry
    registry._default_storage_provider = registry.register_storage(provider, is_default=True)
    return registry._default_storage_provider


def default_storage_prefix(workflow: Any) -> str:
    """Return how the default storage's objects begin. Leans on `StorageSettings.default_storage_prefix` (9.27.1)."""
    return str(workflow.storage_settings.default_storage_prefix or "").rstrip("/")


def delivered_object(workflow: Any, path: str) -> Any:
    """Return an output, or an input, that jobs deliver themselves: an object that Snakemake does not move.

    Leans on `storage_object` and its ``retrieve=False``, with which Snakemake neither retrieves nor stores (9.27.1).
    """
    registry = workflow.storage_registry
    query = f"{default_storage_prefix(workflow)}/{path}"
    return getattr(registry, workflow.storage_settings.default_storage_provider)(query, retrieve=False)


def has_inventory(cache: Any, parent: str) -> bool:
    """Tell whether Snakemake knows all of a folder of a storage. Leans on `ExistsDict.has_inventory` (9.27.1)."""
    return parent in cache.exists_in_storage.has_inventory


def note_inventory(cache: Any, parent: str) -> None:
    """Have Snakemake take what is not in its cache as absent from a folder, by its `get_inventory_parent`.

    Leans on `ExistsDict.has_inventory` (9.27.1).
    """
    cache.exists_in_storage.has_inventory.add(parent)


def is_active(cache: Any) -> bool:
    """Tell whether Snakemake remembers what it asks of files: while it plans. Leans on `IOCache.active` (9.27.1)."""
    return bool(cache.active)


def storage_plugin_settings(workflow: Any, provider: str) -> Any:
    """Return the settings of a storage plugin, to be changed before it is used.

    Leans on `Workflow.storage_provider_settings` and its settings without a tag (9.27.1).
    """
    return workflow.storage_provider_settings[provider].get_settings(None)


def storage_object(workflow: Any, provider: str, query: str) -> Any:
    """Return an object of a storage as an input of a rule; ``storage.PROVIDER(query)`` in a Snakefile.

    Leans on the Snakefile's `storage` being `Workflow.storage_registry` (9.27.1).
    """
    return getattr(workflow.storage_registry, provider)(query)


def default_resource(workflow: Any, name: str) -> str | None:
    """Return the text of a default resource, such as a profile sets; None where there is none.

    Leans on `ResourceSettings._parsed_default_resources` (9.27.1), and `Resource.raw` (9.27.1).
    """
    resource = workflow.resource_settings._parsed_default_resources.get(name)
    # an absent resource comes as None or, from 9.27 on, as one without a value
    raw = getattr(resource, "raw", None)
    return None if raw is None else str(raw).strip("'\"")


def rule_resource(rule: Any, name: str) -> str | None:
    """Return the text of a rule's resource; None where it has none.

    Leans on `Rule.resources` and `Resource.value` (9.27.1).
    """
    # a missing resource reads as one whose value is None
    resource = rule.resources.get(name)
    return None if resource is None or resource.value is None else str(resource.value)


def add_resources(rule: Any, resources: Mapping[str, Any]) -> None:
    """Add resources to a rule that was read, as its ``resources:`` would.

    Leans on `Rule.resources` being read later, and on `Resources.from_mapping` (9.27.1).
    """
    from snakemake.resources import Resources

    rule.resources.update(Resources.from_mapping(dict(resources)))


def limit_resource(workflow: Any, name: str, most: int) -> None:
    """Set how much of a resource jobs may use at once, as ``--resources`` would, unless that said so.

    Leans on `Workflow.global_resources` and `register_resource` (9.27.1).
    """
    if name not in workflow.global_resources:
        workflow.register_resource(name, most)


def resource_limit(workflow: Any, name: str) -> int | None:
    """Return the most of a resource that jobs may use at once; None without a limit.

    Leans on `Workflow.global_resources` (9.27.1).
    """
    # an absent resource comes as None or as one without a value
    value = getattr(workflow.global_resources.get(name), "value", None)
    return None if value is None else int(value)


def keep_going(workflow: Any) -> None:
    """Have this process start its other jobs when one has failed, as ``--keep-going`` would; while they are planned.

    Leans on `JobScheduler.keepgoing`, made of `ExecutionSettings.keep_going` once that is done (9.27.1).
    """
    workflow.execution_settings.keep_going = True
    if workflow.scheduler is not None:
        workflow.scheduler.keepgoing = True


def jobs_asked_for(workflow: Any, rule: str) -> list[Mapping[str, str]]:
    """Return the wildcards of each job of a rule that this process was started for; in a job on another machine.

    Leans on `DAGSettings.target_jobs` (9.27.1), which is ``--target-jobs``.
    """
    return [target.wildcards_dict for target in workflow.dag_settings.target_jobs if target.rulename == rule]


def force_job(workflow: Any, output: str) -> None:
    """Have the job of an output run, as if ``--forcerun`` had named it; within an input function of the job.

    The output may be a `delivered_object`. Leans on `DAG.forcefiles` being looked at after input functions, and on
    `PathModifier.apply_default_storage`, by which Snakemake spells the outputs of rules (9.27.1).
    """
    plain = type(output) is str
    workflow.dag.forcefiles.add(workflow.modifier.path_modifier.apply_default_storage(output) if plain else output)


def leave_updated(workflow: Any) -> None:
    """Have outputs flagged ``update`` stay as a job leaves them, also where it fails; within an input function of it.

    Snakemake would copy each aside before the job, put the copies back where it fails, remove what had none, and say a
    line of each. Leans on `Workflow.persistence` being there while jobs are made out, on its `backup_output` and
    `restore_output` being asked for such outputs alone, and on these staying that are restored (9.27.1).
    """

    def backup_output(path: Path) -> None:
        """Copy nothing."""

    def restore_output(path: Path) -> bool:
        """Answer that the file is as it should be: one that is not there is not missed either."""
        return True

    if "restore_output" in vars(workflow.persistence):
        return  # for the job of another member
    workflow.persistence.backup_output = backup_output
    workflow.persistence.restore_output = restore_output
    filter_log(_Restored())


class _Restored(logging.Filter):
    """Drops what Snakemake says of each output that `leave_updated` has left as it is.

    Leans on that beginning as it does, and on `snakemake.logging.logger` saying it (9.27.1).
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is of something else."""
        return not str(record.msg).startswith("Restored previous version of ")


def forced(workflow: Any) -> tuple[frozenset[str], bool]:
    """Return the rules and files that ``--forcerun`` names, and whether targets or everything is forced.

    Leans on `DAGSettings.forcerun`, `forcetargets` and `forceall` (9.27.1).
    """
    settings = workflow.dag_settings
    return frozenset(map(str, settings.forcerun)), bool(settings.forceall or settings.forcetargets)


def targets() -> frozenset[str]:
    """Return the rules and files that the command line asks for, none for the default.

    Leans on `snakemake.cli.get_argument_parser` (9.27.1): `DAGSettings.targets` is there only once the Snakefile is
    read.
    """
    from snakemake.cli import get_argument_parser

    arguments, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    return frozenset(arguments.targets)


def pass_variable(workflow: Any, name: str) -> None:
    """Have jobs on other machines find an environment variable as it is here; ``envvars:`` in a Snakefile.

    Leans on that being `Workflow.register_envvars` (9.27.1).
    """
    workflow.register_envvars(name)


def ended_by_failures(workflow: Any) -> bool:
    """Tell whether jobs have failed, and all others are done that need none of these; in ``onerror``.

    Not for a run that was stopped. Leans on `JobScheduler.keepgoing`, `failed`, `running`, `open_jobs`, `_user_kill`
    and `_executor_error` (9.27.1); of a run stopped by Ctrl-C jobs count as running.
    """
    found = workflow.scheduler
    stopped = found._user_kill or found._executor_error or found.running or list(found.open_jobs)
    return bool(found.keepgoing and found.failed and not stopped)


def rules_to_run(workflow: Any) -> set[str]:
    """Return the names of the rules that have jobs to run, in ``onerror`` of those that are not done.

    Leans on `DAG.needrun_jobs` (9.27.1).
    """
    return {job.rule.name for job in workflow.dag.needrun_jobs()}


def jobs_to_run(workflow: Any) -> list[tuple[str, Mapping[str, str]]] | None:
    """Return rule and wildcards of the jobs to run, once they are made out; None: unknown.

    Targets, ``--until`` and ``--omit-from`` are counted in, and what is there already. Leans on `DAG.jobs`,
    `DAG.needrun`, `Job.wildcards_dict`, and `DAG.targetjobs` being empty when jobs could not be made out (9.27.1).
    """
    dag = workflow.dag
    if dag is None or not dag.targetjobs:
        return None
    return [(job.rule.name, job.wildcards_dict) for job in dag.jobs if dag.needrun(job)]


def group_by(workflow: Any, rule: Any, name: Callable[[Mapping[str, str]], str | None]) -> None:
    """Divide the jobs of a rule by what `name` makes of their wildcards: into groups which count as the rule's.

    A job without a name stays in the group itself. Leans on `Job.group` asking `Rule.expand_group` once it is known
    which jobs run, and on `Workflow.parent_groupids`: whose ``--group-components`` a group has (9.27.1).
    """
    usual = rule.expand_group

    def expand_group(wildcards: Mapping[str, str]) -> str | None:
        group: str | None = usual(wildcards)
        own = name(wildcards) if group else None
        if own is None:
            return group
        workflow.parent_groupids[f"{group}-{own}"] = group
        return f"{group}-{own}"

    rule.expand_group = expand_group


def inputs_there(workflow: Any) -> dict[str, float]:
    """Return the files here that jobs to run read and none of them makes, and when these changed; in ``onstart``.

    Leans on `DAG.needrun_jobs`, `Job.input` and `Job.output` (9.27.1).
    """
    jobs = list(workflow.dag.needrun_jobs())
    made = {str(path) for job in jobs for path in job.output}
    read = {str(path) for job in jobs for path in job.input if not path.is_storage} - made
    return {path: Path(path).stat().st_mtime for path in sorted(read) if Path(path).exists()}


def jobs_at_once(workflow: Any, *, here: bool) -> int | None:
    """Return what ``-j`` says: cores for jobs that run here, else jobs on other machines; None where nothing says it.

    Leans on `ResourceSettings.cores` and `nodes` (9.27.1).
    """
    settings = workflow.resource_settings
    return settings.cores if here else settings.nodes


def cores(workflow: Any) -> int:
    """Return the cores that jobs here may use; in ``onstart``. Leans on `Workflow.cores` (9.27.1)."""
    return workflow.cores or 1


def group_size(workflow: Any, group: str) -> int:
    """Return how many jobs of a group go to one machine (``--group-components``); once the Snakefile was read.

    Leans on `Workflow.group_settings` (9.27.1), which the command line sets then.
    """
    return int(workflow.group_settings.group_components.get(group, 1))


def set_executor_project(workflow: Any, project: str | None) -> None:
    """Give the executor plugin a project, as ``--googlebatch-project`` would, if there is one; in ``onstart``.

    Leans on `Workflow.executor_settings` being the plugin's (9.27.1) and on its `project` (googlebatch 0.5.1).
    """
    workflow.executor_settings.project = project or workflow.executor_settings.project


def make_preemptible(workflow: Any, rules: Iterable[str]) -> None:
    """Have jobs of rules run on preemptible machines, as ``--preemptible-rules`` would, unless that said so.

    In ``onstart``. Leans on `RemoteExecutionSettings.preemptible_rules` (9.27.1).
    """
    from snakemake.settings.types import PreemptibleRules

    settings = workflow.remote_execution_settings
    if not (settings.preemptible_rules.all or settings.preemptible_rules.rules):
        settings.preemptible_rules = PreemptibleRules(rules=frozenset(rules))


def set_preemptible_retries(workflow: Any) -> None:
    """Set ``--preemptible-retries`` to ``--retries`` unless given; in ``onstart``.

    Leans on `RemoteExecutionSettings.preemptible_retries`, which Snakemake compares with attempts and leaves without
    a default, and on `ExecutionSettings.retries` (9.27.1).
    """
    settings = workflow.remote_execution_settings
    if settings.preemptible_retries is None:
        settings.preemptible_retries = workflow.execution_settings.retries
