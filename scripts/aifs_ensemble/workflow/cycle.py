"""The cycle that a run or a command is about: a word such as ``latest`` becomes one where it begins, only there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.problems import with_place
from aifs_ensemble.common.cycle_words import CycleWord, is_word, parse_word
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError, WorkflowError
from aifs_ensemble.common.names import cycle_name
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.ensemble_products import told_members
from aifs_ensemble.workflow.run_hooks import RunHooks

Say = Callable[[str], None]
# what a word is looked up in: inputs of forecasts, what runs have left, or the clock alone where no cycle is needed
Meaning = Literal["inputs", "there", "begun"]


def word_of(raw: Mapping[str, Any], files: Sequence[Path] = ()) -> CycleWord | None:
    """Return the word that a configuration has for its cycle, None where it names one; ConfigError for no such word."""
    text = raw.get("cycle")
    if not is_word(text) or raw.get("cycles") is not None:
        return None
    try:
        return parse_word(str(text))
    except ConfigError as error:
        raise with_place(error, raw, files) from None


def find_cycle(
    word: CycleWord,
    raw: Mapping[str, Any],
    files: Sequence[Path],
    meaning: Meaning,
    say: Say,
    cache: Path | None = None,
) -> str:
    """Return the cycle that a word stands for, and say it in a line.

    Raises InputError or DownloadError, one line, where there is none or nobody answers; ConfigError for the other keys.
    """

    def config_of(cycle: str) -> Config:
        return Config({**raw, "cycle": cycle}, files)

    begun = config_of(cycle_name(next(word.newest_first(clock.now()))))
    if meaning == "begun":
        return cycle_name(begun.cycle_time - word.offset)
    if meaning == "there":
        from aifs_ensemble.delivery.cycles_there import newest_there

        cycle, newer = newest_there(word, begun), ""
    else:
        from aifs_ensemble.initial.newest import Availability, newest_with_inputs  # imports the client of open data

        newest = newest_with_inputs(word, config_of, Availability(cache))
        cycle, newer = newest.cycle, next((f"; {one}: {why}" for one, why in newest.lacking.items()), "")
    say(f"cycle {word}: {cycle}{newer}")
    return cycle


def named(raw: dict[str, Any], files: Sequence[Path], meaning: Meaning) -> dict[str, Any]:
    """Return a configuration with the cycle that a word for it stands for, which is said; as it is without a word."""
    word = word_of(raw, files)
    if word is None:
        return raw
    return {**raw, "cycle": find_cycle(word, raw, files, meaning, lambda line: print(line, file=sys.stderr))}  # noqa: T201


def settle(workflow: Any, raw: dict[str, Any], say: Say) -> CycleWord | None:
    """Put the cycle that a word stands for in its place: in the Snakefile's configuration, and in that of all jobs.

    Nothing is asked for ``--lint`` and ``--unlock``. Returns the word, None where the configuration names a cycle, and
    in jobs, which are told the cycle. A run that is refused tells those whom ``notify`` names.
    """
    files = internals.config_files(workflow)
    if not internals.is_coordinator(workflow) or (word := word_of(raw, files)) is None:
        return None
    if told := told_members():  # of a second pass, the cycle that the word stood for in the first
        internals.settle_config(workflow, raw, "cycle", next(iter(told)))
        return word
    try:
        looks = not (internals.is_lint(workflow) or internals.is_unlock())
        cycle = find_cycle(word, raw, files, "inputs" if looks else "begun", say)
    except WorkflowError as error:
        if not internals.is_dry_run(workflow) and not isinstance(error, ConfigError):
            config = Config({**raw, "cycle": find_cycle(word, raw, files, "begun", say)}, files)
            RunHooks(config, say).refused(error)
        raise
    internals.settle_config(workflow, raw, "cycle", cycle)
    return word


def wait_for_sources(configs: Sequence[Config], cache: Path | None, say: Say) -> None:
    """Wait for the inputs of cycles where ``wait_hours`` says so; InputError when those of none appear.

    `configs` are those of the cycles whose states are to be made. Of several, one whose inputs do not appear is told.
    """
    refused: list[str] = []
    for config in configs:
        try:
            _wait_for_source(config, cache, say)
        except InputError as error:
            refused.append(str(error))
    if refused and len(refused) == len(configs):
        raise InputError("\n  ".join(refused))
    for line in refused:
        say(line)


def _wait_for_source(config: Config, cache: Path | None, say: Say) -> None:
    if config.initial_conditions.wait_hours == 0:
        return
    from aifs_ensemble.initial.newest import Availability
    from aifs_ensemble.initial.publication import wait_for_inputs

    def lacking() -> str:
        try:
            return Availability(cache).lacking(config)
        except DownloadError as error:  # it may come back
            return str(error)

    wait_for_inputs(config, lacking, say)
