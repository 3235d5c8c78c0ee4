"""All statistics of some leads: read a variable of all members, reduce it, write it, forget it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import format_members, index_file
from aifs_ensemble.fields.grib_index import index_bytes
from aifs_ensemble.products.netcdf import LeadByLead
from aifs_ensemble.products.quantile_classes import ensemble_attributes
from aifs_ensemble.products.statistics.choice import (
    MEAN,
    NETCDF,
    PROBABILITY,
    SPREAD,
    Chunk,
    files,
    leads_of,
    variables,
    windows,
)
from aifs_ensemble.products.statistics.formulas import mean_and_spread, probability, quantiles
from aifs_ensemble.products.statistics.members import MembersFields
from aifs_ensemble.products.statistics.messages import MessageMaker
from aifs_ensemble.products.statistics.named_thresholds import named_thresholds
from aifs_ensemble.products.statistics.netcdf_file import statistics_file, thresholds_of

Field = npt.NDArray[np.float32]
Message = tuple[bytes, dict[str, Any]]


def write_statistics(
    config: Config, chunk: Chunk, paths: Mapping[str, Path], members: Sequence[int] | None = None
) -> None:
    """Write the files of a chunk; `paths` are where each goes, by its key.

    `members` are those to be used, all by default: the files name who is missing. In memory is one variable of all
    members at one lead. Raises InputError for a member that is not delivered.
    """
    used = tuple(config.members if members is None else members)
    with ExitStack() as open_files, MembersFields(config, used) as fields:
        about = ensemble_attributes(config, used, "AIFS ENS ensemble statistics")
        about["member_digests"] = " ".join(digest[:16] for digest in fields.digests)
        netcdf = {
            window: open_files.enter_context(
                statistics_file(config, paths[key], fields.grid, leads_of(config, chunk, window), window, about)
            )
            for kind, _, window, key in files(config, chunk)
            if kind == NETCDF
        }
        maker = MessageMaker(config, fields.grid, len(used))
        open_files.callback(maker.close)
        note = {
            "_members": format_members(used),
            "_source": about["source"],
            "_digest": hashlib.sha256(" ".join(fields.digests).encode()).hexdigest()[:16],
        }
        grib = {(kind, lead, window): paths[key] for kind, lead, window, key in files(config, chunk) if kind != NETCDF}
        for lead in chunk.leads:
            messages = _lead(config, fields, maker, netcdf, lead)
            for (kind, window), made in messages.items():
                _write_grib(grib[kind, lead, window], made, note)


def _lead(
    config: Config, fields: MembersFields, maker: MessageMaker, netcdf: Mapping[int, LeadByLead], lead: int
) -> dict[tuple[str, int], list[Message]]:
    """Put the statistics of one lead into the NetCDF files, and return their messages by kind and window."""
    messages: dict[tuple[str, int], list[Message]] = {}
    ending = windows(config, lead)
    for name in config.products.statistics.variables:
        chosen = [window for window in ending if name in variables(config, window)]
        for window, values in fields.read(name, lead, chosen).items():
            for kind, message in _one(config, maker, netcdf[window], name, lead, window, values):
                messages.setdefault((kind, window), []).append(message)
    return messages


def _one(
    config: Config, maker: MessageMaker, file: LeadByLead, name: str, lead: int, window: int, values: Field
) -> list[tuple[str, Message]]:
    """Put the statistics of one variable, ``(member, row, column)``, into a NetCDF file; return their messages."""
    made = []
    for kind, label, field in zip((MEAN, SPREAD), ("mean", "spread"), mean_and_spread(values), strict=True):
        file.put(f"{name}_{label}", lead, field)
        made.append((kind, maker.statistic(kind, name, lead, window, field)))
    if shares := config.products.statistics.quantiles:
        file.put(f"{name}_quantile", lead, quantiles(values, shares))
    named = {(known.comparison, known.value): known for known in named_thresholds(config, name)}
    for comparison, thresholds in thresholds_of(config, name).items():
        found = [probability(values, comparison, threshold) for threshold in thresholds]
        file.put(f"{name}_{comparison}", lead, np.stack(found))
        for threshold, field in zip(thresholds, found, strict=True):
            if known := named.get((comparison, threshold)):
                made.append((PROBABILITY, maker.probability(name, known, lead, window, field)))
    return made


def _write_grib(path: Path, messages: Sequence[Message], note: Mapping[str, str]) -> None:
    """Write messages and the index beside them, which also says of which members they are made."""
    entries, offset = [], 0
    for message, entry in messages:
        entries.append({**entry, "_offset": offset, "_length": len(message), **note})
        offset += len(message)
    write_bytes(path.with_name(index_file(path.name)), index_bytes(entries))
    write_bytes(path, b"".join(message for message, _ in messages))
