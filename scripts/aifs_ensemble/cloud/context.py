"""How the submit, status and cancel commands learn the configuration that the coordinator runs with.

Snakemake hands them a job script or an id and nothing else, while the configuration may come from
several files and the command line. The Snakefile therefore leaves the checked configuration in the
environment, which these commands inherit.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aifs_ensemble.config import Config, read_files
from aifs_ensemble.errors import ConfigError

VARIABLE = "AIFS_ENSEMBLE_CONFIG"
DEFAULT_FILES = (Path("config/config.yaml"), Path("config/operational.yaml"))


def publish(config: Mapping[str, Any]) -> None:
    """Leave the configuration, this interpreter and this library to the commands that Snakemake starts."""
    os.environ[VARIABLE] = json.dumps(dict(config))
    # snakemake may have been started by its path, without its environment activated
    _put_first("PATH", Path(sys.executable).parent)
    _put_first("PYTHONPATH", Path(__file__).parents[2])


def _put_first(variable: str, folder: Path) -> None:
    others = [item for item in os.environ.get(variable, "").split(os.pathsep) if item and item != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *others])


def current() -> Config:
    """Return the coordinator's configuration, or that of the files when a person runs the command."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return Config(read_files(*(path for path in DEFAULT_FILES if path.exists())))
    try:
        return Config(json.loads(text))
    except ValueError:
        raise ConfigError(f"{VARIABLE}: not the configuration that the Snakefile leaves") from None
