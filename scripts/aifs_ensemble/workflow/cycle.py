"""The cycles that a run or a command is about: a word such as ``latest`` becomes one where it begins, only there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aifs_ensemble.common import clock, environment
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.config.problems import with_place
from aifs_ensemble.common.cycle_words import CycleWord, is_word, parse_word
from aifs_ensemble.common.cycles import is_given, parse_cycles, words_of
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError, WorkflowError
from aifs_ensemble.common.names import cycle_name, parse_cycle
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.run_hooks import RunHooks

Say = Callable[[str], None]
# what a word is looked up in: inputs of forecasts, what runs have left, or the clock alone where no cycle is needed
Meaning = Literal["inputs", "there", "begun"]


def word_of(raw: Mapping[str, Any], files: Sequence[Path] = ()) -> CycleWord | None:
    """Return the word that a configuration has for its cycle, None where it names one; ConfigError for no such word."""
    text = raw.get("cycle")
    if not is_word(text) or is_given(raw, "cycles"):
        return None
    try:
        return parse_word(str(text))
    except ConfigError as error:
        raise with_place(error, raw, files) from None


def _config_of(raw: Mapping[str, Any], files: Sequence[Path], cycle: str) -> Config:
    """Return the configuration with one cycle in place of words."""
    return Config({**raw, "cycle": cycle, "cycles": None}, files)


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
    config_of = partial(_config_of, raw, files)
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


def find_cycles(
    words: Mapping[CycleWord, bool],
    raw: Mapping[str, Any],
    files: Sequence[Path],
    meaning: Meaning,
    say: Say,
    cache: Path | None = None,
) -> str:
    """Return the cycles of a list with words, with commas, and say in a line what each word stands for.

    `words` are those of `words_of`. A cycle that is so much before the newest one may lack inputs: it is one of
    several, and the run says so. Raises as `find_cycle` does, and ConfigError for cycles that cannot be.
    """
    config_of = partial(_config_of, raw, files)
    now = clock.now()
    begun = {word: next(word.newest_first(now)) - word.offset for word in words}
    like = config_of(cycle_name(next(iter(begun.values()))))
    newer: dict[CycleWord, str] = {}
    if meaning == "begun":
        found = begun
    elif meaning == "there":
        from aifs_ensemble.delivery.cycles_there import words_there

        found = words_there(words, like)
    else:
        from aifs_ensemble.initial.newest import Availability, newest_with_inputs

        availability, found = Availability(cache), {}
        newest: dict[tuple[int | None, int | None], datetime] = {}
        for word in words:
            kind = (word.weekday, word.hour)
            if kind not in newest:
                one = newest_with_inputs(replace(word, offset=timedelta()), config_of, availability)
                newest[kind] = parse_cycle(one.cycle)
                newer[word] = next((f"; {cycle}: {why}" for cycle, why in one.lacking.items()), "")
            found[word] = newest[kind] - word.offset
    if meaning != "begun":
        for word, time in found.items():
            say(f"cycles {word}: {cycle_name(time)}{newer.get(word, '')}")
    meant = {word.text: cycle_name(time) for word, time in found.items()}
    try:
        return ",".join(parse_cycles(raw["cycles"], meant, say if meaning != "begun" else None))
    except ConfigError as error:
        raise with_place(error, raw, files) from None


def named(raw: dict[str, Any], files: Sequence[Path], meaning: Meaning) -> dict[str, Any]:
    """Return a configuration with the cycles that words stand for, which is said; as it is without a word."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201

    if word := word_of(raw, files):
        return {**raw, "cycle": find_cycle(word, raw, files, meaning, say)}
    if not is_given(raw, "cycle") and (words := words_of(raw.get("cycles"))):
        return {**raw, "cycles": find_cycles(words, raw, files, meaning, say)}
    return raw


def settle(workflow: Any, raw: dict[str, Any], say: Say, refuse: Callable[[Config], None]) -> CycleWord | None:
    """Put the cycles that words stand for in their place: in the Snakefile's configuration, and in that of all jobs.

    Of ``cycle`` and ``cycles`` the one that is given later counts. Nothing is asked for ``--lint`` and ``--unlock``.
    Returns the word for a single cycle; None without one, and in jobs, which are told the cycles. `refuse` raises what
    stands in a run's way before anybody is asked. A run that is refused tells those whom ``notify`` names.
    """
    if not internals.is_coordinator(workflow):
        return None
    files = internals.config_files(workflow)
    _settle_key(workflow, raw, files)
    word = word_of(raw, files)
    words = words_of(raw.get("cycles")) if word is None and not is_given(raw, "cycle") else {}
    if not (word or words):
        return None
    key = "cycle" if word else "cycles"
    if told := os.environ.get(environment.CYCLES):  # of a second pass, those that the words stood for in the first
        internals.settle_config(workflow, raw, key, told)
        return word

    def find(meaning: Meaning) -> str:
        if word is not None:
            return find_cycle(word, raw, files, meaning, say)
        return find_cycles(words, raw, files, meaning, say)

    looks = not (internals.is_lint(workflow) or internals.is_unlock())
    found = find("begun")
    if looks:
        begun = Config({**raw, key: found}, files)
        runs = not internals.is_dry_run(workflow)
        try:
            if runs:  # before anybody is asked
                refuse(begun)
            found = find("inputs")
        except WorkflowError as error:
            if runs:
                RunHooks(begun, say).refused(error)
            raise
    internals.settle_config(workflow, raw, key, found)
    return word


def _settle_key(workflow: Any, raw: dict[str, Any], files: Sequence[Path]) -> None:
    """Leave of ``cycle`` and ``cycles`` the one that is given later, as commands do."""
    keys = ("cycle", "cycles")
    if not all(is_given(raw, key) for key in keys):
        return
    later = read_files(*files, over=internals.given_config(workflow))
    for key in keys:
        if not is_given(later, key):
            internals.settle_config(workflow, raw, key, None)


def wait_for_sources(configs: Sequence[Config], cache: Path | None, say: Say) -> None:
    """Wait for the inputs of cycles where ``wait_hours`` says so; InputError when those of none appear.

    `configs` are those of the cycles whose states are to be made. Of several, one whose inputs do not appear is told;
    they wait together, ``wait_hours`` in all.
    """
    refused: list[str] = []
    since = clock.now()
    for config in configs:
        try:
            _wait_for_source(config, cache, say, since)
        except InputError as error:
            refused.append(str(error))
    if refused and len(refused) == len(configs):
        raise InputError("\n  ".join(refused))
    for line in refused:
        say(line)


def _wait_for_source(config: Config, cache: Path | None, say: Say, since: datetime) -> None:
    if config.initial_conditions.wait_hours == 0:
        return
    from aifs_ensemble.initial.newest import Availability
    from aifs_ensemble.initial.publication import wait_for_inputs

    def lacking() -> str:
        try:
            return Availability(cache).lacking(config)
        except DownloadError as error:  # it may come back
            return str(error)

    wait_for_inputs(config, lacking, say, since)
