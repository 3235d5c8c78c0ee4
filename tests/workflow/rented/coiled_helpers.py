"""What tests of rented machines without Snakemake share: a configuration."""

from __future__ import annotations

from aifs_ensemble.common.config import Config, merge, read_files

from workflow.rented.conftest import ROOT, SETTINGS


def settings(**changes: object) -> Config:
    raw = read_files(ROOT / "config" / "config.yaml", ROOT / "config" / "operational.yaml")
    merge(raw, SETTINGS)
    merge(raw, changes)
    return Config(raw)
