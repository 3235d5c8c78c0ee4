"""What a start-up can begin before it is known to the last detail what is to be computed.

Libraries are imported, and the card is woken, in threads of their own, while the forecast looks at its work folder and
reads its inputs. Imports are seconds of a start-up; files and checksums do not need Python's lock meanwhile.
"""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress

from aifs_ensemble.common.gpu import wake_card
from aifs_ensemble.common.overlays import use_packages
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.work_folder import WorkFolder

LIBRARIES = (
    "torch",
    "anemoi.models.interface",
    "anemoi.models.models",
    "anemoi.inference.checkpoint",
    "anemoi.inference.forcings",
)


def import_libraries() -> None:
    """Import what loading a model imports, and nothing of this library: two threads never wait for one another."""
    for name in LIBRARIES:
        importlib.import_module(name)


def begin_start_up(request: ForecastRequest, work: WorkFolder) -> None:
    """Begin a member's start-up if any lead is in no record; a finished member imports nothing.

    Raises ConfigError when this machine lacks the packages of the model.
    """
    known = {**work.journal.read(), **work.delivered.read()}
    if all(lead in known for lead in request.leads):
        return
    use_packages(request.model)
    if request.device != "cpu":
        threading.Thread(target=wake_card, name="wake-card", daemon=True).start()
    threading.Thread(target=_import_quietly, name="import", daemon=True).start()


def _import_quietly() -> None:
    with suppress(Exception):  # it is raised again where the import is wanted
        import_libraries()
