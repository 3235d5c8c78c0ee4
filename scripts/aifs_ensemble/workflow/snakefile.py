"""The logic of the Snakefile: the run's configuration, where its rules find and leave files, what it says.

`rules/common.smk` makes one `Run`. Names of files are those of `common.names`, with the wildcard ``{member}`` as
the member.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.models import fetched_by_coordinator
from aifs_ensemble.common.names import benchmark_file, checkpoint_file, log_file, report_folder
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.products.evaluation.due import evaluation_due, evaluation_files
from aifs_ensemble.products.statistics import choice
from aifs_ensemble.products.submission import submission_names, unmade_periods
from aifs_ensemble.workflow import bucket, preflight, refusals, routing
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.googlebatch.jobs import keep_jobs_at_exit
from aifs_ensemble.workflow.kept import Kept, delivered_elsewhere, forced, look, summaries
from aifs_ensemble.workflow.members_here import MembersHere
from aifs_ensemble.workflow.outdated import outdated
from aifs_ensemble.workflow.short_log import ShortNames
from aifs_ensemble.workflow.start import prepare_start

if TYPE_CHECKING:
    from aifs_ensemble.planning.outstanding import Outstanding

EACH = "{member}"
# folders of objects at the destination that jobs deliver themselves, checksums and all
_DELIVERED_BY_JOBS = ("forecasts", "products/maps", "products/meteograms")
# named by the profiles as the default resource `provider`
_PROFILES = {"coiled": "coiled-gpu"}


@dataclass(frozen=True)
class Paths:
    """Where rules find and leave files.

    With `rented` machines every relative path is an object under the destination: paths are keys. On one machine they
    are files on scratch or in the destination's folder.
    """

    config: Config
    rented: bool

    def between_machines(self, key: str) -> str:
        """Return a file that one job leaves for another: on scratch, or an object where machines share no files."""
        return key if self.rented else f"{self.config.scratch.root}/{key}"

    def delivered(self, key: str) -> str:
        """Return a file at the destination; of a bucket that this machine syncs to, the copy on scratch."""
        if self.rented:
            return key
        if self.config.cloud_destination or not self.config.destination:
            return str(self.config.scratch.copy(key))
        return f"{self.config.destination}/{key}"

    def receipt(self, member: str) -> str:
        """Return what says how a member is delivered: at the destination, or the copy on scratch of a bucket's."""
        if self.config.cloud_destination and not self.rented:
            return str(self.config.scratch.receipt(member))
        return self.delivered(self.config.objects.receipt(member))

    def manifest(self) -> str:
        """Return the manifest of each member at the destination."""
        return self.delivered(self.config.objects.manifest(EACH))

    def forecast_outputs(self) -> list[str]:
        """Return what each member's forecast declares, its manifest first.

        On rented machines, its leads are objects that the job delivers itself; a job that streams to a folder declares
        none, since Snakemake would remove what is delivered before it runs.
        """
        leads = self.config.leads if self.config.declare_leads else ()
        if self.config.delivery.streaming:
            if not self.rented or self.config.delivery.layout == "blocks":
                leads = ()
            return [self.manifest(), *(self.config.objects.lead(EACH, lead) for lead in leads)]
        scratch = self.config.scratch
        return [str(scratch.manifest(EACH)), *(str(scratch.lead(EACH, lead)) for lead in leads)]

    def sync_outputs(self) -> list[str]:
        """Return what the delivery of each member declares, its manifest first."""
        declared = self.config.declare_leads and not self.config.cloud_destination
        leads = self.config.leads if declared and self.config.delivery.layout != "blocks" else ()
        return [self.manifest(), *(self.delivered(self.config.objects.lead(EACH, lead)) for lead in leads)]

    def by_job(self, path: str) -> bool:
        """Tell whether a path is an object that jobs deliver themselves: Snakemake only looks whether it is there."""
        return self.rented and path.startswith(tuple(self.config.objects.folder(part) for part in _DELIVERED_BY_JOBS))

    def member_files(self) -> list[str]:
        """Return what says that each member is delivered; where leads are declared, a missing one is missed."""
        return self.forecast_outputs() if self.config.delivery.streaming else self.sync_outputs()

    def log(self, rule: str, member: str = "") -> str:
        """Return the log of a rule's job."""
        return log_file(self.config.cycle, rule, member)

    def report(self) -> str:
        """Return the folder of the report's pages, on this machine whatever the profile."""
        return report_folder(self.config.cycle)

    def benchmark(self, rule: str, member: str = "") -> str:
        """Return the table of what a rule's job took."""
        return benchmark_file(self.config.cycle, rule, member)


