"""How hooks of the executor, and commands that a run starts, learn the configuration that the coordinator runs with.

It may come from several files and the command line. The Snakefile leaves the checked configuration in the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.errors import ConfigError

DEFAULT_FILES = (Path("config/config.yaml"), Path("config/operational.yaml"))


def publish(config: Config) -> None:
    """Leave the configuration to the commands that Snakemake starts."""
    os.environ[environment.CONFIG] = json.dumps(config.to_dict())


def use_this_library() -> None:
    """Have jobs and commands run with this interpreter and this library, whatever else is installed.

    snakemake may have been started by its path, without its environment activated; and it puts the folder of a
    script behind everything that is installed.
    """
    _put_first("PATH", Path(sys.executable).parent)
    _put_first("PYTHONPATH", Path(__file__).parents[2])


def end_with_the_terminal() -> None:
    """End like Ctrl-C when the terminal goes, which would otherwise run nothing that is registered for the end."""
    # under nohup it is ignored, and stays so
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(*_: Any) -> None:
    # the shell and the terminal each send one
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def start_detached(arguments: Sequence[str], folder: Path, log: Path, said: str) -> None:
    """Start a command of ours in a folder that outlives this process, and say so."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        subprocess.Popen(
            [sys.executable, "-m", "aifs_ensemble", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    with contextlib.suppress(OSError):
        # nobody reads it where the terminal is gone
        print(f"{said}, see {log}", file=sys.stderr)  # noqa: T201


def _put_first(variable: str, folder: Path) -> None:
    others = [item for item in os.environ.get(variable, "").split(os.pathsep) if item and item != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *others])


def current() -> Config:
    """Return the coordinator's configuration, or that of the files when a person runs the command."""
    text = os.environ.get(environment.CONFIG)
    if text is None:
        from aifs_ensemble.workflow.cycle import named

        files = [path for path in DEFAULT_FILES if path.exists()]
        return Config(named(read_files(*files), files, "there"), files)
    try:
        return Config(json.loads(text))
    except ValueError:
        raise ConfigError(f"{environment.CONFIG}: not the configuration that the Snakefile leaves") from None
