"""The logic of the Snakefile: the run's configuration, what its rules ask for, what it says.

`rules/common.smk` makes one `Run`. What is of one unit, a cycle or that of one model, is in `workflow.cycle_run`.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.errors import ConfigError, WorkflowError
from aifs_ensemble.common.models import fetched_by_coordinator
from aifs_ensemble.common.names import checkpoint_file, count_members, format_members, unit_name
from aifs_ensemble.common.overlays import gpu_environment
from aifs_ensemble.common.units import each_unit, model_of, unit_of, unit_patterns
from aifs_ensemble.delivery.room import ToCome
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.outstanding import Outstanding, of_jobs, outstanding
from aifs_ensemble.products.statistics import choice
from aifs_ensemble.products.submission import unmade_periods
from aifs_ensemble.workflow import (
    bucket,
    ensemble_products,
    folder_lock,
    model_pairs,
    own_files,
    preflight,
    refusals,
    routing,
    second_pass,
)
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.cycle import settle, wait_for_sources
from aifs_ensemble.workflow.cycle_run import CycleRun, say
from aifs_ensemble.workflow.googlebatch.jobs import keep_jobs_at_exit
from aifs_ensemble.workflow.groups import group_by_unit
from aifs_ensemble.workflow.members_here import MembersHere
from aifs_ensemble.workflow.paths import Paths
from aifs_ensemble.workflow.run_hooks import RunHooks, writes
from aifs_ensemble.workflow.short_log import ShortNames
from aifs_ensemble.workflow.start import prepare_start
from aifs_ensemble.workflow.targets import no_input, no_rule

__all__ = ["Paths", "Run", "check_yaml"]

# named by the profiles as the default resource `provider`
_PROFILES = {"coiled": "coiled-gpu"}


class Run:
    """A run of the workflow, made before the rules are read.

    Attributes
    ----------
    config, machines : the checked configuration; the machine types with the user's prices
    rented : with a profile of rented machines, every relative path of a rule is an object under the destination
    blind : without a bucket or credentials, a dry-run plans as if nothing were there
    cycles : what is of each unit (`common.units`), by its name: of each cycle, with several models of those of each
    each : names of files for the rules. Of one unit they have it in them; of several, wildcards: ``{cycle}``, and with
        several models ``{model}``.
    each_day : the same, where a name has the cycle's day alone, too: ``{date}`` and ``{time}``
    each_model : names of files that are of a model, whatever the cycle; their logs are the first cycle's
    members : the members as the wildcard spells them

    Raises ConfigError for a configuration that cannot run here, StorageError for a destination that takes no files.
    """

    def __init__(self, workflow: Any, config: dict[str, Any]):
        internals.filter_log(ShortNames())
        if internals.is_coordinator(workflow):
            # Snakemake takes the last one of a key that is given twice
            read_files(*internals.config_files(workflow))
        self._workflow = workflow
        self._coordinates = internals.is_coordinator(workflow)
        # the one place where a run learns its cycles
        shared = internals.shares_files(workflow)
        refuse = preflight.refuse_without_destination if shared else bucket.refuse_without_bucket
        self._word = settle(workflow, config, say, refuse)
        self.config = Config(config, internals.config_files(workflow))
        self._hooks = RunHooks(self.config, say)
        if self._coordinates:
            folder_lock.hold(workflow, say)
        if self._coordinates and self.config.given.cycles is not None:
            # a file of cycles is this machine's, and may change while the run goes on
            internals.settle_config(workflow, config, "cycles", ",".join(self.config.cycles))
        if self._coordinates and len(self.config.models) > 1:
            # in words that every shell takes
            internals.settle_config(workflow, config, "model", ",".join(self.config.models))
            refusals.check(refusals.models_problem(self.config, routing.provider(workflow)))
        prices = self.config.cloud.prices
        # the table of prices is the coordinator's: jobs elsewhere do not have the file
        self.machines = load_machines(prices=Path(prices) if prices and self._coordinates else None)
        self.rented = bucket.use_bucket(workflow, self.config)
        self.blind = self.rented and not internals.has_default_storage(workflow)
        if self._coordinates and not self.rented:
            # Snakemake looks for files there before anything starts, and a file in its way ends with a stack
            preflight.check_destination(self.config, write=False)
            preflight.check_scratch_folder(self.config, write=False)
        self._told = ensemble_products.told_members()
        units = self.config.units
        # by its folder: the configuration of any cycle of a model, one object for all that have names alike
        self._like = {one.model_folder: one.of_cycle(one.cycles[0]) for one in self.config.of_each_model}
        self.cycles = {unit: self._of(unit) for unit in units}
        first = next(iter(self.cycles.values()))
        several = len(self.cycles) > 1
        self.each = self._of(each_unit(units)) if several else first
        self.each_day = self._of(each_unit(units, day=True)) if several else first
        of_model = unit_name(self.each.config.model_folder, first.config.cycle)
        self.each_model = self.cycles.get(of_model) or self._of(of_model)
        self.first = first
        self.members = first.members
        model_pairs.check_alike(tuple(self.cycles.values()))
        self.pairs = model_pairs.Pairs(workflow, self.config, self.cycles, rented=self.rented, blind=self.blind)

    def _of(self, unit: str) -> CycleRun:
        config = self.config.of_unit(unit)
        like = self._like.get(config.model_folder) or next(iter(self._like.values()))
        return CycleRun(self._workflow, config, like=like, rented=self.rented, blind=self.blind)

    def wildcard_constraints(self) -> dict[str, str]:
        """Return what wildcards stand for: nothing outside the configuration is made by the name of its file."""
        return {"member": "|".join(self.members), **unit_patterns(self.cycles)}

    def cycle(self, wildcards: Any) -> CycleRun:
        """Return the unit of a job; of one that names no cycle, the first of its model."""
        return self.cycles[self._unit(wildcards)]

    def _unit(self, wildcards: Any) -> str:
        unit = unit_of(wildcards) or unit_name(model_of(wildcards), self.first.config.cycle)
        return unit if unit in self.cycles else self.first.config.unit  # of a rule of the whole run

    def by_model(self, what: Callable[[CycleRun], Any]) -> Any:
        """Return a value of a rule that may differ by model: with several, a function of wildcards."""
        return what(self.first) if len(self.config.models) == 1 else self.of_cycle(what)

    def of_cycle(self, what: Callable[[CycleRun], Any]) -> Callable[[Any], Any]:
        """Return an input function of what a job needs of its cycle."""
        return lambda wildcards: what(self.cycle(wildcards))

    def of_each_cycle(self, what: Callable[[CycleRun], Iterable[Any]]) -> Any:
        """Return what is of each cycle as inputs; of a bucket that this machine syncs to, what it has not, or copies.

        Such a bucket is looked at once the command line is known.
        """
        # a second pass is for the cycles that are short
        cycles = [cycle for name, cycle in self.cycles.items() if self._told is None or name in self._told]
        if not self._has_copies:
            return [path for cycle in cycles for path in what(cycle)]
        return lambda wildcards: [path for cycle in cycles for path in what(cycle) if not cycle.elsewhere(path)]

    def compared(self) -> list[str]:
        """Return the files that compare two models, of every cycle of which there can be some; else none.

        In a second pass, those of a cycle whose members are all delivered, or are those of a short ensemble.
        """
        if not self.pairs.wanted:
            return []
        cycles = [cycle for cycle in self.config.cycles if all(map(self._may_be_compared, self.pairs.of(cycle)))]
        return [path for cycle in cycles for path in self.pairs.outputs(cycle)]

    def _may_be_compared(self, one: CycleRun) -> bool:
        if self._told is None or one.config.unit in self._told:
            return True
        return all(member in one.delivered for member in one.config.members)

    @property
    def _has_copies(self) -> bool:
        """Whether objects of a bucket have copies on scratch, by which Snakemake knows them."""
        return self.config.cloud_destination and not self.rented

    def of_each_member(self, paths: Sequence[str]) -> list[str]:
        """Return the paths of each member, of one cycle or (with ``{cycle}``) of any."""
        return [path.replace("{member}", member) for member in self.members for path in paths]

    def unless_kept(self, *paths: Any) -> Callable[[Any], list[Any]]:
        """Return an input function: what a member is made from, and nothing for one that stays as it is delivered."""

        def files(wildcards: Any) -> list[Any]:
            if wildcards.member in self.cycle(wildcards).kept:
                return []
            return [path.format(**wildcards) if type(path) is str else path for path in paths]

        return files

    def to_forecast(self, path: Any) -> Any:
        """Return an input of the forecast, which a delivered member does without where the forecast delivers."""
        if not (path and self.config.delivery.streaming):
            return path
        # one file: a script is given a list for a list
        given = path if callable(path) else lambda _: path
        return lambda wildcards: next(iter(self.unless_kept(given(wildcards))(wildcards)), [])

    def unless_elsewhere(self, paths: Sequence[str]) -> Any:
        """Return paths of a cycle as inputs; of a bucket that this machine syncs to, what it has not, or copies."""
        if not self._has_copies:
            return paths

        def files(wildcards: Any) -> list[str]:
            cycle = self.cycle(wildcards)
            return [path for path in (path.format(**wildcards) for path in paths) if not cycle.elsewhere(path)]

        return files

    def again(self, manifest: str) -> Callable[[Any], list[str]]:
        """Return an input function without files: the job runs if its manifest is outdated, as if forced to."""

        def force(wildcards: Any) -> list[str]:
            path = manifest.format(**wildcards)
            if path in self.cycle(wildcards).outdated():
                internals.force_job(self._workflow, path)
            return []

        return force

    def left_alone(self) -> Callable[[Any], list[str]]:
        """Return an input function without files: outputs flagged ``update`` stay where the job fails, uncopied."""

        def leave(_: Any) -> list[str]:
            internals.leave_updated(self._workflow)
            return []

        return leave

    def of_other_members(self, job: str) -> Callable[[Any], list[str]]:
        """Return an input function without files: a job whose products are of other members runs, as if forced to."""

        def force(wildcards: Any) -> list[str]:
            if not self.blind:
                self.cycle(wildcards).force_of_other_members(job)
            return []

        return force

    def checkpoint(self) -> Any:
        """Return the checkpoint as an input: the user's own, or where it is built or fetched."""
        return self.by_model(self._checkpoint_of)

    def _checkpoint_of(self, one: CycleRun) -> Any:
        named = one.config.checkpoint
        if named and self.blind:
            return []
        if named and str(named).startswith("gs://"):
            return internals.storage_object(self._workflow, bucket.PROVIDER, named)
        return named or one.path.between_machines(checkpoint_file(one.config.model.name))

    def checkpoint_made(self) -> str:
        """Return where checkpoints are built or fetched; empty where every model has the user's own."""
        if all(one.checkpoint for one in self.config.of_each_model):
            return ""
        return self.each_model.path.between_machines(checkpoint_file(self.each_model.config.model.name))

    def statistics(self) -> list[choice.Chunk]:
        """Return the jobs that make statistics over the members."""
        return choice.chunks(self.first.config)

    @property
    def gpu_software(self) -> Any:
        """The environment of jobs that load the model, by its file."""
        return self.by_model(lambda one: f"../envs/{gpu_environment(one.config.model)}.yaml")

    @property
    def builds(self) -> bool:
        """Whether a checkpoint is built, which takes the software of the GPU machines."""
        return any(one.model.built for one in self.config.of_each_model)

    def fetches_checkpoint(self) -> bool:
        """Tell whether the coordinator fetches the checkpoint, and no rented machine."""
        provider = routing.provider(self._workflow)
        return any(fetched_by_coordinator(one.model, provider) for one in self.config.of_each_model)

    def rules_are_read(self) -> None:
        """Give rules the machines they run on, refuse what cannot run, and announce the plan of a dry-run.

        Members that were delivered with other settings are refused here, in one line, before input functions meet
        them; Snakemake would show their errors with a stack.
        """
        for handler in internals.log_handlers(self._workflow) if self._coordinates else ():
            if hasattr(handler, "explain"):
                handler.explain(partial(no_rule, self.config), partial(no_input, self.config))
        routing.route_rules(self._workflow, self.config, self.machines)
        if len(self.cycles) > 1:
            group_by_unit(self._workflow, self.cycles)
        if self._coordinates and not (internals.is_lint(self._workflow) or internals.is_unlock()):
            for cycle in self.cycles.values():
                preflight.check_begun(cycle.config)
                cycle.outdated()
                _ = cycle.delivered
            self._tell_members_used()
        if self._coordinates and internals.is_dry_run(self._workflow):
            self._announce_plan()
        if self._coordinates:
            say(*dict.fromkeys(line for one in self.config.of_each_model for line in unmade_periods(one)))

    def _tell_members_used(self) -> None:
        """Have all jobs know of which members products are made, and say it, where they are not all."""
        used = {name: cycle.used for name, cycle in self.cycles.items()}
        short = {name: members for name, members in used.items() if members != self.config.members}
        if not short:
            return
        os.environ[environment.USED] = ensemble_products.as_told(short)
        if self.rented:
            internals.pass_variable(self._workflow, environment.USED)
        for name, members in short.items():
            left = set(self.config.members) - set(members)
            count = count_members(self.config.members, members)
            say(f"{name}: products of a short ensemble: {count}, without members {format_members(left)}")

    def _announce_plan(self) -> None:
        """Say, in a few lines after everything else, what the run would take and cost that Snakemake has planned."""
        from aifs_ensemble.planning.plans import plans_of_run, runs_of_models

        works = {
            name: outstanding(cycle.config, destination=cycle.bucket or cycle.delivered.seen)
            for name, cycle in self.cycles.items()
        }
        given: dict[str, Any] = {"profile": self.profile, "runs": runs_of_models(self.config)}
        plans_of_run(self.config, self.machines, works, **given)  # what is wrong is said now
        # jobs, and the groups of profile and command line, are known only once the rules are read
        atexit.register(self._say_plan, works, given)

    def _say_plan(self, works: Mapping[str, Outstanding], given: Mapping[str, Any]) -> None:
        from aifs_ensemble.planning.plans import plans_of_run, run_lines

        jobs = internals.jobs_to_run(self._workflow)
        if jobs is None:
            return  # Snakemake has said what is wrong
        planned: dict[str, dict[str, set[int]]] = {name: {} for name in self.cycles}
        for rule, wildcards in jobs:
            if rule in ensemble_products.PAIRS:
                continue  # of no unit, and counted by itself
            members = planned[self._unit(wildcards)].setdefault(rule, set())
            if "member" in wildcards:
                members.add(int(wildcards["member"]))
        of_run = {name: of_jobs(self.cycles[name].config, work, planned[name]) for name, work in works.items()}
        group = internals.group_size(self._workflow, "members")
        at_once = internals.jobs_at_once(self._workflow, here=not self.rented)
        found = plans_of_run(self.config, self.machines, of_run, group=group, at_once=at_once, **given)
        compared = sum(rule in ensemble_products.PAIRS for rule, _ in jobs)
        say(*run_lines(found, compared=compared))
        said = own_files.problems(self._rules_by_unit(jobs), self.config, rented=self.rented)
        say(*(f"warning: {one.text}{': this plans, a run would refuse' if one.refuses else ''}" for one in said))

    @property
    def profile(self) -> str:
        """On whose machines the run is, as plans name it: ``local``, ``coiled-gpu`` or ``googlebatch``."""
        provider = routing.provider(self._workflow)
        return _PROFILES.get(provider, provider)

    def reported(self, local: Callable[[str], Any]) -> Callable[[Any], list[Any]]:
        """Return an input function of the report: its pages are made anew, and nothing is computed for them.

        Where every member is delivered they wait for the ensemble's manifest, so that the report has the run's rules.
        `local` marks them as files of this machine.
        """

        def files(wildcards: Any) -> list[Any]:
            cycle = self.cycle(wildcards)
            internals.force_job(self._workflow, local(cycle.path.report()))
            whole = self.config.destination and all(member in cycle.kept for member in self.members)
            manifest = cycle.path.delivered(cycle.keys.ensemble_manifest)
            return [manifest] if whole and not (self._has_copies and cycle.elsewhere(manifest)) else []

        return files

    def report_labels(self) -> Any:
        """Return what tells the pages of a report apart: their names, and of several cycles the cycle, too."""
        if len(self.cycles) == 1:
            return {"page": "{page}"}
        return lambda wildcards, params: {"cycle": params.unit, "page": wildcards.page}

    def _refuse_impossible(self) -> None:
        """Refuse what no source has, from index files alone, where states are to be made; wait for it if asked to."""
        to_start = {
            self._unit(wildcards)
            for rule, wildcards in internals.jobs_to_run(self._workflow) or ()
            if rule in ("initial_cycle", "initial_member")
        }
        configs = [cycle.config for name, cycle in self.cycles.items() if name in to_start]
        if self.rented:  # of files that only an image has, this machine knows nothing
            configs = [one for one in configs if one.initial_conditions.source != "file"]
        cache = None if self.rented else self.config.cache
        wait_for_sources(configs, cache, say)
        say(*preflight.check_sources(configs, cache))

    def start(self) -> None:
        """Refuse a run that has nowhere to deliver to, no room or no inputs, or that another run is making."""
        if self._coordinates and self._told is not None:  # by the run that has the cycles for itself
            self._start()
        elif self._coordinates:
            self._hooks.begin(self._word, self._written(), self._start)

    def _written(self) -> tuple[str, ...]:
        """Return the units of which jobs to run leave something at the destination."""
        jobs = internals.jobs_to_run(self._workflow) or ()
        found = {unit for rule, wildcards in jobs if writes(rule) for unit in self._units(rule, wildcards)}
        return tuple(name for name in self.cycles if name in found)

    def _units(self, rule: str, wildcards: Any) -> list[str]:
        """Return the units that a job is of: those of both models, for a comparison."""
        models = self.config.models if rule in ensemble_products.PAIRS else [model_of(wildcards)]
        return [self._unit({**wildcards, "model": model}) for model in models]

    def _start(self) -> None:
        if self.rented:
            prepare_start(self._workflow, self.config, {name: cycle.bucket for name, cycle in self.cycles.items()})
        else:
            needed = internals.rules_to_run(self._workflow)
            here = MembersHere.of(self._workflow, self.config)
            here.tell_jobs()
            refusals.check(refusals.time_problem(internals.inputs_there(self._workflow), time.time(), tolerance=1.0))
            preflight.check_start(self.config, needed, here)
            preflight.check_destination_room(self.config, self._to_come(), here.at_once)
        self._look_for_own_files()
        self._refuse_impossible()  # last, for it may wait for hours
        self._show_members()

    def _rules_by_unit(self, jobs: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, set[str]]:
        """Return the rules of jobs to run, given by rule and wildcards, by unit."""
        found: dict[str, set[str]] = {name: set() for name in self.cycles}
        for rule, wildcards in jobs:
            for unit in self._units(rule, wildcards):
                found[unit].add(rule)
        return found

    def _look_for_own_files(self) -> None:
        """Refuse a run whose jobs would miss files of the user's; say which others there are not."""
        jobs = internals.jobs_to_run(self._workflow) or ()
        found = own_files.problems(self._rules_by_unit(jobs), self.config, rented=self.rented)
        if refused := [one.text for one in found if one.refuses]:
            raise ConfigError("\n  ".join(refused))
        say(*(one.text for one in found))

    def _to_come(self) -> dict[str, ToCome]:
        """Return by unit which members jobs to run forecast and deliver."""
        delivers = "forecast_member" if self.config.delivery.streaming else "sync_member"
        found: dict[str, dict[str, set[int]]] = {}
        for rule, wildcards in internals.jobs_to_run(self._workflow) or ():
            if rule in ("forecast_member", "sync_member"):
                of_rule = found.setdefault(self._unit(wildcards), {})
                of_rule.setdefault(rule, set()).add(int(wildcards["member"]))
        come = {}
        for unit, members in found.items():
            seen = self.cycles[unit].delivered.seen
            listed = seen.listed if seen else ()
            come[unit] = ToCome(members.get(delivers, ()), members.get("forecast_member", ()), listed)
        return come

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
            say(*closing_lines(self.config, finished=finished, rented=self.rented))
            say(*filter(None, [self._spending()]))
            if self._told is not None:
                return  # the run that started this one has the cycle, and tells how it ended
            if not finished:
                second_pass.make_products(self._workflow, {name: one.config for name, one in self.cycles.items()}, say)
            self._hooks.end(finished=finished)


def check_yaml(path: str) -> None:
    """Raise ConfigError, naming file and line, for a configuration that Snakemake would only call not valid YAML."""
    if Path(path).exists():
        read_files(Path(path))
