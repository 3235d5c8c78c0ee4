"""What the Snakefile asks of one unit of a run (`common.units`), such as a cycle.

Those are its files, which members stay as they are, and which manifests are made again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.products.evaluation.due import evaluation_files
from aifs_ensemble.products.statistics import choice
from aifs_ensemble.products.submission import submission_names
from aifs_ensemble.workflow import ensemble_products, second_pass
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.kept import Kept, delivered_elsewhere, forced, look, summaries
from aifs_ensemble.workflow.outdated import outdated
from aifs_ensemble.workflow.paths import EACH, Paths


class CycleRun:
    """The part of a run that is of one unit; of `units.each_unit`, the names of files that stand for those of any.

    Attributes
    ----------
    config : the configuration of the unit
    like : that of any cycle of the run, for names which all cycles have alike
    rented, blind : those of the run
    path, keys : where rules find and leave files; names of objects under the destination
    members : the members as the wildcard spells them
    used : the members that products are made of, fewer where the ensemble is short: see `workflow.second_pass`
    """

    def __init__(self, workflow: Any, config: Config, *, like: Config, rented: bool, blind: bool):
        self._workflow = workflow
        self._coordinates = internals.is_coordinator(workflow)
        self._outdated: frozenset[str] | None = None
        self.config, self._like, self.rented, self.blind = config, like, rented, blind
        self.path = Paths(config, rented)
        self.keys = config.objects
        self.members = [f"{member:03d}" for member in config.members]

    def declared(self, paths: Iterable[str]) -> list[Any]:
        """Return paths as outputs or inputs of a rule: what jobs deliver themselves as objects that stay in place."""
        return [
            internals.delivered_object(self._workflow, path) if self.path.by_job(path) and not self.blind else path
            for path in paths
        ]

    def of_each_member(self, paths: Sequence[str]) -> list[Any]:
        """Return the paths of each member used as inputs of a rule, whether wildcards or this unit is in them.

        Of a member whose leads retention took, its manifest alone.
        """
        cycle, model = self.config.cycle, self.config.model_folder
        return self.declared(
            path.format(model=model, cycle=cycle, member=member)
            for member in (f"{number:03d}" for number in self.used)
            for path in (paths[:1] if self._thinned(member) else paths)
        )

    def _thinned(self, member: str) -> bool:
        """Tell whether the destination has a record that something of a member was removed."""
        key = self.config.objects.retention(member)
        if self.rented:
            return self._coordinates and self.bucket is not None and key in self.bucket.listed
        return not self.config.cloud_destination and (Path(self.config.destination or "") / key).exists()

    def in_place(self, paths: Iterable[str]) -> list[Any]:
        """Return paths as inputs that a job does not read: objects of a bucket are looked for, not fetched."""
        given = self.rented and not self.blind
        return [internals.delivered_object(self._workflow, path) if given else path for path in paths]

    # what is there

    @cached_property
    def bucket(self) -> Destination | None:
        """What rented machines have delivered; None where there are none, or nobody may look."""
        return Destination(self.config) if self.rented and not self.blind else None

    @cached_property
    def delivered(self) -> Kept:
        """The members that are delivered as asked for; VerificationError as `outdated` raises it."""
        return Kept() if self.blind else look(self.config, self.bucket, say)

    @cached_property
    def kept(self) -> Kept:
        """The members that stay as they are delivered, once the command line is known: told to jobs on this machine."""
        if not self._coordinates:
            remote = internals.is_remote_job(self._workflow)
            return Kept() if remote else Kept.from_environment(self.config.unit)
        rules, everything = internals.forced(self._workflow)
        found = Kept() if forced(rules, everything=everything) else self.delivered
        found.tell_jobs(self.config.unit)
        return found

    def elsewhere(self, path: str) -> bool:
        """Tell whether a file is the copy of an object of a bucket that needs none, since the bucket has it."""
        key = self.config.scratch.copied_key(Path(path))
        if key is None:
            return False
        if self._coordinates:
            again = key in self._keys_again
            return not again and delivered_elsewhere(self.config, self.kept, key, Path(path), self.used)
        # a job asks for what it was started with
        return any(key == self.keys.manifest(member) for member in self.kept.members) and not Path(path).exists()

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
        below = self.path.of_run("") if self.rented else ""  # the bucket of the model's, and names of the run's
        found = outdated(
            self.config,
            {path.removeprefix(below) for path in manifests},
            self.bucket,
            receipts={path.removeprefix(below): receipt.removeprefix(below) for path, receipt in receipts.items()},
        )
        return frozenset(below + path for path in found)

    # initial states

    def compared(self) -> list[str]:
        """Return the summaries of initial states to compare: delivered members need none, and those that are count."""
        kept = self.kept
        if internals.is_remote_job(self._workflow):
            kept = look(self.config, self.bucket, say)
        there = self.bucket.listed.__contains__ if self.bucket else self._on_scratch
        return [self.path.between_machines(key) for key in summaries(self.config, kept, there)]

    def comparison(self) -> list[str]:
        """Return the comparison of initial states as an input: none where no member is to be made."""
        whole = all(member in self.kept for member in self.used)
        return [] if whole else [self.path.between_machines(self.keys.initial_members)]

    def _on_scratch(self, key: str) -> bool:
        return Path(self.path.between_machines(key)).exists()

    # products

    @cached_property
    def used(self) -> tuple[int, ...]:
        """The members that products are made of: of a run that asks for nothing else, those of a short ensemble.

        Jobs, and the second pass of a run, are told.
        """
        told = ensemble_products.told_members()
        if told is not None:
            return told.get(self.config.unit, self.config.members)
        if not (self._coordinates and second_pass.only_products()):
            return self.config.members
        there = self.bucket or self.delivered.seen
        short = ensemble_products.accepted_as_short(there) if there else None
        listed = tuple(entry.member for entry in short.members) if short else ()
        return listed if listed and all(member in self.delivered for member in listed) else self.config.members

    @cached_property
    def jobs_of_ensemble(self) -> dict[str, list[str]]:
        """The keys of the products of all members, by job."""
        return ensemble_products.jobs_of_ensemble(self.config, self._like)

    @cached_property
    def _made_before(self) -> ensemble_products.MadeBefore:
        there, copies = self.bucket or self.delivered.seen, bool(self.config.cloud_destination) and not self.rented
        jobs = self.jobs_of_ensemble
        return ensemble_products.MadeBefore(self.config, jobs, self.used, self.delivered, there, copies=copies)

    @cached_property
    def _keys_again(self) -> frozenset[str]:
        return self._made_before.keys_again()

    def force_of_other_members(self, job: str) -> None:
        """Have a job run whose products are there, and are not of the members to be used; in its input function."""
        if self._coordinates and self._made_before.why_again(job):
            keys = self.jobs_of_ensemble.get(job) or [
                self.keys.evaluation(name) for name in evaluation_files(self.config)
            ]
            internals.force_job(self._workflow, self.declared([self.path.delivered(keys[0])])[0])

    def manifests(self) -> list[str]:
        """Return the manifests of the members used."""
        return [self.path.manifest().format(member=f"{member:03d}") for member in self.used]

    def submissions(self) -> list[str]:
        """Return the files of a submission to AI Weather Quest."""
        return [self.path.delivered(self.keys.submission(name)) for _, _, name in submission_names(self.config)]

    def statistics(self, chunk: choice.Chunk) -> list[str]:
        """Return the files of a job of statistics over the members, in the order of `choice.outputs`."""
        return [self.path.delivered(key) for key in choice.outputs(self.config, chunk)]

    def weekly_members(self) -> list[str]:
        """Return the files of periods of each member; none without periods."""
        keys = [self.keys.weekly(member) for member in self.used] if self.config.periods else []
        return [self.path.delivered(key) for key in keys]

    def quintiles(self) -> list[str]:
        """Return the file of the probabilities of classes, if it is made."""
        made = self.config.periods and self.config.products.weekly.climatology
        return [self.path.delivered(self.keys.quintiles)] if made else []

    def model_quintiles(self) -> list[str]:
        """Return the file of the probabilities of classes of the model's own climate."""
        return [self.path.delivered(self.keys.model_quintiles)]

    def pictures(self) -> list[str]:
        """Return all maps and meteograms."""
        return [self.path.delivered(key) for key in ensemble_products.pictures(self.config, self._like)]

    def evaluation(self) -> list[str]:
        """Return the files of the scores against analyses."""
        return [self.path.delivered(self.keys.evaluation(name)) for name in evaluation_files(self.config)]

    def products(self, *, page: bool = True) -> list[str]:
        """Return every product that the configuration asks for; the `page` names the others."""
        products, keys = self.config.products, self.keys
        each = self.used if products.members.enabled else ()
        wanted = [keys.member_netcdf(member, products.grid) for member in each]
        for job, found in self.jobs_of_ensemble.items():
            wanted += found if page or job != ensemble_products.PAGE else []
        return [self.path.delivered(key) for key in wanted]


def say(*lines: str) -> None:
    """Print lines for the terminal of a run."""
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201
