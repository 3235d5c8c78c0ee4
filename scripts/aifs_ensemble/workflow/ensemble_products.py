"""Which jobs make products of the ensemble, of which members, and which of them are of other members than asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import format_members, parse_members
from aifs_ensemble.delivery.ensemble import EnsembleManifest, needs_writing, parse_ensemble_manifest
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.products.cube.record import record_problems
from aifs_ensemble.products.evaluation.due import evaluation_due, evaluation_files
from aifs_ensemble.products.stamps import Stamp, why_again
from aifs_ensemble.products.statistics import choice
from aifs_ensemble.products.submission import submission_names
from aifs_ensemble.workflow.kept import Kept

# jobs that compare the models of a run: of no unit, but of a cycle of both
PAIRS = frozenset({"compare"})
CUBE, EVALUATION, PAGE, PICTURES = "product_cube", "product_evaluation", "product_page", "product_pictures"


def jobs_of_ensemble(config: Config, like: Config) -> dict[str, list[str]]:
    """Return the keys of the products of all members that a cycle's configuration asks for, by the job that makes them.

    `like` is the configuration of any cycle of the run.
    """
    products, keys = config.products, config.objects
    found: dict[str, list[str]] = {}
    if config.periods:
        found["product_weekly"] = [keys.product("weekly/ensemble.nc")]
        if products.weekly.climatology:
            submissions = [keys.submission(name) for _, _, name in submission_names(config)]
            found["product_quintiles"] = [keys.quintiles, *submissions]
        if products.weekly.model_climatology:
            found["product_model_quintiles"] = [keys.model_quintiles]
    for chunk in choice.chunks(config):
        found[f"product_statistics_{chunk.name}"] = choice.outputs(config, chunk)
    if products.cube.enabled:
        found[CUBE] = [keys.cube]
    if products.evaluation.enabled and evaluation_due(config):
        found[EVALUATION] = [keys.evaluation(name) for name in evaluation_files(config)]
    if products.pictures.enabled:
        found[PICTURES] = pictures(config, like)
    if products.page.enabled:
        found[PAGE] = [keys.page]
    return found


def pictures(config: Config, like: Config) -> list[str]:
    """Return the keys of all maps and meteograms of a cycle; `like` is the configuration of any cycle of the run."""
    keys, (maps, meteograms) = config.objects, _picture_names(like)
    return [*map(keys.map, maps), *map(keys.meteogram, meteograms)]


@cache
def _picture_names(config: Config) -> tuple[list[str], list[str]]:
    from aifs_ensemble.products.pictures.catalogue import map_files, meteogram_files

    return map_files(config), meteogram_files(config)


def told_members() -> dict[str, tuple[int, ...]] | None:
    """Return the members that products of this run are made of, by cycle; None where nobody said any."""
    text = os.environ.get(environment.USED)
    try:
        entries = (entry.partition(":") for entry in text.split()) if text else ()
        return {cycle: parse_members(members) for cycle, _, members in entries} or None
    except ConfigError:
        raise ConfigError(f"{environment.USED}: {text!r}, expected cycles with their members") from None


def as_told(members: Mapping[str, Collection[int]]) -> str:
    """Return the members of cycles as `told_members` reads them from the environment."""
    return " ".join(f"{cycle}:{format_members(used)}" for cycle, used in members.items())


def accepted_as_short(there: Destination) -> EnsembleManifest | None:
    """Return the ensemble's manifest if it says, truly and of what is asked for, that the ensemble is short."""
    config = there.config
    data = there.content(config.objects.ensemble_manifest)
    if data is None or needs_writing(there) is not None:
        return None
    found = parse_ensemble_manifest(data, config.objects.ensemble_manifest, config.cycle)
    return found if found.state == "short" else None


class MadeBefore:
    """What is there of the products of the ensemble, by the stamps of their jobs; read once, side by side.

    `jobs` are those of `jobs_of_ensemble`, `members` those that products are to be made of, `kept` those that are
    delivered. `there` is the destination, None where nobody looked: then, and of a bucket that this machine delivers
    to, `copies` on scratch are looked at.
    """

    def __init__(
        self,
        config: Config,
        jobs: Mapping[str, Sequence[str]],
        members: tuple[int, ...],
        kept: Kept,
        there: Destination | None,
        *,
        copies: bool,
    ):
        self._config, self._jobs, self._members, self._kept = config, jobs, members, kept
        self._there, self._copies = there, copies
        keys = config.objects
        wanted = [*map(keys.stamp, {*jobs, EVALUATION}), keys.cube]
        with ThreadPoolExecutor(config.delivery.threads) as pool:
            self._found = dict(zip(wanted, pool.map(self._content, wanted), strict=True))

    def _content(self, key: str) -> bytes | None:
        copy = self._config.scratch.copy(key)
        if self._copies and copy.exists():
            return copy.read_bytes()
        return self._there.content(key) if self._there else None

    def why_again(self, job: str) -> str | None:
        """Return why a job makes again what is there: of other members, or incomplete; None when it is as asked for."""
        keys = self._config.objects
        stamp, record = keys.stamp(job), self._found[keys.cube]

        def differs(data: bytes) -> str | None:
            return Stamp.read(data, stamp).differs(self._members, self._kept.digests)

        if why := why_again(self._found[stamp], differs):
            return why
        if job == CUBE and record is not None and self._there is not None:
            return next(iter(record_problems(self._config, record, self._there.listed)), None)
        return None

    def keys_again(self) -> frozenset[str]:
        """Return the keys of all products that are made again."""
        return frozenset(key for job, keys in self._jobs.items() if self.why_again(job) for key in keys)
