"""Where commands stand: in the root of a checkout, which paths of the configuration are relative to."""

from __future__ import annotations

from pathlib import Path

from aifs_ensemble.common.errors import ConfigError

CHECKOUT = Path(__file__).parents[3]
DEFAULT_CONFIG = Path("config/config.yaml")


def check_here(what: Path | str) -> None:
    """Raise ConfigError that says where to stand unless this folder is a checkout, or one that runs were made in."""
    if not (DEFAULT_CONFIG.is_file() or Path("Snakefile").is_file() or Path(".snakemake").is_dir()):
        known = (CHECKOUT / DEFAULT_CONFIG).is_file()
        there = f": cd {CHECKOUT}" if known else ""
        raise ConfigError(f"{what} is not in {Path.cwd()}, expected to be in the root of the checkout{there}")
