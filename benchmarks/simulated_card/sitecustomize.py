"""Makes a processor stand for a card that takes SIMULATED_STEP_SECONDS a step and makes one step at a time.

Python imports this when the folder is on PYTHONPATH: `card_busy.py --simulated-step` puts it there. The forward pass of
every process then waits for the one card, and sleeps; the processors stay free for start-ups, as beside a real card.
"""

from __future__ import annotations

import fcntl
import importlib.abc
import importlib.machinery
import os
import sys
import time
from types import ModuleType
from typing import Any

_PATCHED = "aifs_ensemble.model.stepper"


def _slow(module: ModuleType) -> None:
    forward = module.Stepper.forward

    def on_the_card(self: Any, *arguments: Any, **options: Any) -> Any:
        with open(os.environ["SIMULATED_CARD"], "ab") as card:
            fcntl.flock(card, fcntl.LOCK_EX)
            end = time.monotonic() + float(os.environ["SIMULATED_STEP_SECONDS"])
            result = forward(self, *arguments, **options)
            time.sleep(max(0.0, end - time.monotonic()))
            return result

    module.Stepper.forward = on_the_card


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != _PATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def then_slow(module: ModuleType) -> None:
            execute(module)
            _slow(module)

        spec.loader.exec_module = then_slow  # type: ignore[method-assign]
        return spec


if "SIMULATED_CARD" in os.environ:
    sys.meta_path.insert(0, _Finder())