class Run:
    """A run of the workflow, made before the rules are read.

    Attributes
    ----------
    config, machines : the checked configuration; the machine types with the user's prices
    rented : with a profile of rented machines, every relative path of a rule is an object under the destination
    blind : without a bucket or credentials, a dry-run plans as if nothing were there
    path, keys : where rules find and leave files; names of objects under the destination
    members : the members as the wildcard spells them

    Raises ConfigError for a configuration that cannot run here, StorageError for a destination that takes no files.
    """

    def __init__(self, workflow: Any, config: Mapping[str, Any]):
        internals.filter_log(ShortNames())
        self._workflow = workflow
        self._outdated: frozenset[str] | None = None
        self._coordinates = internals.is_coordinator(workflow)
        self.config = Config(config, internals.config_files(workflow))
        prices = self.config.cloud.prices
        # the table of prices is the coordinator's: jobs elsewhere do not have the file
        self.machines = load_machines(prices=Path(prices) if prices and self._coordinates else None)
        self.rented = bucket.use_bucket(workflow, self.config)
        self.blind = self.rented and not internals.has_default_storage(workflow)
        if self._coordinates and not self.rented:
            # Snakemake looks for files there before anything starts, and a file in its way ends with a stack
            preflight.check_destination(self.config, write=False)
            preflight.check_scratch_folder(self.config, write=False)
        self.path = Paths(self.config, self.rented)
        self.keys = self.config.objects
        self.members = [f"{member:03d}" for member in self.config.members]

    def declared(self, paths: Iterable[str]) -> list[Any]:
        """Return paths as outputs or inputs of a rule: what jobs deliver themselves as objects that stay in place."""
        return [
            internals.delivered_object(self._workflow, path) if self.path.by_job(path) and not self.blind else path
            for path in paths
        ]

    def of_each_member(self, paths: Sequence[str]) -> list[Any]:
        """Return the paths of each member as inputs of a rule."""
        return self.declared(path.format(member=member) for member in self.members for path in paths)

    @cached_property
    def kept(self) -> Kept:
        """The members that stay as they are delivered, once the command line is known: told to jobs on this machine."""
        if not self._coordinates:
            return Kept() if internals.is_remote_job(self._workflow) else Kept.from_environment()
        rules, everything = internals.forced(self._workflow)
        found = Kept() if forced(rules, everything=everything) else self._delivered
        found.tell_jobs()
        return found

    @cached_property
    def _delivered(self) -> Kept:
        """The members that are delivered as asked for; VerificationError as `outdated` raises it."""
        return Kept() if self.blind else look(self.config, self._bucket, _say)

    def unless_kept(self, *paths: Any) -> Callable[[Any], list[Any]]:
        """Return an input function: what a member is made from, and nothing for one that stays as it is delivered."""

        def files(wildcards: Any) -> list[Any]:
            if wildcards.member in self.kept:
                return []
            return [path.format(member=wildcards.member) if type(path) is str else path for path in paths]

        return files

    def to_forecast(self, path: Any) -> Any:
        """Return an input of the forecast, which a delivered member does without where the forecast delivers."""
        if not (path and self.config.delivery.streaming):
            return path
        # one file: a script is given a list for a list
        return lambda wildcards: next(iter(self.unless_kept(path)(wildcards)), [])

    def unless_elsewhere(self, paths: Iterable[Any]) -> Any:
        """Return paths as inputs; of a bucket that this machine syncs to, those that it has not, or has copies of."""
        paths = list(paths)
        if self.rented or not self.config.cloud_destination:
            return paths
        return lambda wildcards: [path for path in paths if not self._elsewhere(path)]

    def _elsewhere(self, path: str) -> bool:
        key = self.config.scratch.copied_key(Path(path))
        if key is None:
            return False
        if self._coordinates:
            return delivered_elsewhere(self.config, self.kept, key, Path(path))
        # a job asks for what it was started with
        return any(key == self.keys.manifest(member) for member in self.kept.members) and not Path(path).exists()

    def compared(self, wildcards: Any) -> list[str]:
        """Return the summaries of initial states to compare: delivered members need none, and those that are count."""
        kept = self.kept
        if internals.is_remote_job(self._workflow):
            kept = look(self.config, self._bucket, _say)
        there = self._bucket.listed.__contains__ if self._bucket else self._on_scratch
        return [self.path.between_machines(key) for key in summaries(self.config, kept, there)]

    def comparison(self, wildcards: Any) -> list[str]:
        """Return the comparison of initial states as an input: none where no member is to be made."""
        whole = all(member in self.kept for member in self.members)
        return [] if whole else [self.path.between_machines(self.keys.initial_members)]

    def _on_scratch(self, key: str) -> bool:
        return Path(self.path.between_machines(key)).exists()

    def checkpoint(self) -> Any:
        """Return the checkpoint as an input: the user's own, or where it is built or fetched."""
        named = self.config.checkpoint
        if named and self.blind:
            return []
        if named and str(named).startswith("gs://"):
            return internals.storage_object(self._workflow, bucket.PROVIDER, named)
        return named or self.path.between_machines(checkpoint_file(self.config.model.name))

    def submissions(self) -> list[str]:
        """Return the keys of the files of a submission to AI Weather Quest."""
        return [self.keys.submission(name) for _, _, name in submission_names(self.config)]

    def statistics(self) -> list[choice.Chunk]:
        """Return the jobs that make statistics over the members."""
        return choice.chunks(self.config)

    def statistics_outputs(self, chunk: choice.Chunk) -> list[str]:
        """Return the files of one of them, in the order of `choice.outputs`."""
        return [self.path.delivered(key) for key in choice.outputs(self.config, chunk)]

    def weekly_members(self) -> list[str]:
        """Return the files of periods of each member; none without periods."""
        keys = [self.keys.weekly(member) for member in self.members] if self.config.periods else []
        return [self.path.delivered(key) for key in keys]

    def quintiles(self) -> list[str]:
        """Return the file of the probabilities of classes, if it is made."""
        made = self.config.periods and self.config.products.weekly.climatology
        return [self.path.delivered(self.keys.quintiles)] if made else []

    def pictures(self) -> list[str]:
        """Return all maps and meteograms."""
        from aifs_ensemble.products.pictures.catalogue import map_files, meteogram_files

        maps, meteograms = map_files(self.config), meteogram_files(self.config)
        return [self.path.delivered(key) for key in (*map(self.keys.map, maps), *map(self.keys.meteogram, meteograms))]

    def in_place(self, paths: Iterable[str]) -> list[Any]:
        """Return paths as inputs that a job does not read: objects of a bucket are looked for, not fetched."""
        given = self.rented and not self.blind
        return [internals.delivered_object(self._workflow, path) if given else path for path in paths]

    def products(self, *, page: bool = True) -> list[str]:
        """Return every product that the configuration asks for; the `page` names the others."""
        products, keys = self.config.products, self.keys
        wanted: list[str] = []
        if products.members.enabled:
            wanted += [keys.member_netcdf(member, products.grid) for member in self.members]
        if self.config.periods:
            wanted.append(keys.product("weekly/ensemble.nc"))
            if products.weekly.climatology:
                wanted += [keys.quintiles, *self.submissions()]
        for chunk in self.statistics():
            wanted += choice.outputs(self.config, chunk)
        if products.cube.enabled:
            wanted.append(keys.cube)
        if products.evaluation.enabled and evaluation_due(self.config):
            wanted += self.evaluation()
        if products.page.enabled and page:
            wanted.append(keys.page)
        pictures = self.pictures() if products.pictures.enabled else []
        return [*(self.path.delivered(key) for key in wanted), *pictures]

    def evaluation(self) -> list[str]:
        """Return the keys of the scores against analyses."""
        return [self.keys.evaluation(name) for name in evaluation_files(self.config)]

    def fetches_checkpoint(self) -> bool:
        """Tell whether the coordinator fetches the checkpoint, and no rented machine."""
        return fetched_by_coordinator(self.config.model, routing.provider(self._workflow))

    def outdated(self) -> frozenset[str]:
        """Return the manifests that hold something else than is asked for; read once, by the coordinator alone.

        Raises VerificationError for members that were delivered with other settings.
        """
        if self._outdated is None:
            self._outdated = self._read_outdated() if self._coordinates and not self.blind else frozenset()
        return self._outdated

    def _read_outdated(self) -> frozenset[str]:
        delivered = self.path.member_files()[0]
        receipts = {delivered.format(member=member): self.path.receipt(member) for member in self.members}
        summary = self.path.between_machines(self.keys.initial_summary(EACH))
        each = (self.path.forecast_outputs()[0], summary)
        manifests = {
            self.path.delivered(self.keys.ensemble_manifest),
            self.path.between_machines(self.keys.initial_cycle),
            *(path.format(member=member) for path in each for member in self.members),
            *receipts,
        }
        return frozenset(outdated(self.config, manifests, self._bucket, receipts=receipts))

    @cached_property
    def _bucket(self) -> Destination | None:
        """What rented machines have delivered; None where there are none, or nobody may look."""
        return Destination(self.config) if self.rented and not self.blind else None

    def again(self, manifest: str) -> Callable[[Any], list[str]]:
        """Return an input function without files: the job runs if its manifest is outdated, as if forced to."""

        def force(wildcards: Any) -> list[str]:
            path = manifest.format(**wildcards)
            if path in self.outdated():
                internals.force_job(self._workflow, path)
            return []

        return force

    @property
    def profile(self) -> str:
        """On whose machines the run is, as plans name it: ``local``, ``coiled-gpu`` or ``googlebatch``."""
        provider = routing.provider(self._workflow)
        return _PROFILES.get(provider, provider)

    def reported(self, pages: Any) -> Callable[[Any], list[Any]]:
        """Return an input function of the report: its `pages` are made anew, and nothing is computed for them.

        Where every member is delivered they wait for the ensemble's manifest, so that the report has the run's rules.
        """

        def files(wildcards: Any) -> list[Any]:
            internals.force_job(self._workflow, pages)
            whole = self.config.destination and all(member in self.kept for member in self.members)
            if not whole:
                return []
            manifest = self.unless_elsewhere([self.path.delivered(self.keys.ensemble_manifest)])
            return manifest(wildcards) if callable(manifest) else manifest

        return files

    def _refuse_impossible(self) -> None:
        """Refuse what no source has, from index files alone, where states are to be made."""
        if {"initial_cycle", "initial_member"} & internals.rules_to_run(self._workflow):
            _say(*filter(None, [preflight.check_source(self.config, None if self.rented else self.config.cache)]))

    def rules_are_read(self) -> None:
        """Give rules the machines they run on, refuse what cannot run, and announce the plan of a dry-run.

        Members that were delivered with other settings are refused here, in one line, before input functions meet
        them; Snakemake would show their errors with a stack.
        """
        routing.route_rules(self._workflow, self.config, self.machines)
        if self._coordinates and not (internals.is_lint(self._workflow) or internals.is_unlock()):
            preflight.check_begun(self.config)
            self.outdated()
            _ = self._delivered
        if self._coordinates and internals.is_dry_run(self._workflow):
            self._announce_plan()
        if self._coordinates:
            _say(*unmade_periods(self.config))

    def _announce_plan(self) -> None:
        """Say, in a few lines after everything else, what the run would take and cost that Snakemake has planned."""
        from aifs_ensemble.planning.outstanding import outstanding
        from aifs_ensemble.planning.plan import plan, plan_case
        from aifs_ensemble.planning.throughput import past_manifests

        work = outstanding(self.config, destination=self._bucket or self._delivered.seen)
        given: dict[str, Any] = {
            "profile": self.profile,
            "runs": past_manifests(self.config.scratch.root),
        }
        plan(plan_case(self.config, self.machines, work=work, **given))  # what is wrong is said now
        # jobs, and the groups of profile and command line, are known only once the rules are read
        atexit.register(self._say_plan, work, given)

    def _say_plan(self, work: Outstanding, given: Mapping[str, Any]) -> None:
        from aifs_ensemble.planning.outstanding import of_jobs
        from aifs_ensemble.planning.plan import plan, plan_case
        from aifs_ensemble.planning.plan_text import summary_lines

        jobs = internals.jobs_to_run(self._workflow, "member")
        if jobs is None:
            return  # Snakemake has said what is wrong
        members = {rule: {int(member) for member in found} for rule, found in jobs.items()}
        group = internals.group_size(self._workflow, "members")
        case = plan_case(self.config, self.machines, work=of_jobs(self.config, work, members), group=group, **given)
        at_once = internals.jobs_at_once(self._workflow, here=not self.rented)
        _say(*summary_lines(plan(case, at_once=at_once)))

    def start(self) -> None:
        """Refuse a run that has nowhere to deliver to, or no room, before anything is computed."""
        if self._coordinates:
            self._refuse_impossible()
        if self._coordinates and self.rented:
            prepare_start(self._workflow, self.config, self._bucket)
        elif self._coordinates:
            needed = internals.rules_to_run(self._workflow)
            here = MembersHere.of(self._workflow, self.config)
            here.tell_jobs()
            refusals.check(refusals.time_problem(internals.inputs_there(self._workflow), time.time(), tolerance=1.0))
            preflight.check_start(self.config, needed, here)
        if self._coordinates:
            self._show_members()

    def _show_members(self) -> None:
        """Have our logger plugin, where it is the run's, show the members from now on."""
        if {"forecast_member"} & internals.rules_to_run(self._workflow):
            for handler in internals.log_handlers(self._workflow):
                if hasattr(handler, "follow"):
                    from aifs_ensemble.workflow.members_view import MembersView  # rich is slow to import

                    handler.follow(MembersView(self.config, rented=self.rented, spending=self._spending))

    def _spending(self) -> str | None:
        """Return what machines of this run cost so far, None where that is not known or nothing."""
        provider = routing.provider(self._workflow)
        if provider == "coiled":
            from aifs_ensemble.workflow.coiled.hooks import spending_of
        elif provider == "googlebatch":
            from aifs_ensemble.workflow.googlebatch.spending import spending_of
        else:
            return None
        try:
            return spending_of(self.config)
        except WorkflowError as error:  # a service that does not answer now
            return f"rented: what it cost is unknown: {error}"

    def end(self, *, finished: bool) -> None:
        """Say where the files are, what each member took, and whether the ensemble is short."""
        if self._coordinates:
            from aifs_ensemble.workflow.closing import closing_lines

            for handler in internals.log_handlers(self._workflow):
                if hasattr(handler, "rest"):
                    handler.rest()
            if finished:
                keep_jobs_at_exit()
            _say(*closing_lines(self.config, finished=finished, rented=self.rented))
            _say(*filter(None, [self._spending()]))


def check_yaml(path: str) -> None:
    """Raise ConfigError, naming file and line, for a configuration that Snakemake would only call not valid YAML."""
    if Path(path).exists():
        read_files(Path(path))


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201
