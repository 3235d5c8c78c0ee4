"""The NVIDIA cards of this machine, as NVML lists them, and which of them a member computes on.

The scheduler admits as many members as the machine's ``gpu_mem_mb`` allows and does not say where they go. Each takes
the card with the fewest members on it, and holds a lock that says so until it ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aifs_ensemble.common.locks import flock

TOY = "demo"  # the model of toy size in config/models.yaml
LOG = logging.getLogger(__name__)
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class NoCardError(Exception):
    """NVIDIA's driver does not answer, lacks its library, or has no such card."""


@dataclass(frozen=True)
class Card:
    """A card: the driver's name of it, its memory in bytes, and its bandwidth (0 where the driver does not say)."""

    name: str
    uuid: str
    memory_total: int
    memory_free: int
    bandwidth_gb_s: float = 0.0


@contextmanager
def _driver() -> Iterator[Any]:
    """Yield NVML, started; NoCardError for whatever fails: no library, no driver and no card are all the same here."""
    try:
        import pynvml

        pynvml.nvmlInit()
        yield pynvml
    except Exception as error:
        raise NoCardError(f"no NVIDIA driver answers ({error})") from None


def driver_version() -> str:
    """Return the version of NVIDIA's driver; NoCardError without one."""
    with _driver() as nvml:
        return str(nvml.nvmlSystemGetDriverVersion())


def benchmark_problem(model: str, toy: str) -> str | None:
    """Return what to do instead of measuring a model of full size on a machine without a card, None with one.

    `toy` is the command that measures a small one.
    """
    if model == TOY or cards():
        return None
    return (
        f"--model: {model!r}, expected a GPU, and this machine has none; the toy shows that it works, "
        f"not how fast: {toy}"
    )


def cards() -> list[Card]:
    """Return all cards of this machine, whichever of them CUDA is shown; none without a driver."""
    found = []
    try:
        with _driver() as nvml:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                name, uuid = str(nvml.nvmlDeviceGetName(handle)), str(nvml.nvmlDeviceGetUUID(handle))
                found.append(Card(name, uuid, memory.total, memory.free, _bandwidth(nvml, handle)))
    except NoCardError as error:
        LOG.debug("%s", error)
    return found


def _bandwidth(nvml: Any, handle: Any) -> float:
    """Return a card's memory bandwidth, GB/s: two transfers a clock (3352 of an H100, whose data sheet says 3350)."""
    with suppress(Exception):  # what a driver does not know of a card
        width = int(nvml.nvmlDeviceGetMemoryBusWidth(handle))
        clock = int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM))
        return 2 * clock * width / 8 / 1000
    return 0.0


def this_card() -> tuple[Any, Any] | None:
    """Return NVML and its handle of the card that this process uses, None where there is none."""
    try:
        with _driver() as nvml:
            name = visible_card(os.environ)
            return None if name is None else (nvml, card_handle(nvml, name))
    except NoCardError as error:
        LOG.debug("%s", error)
        return None


def card_name() -> str:
    """Return the name of the card that this process uses, empty where there is none."""
    nvml, handle = this_card() or (None, None)
    if nvml is not None:
        with suppress(nvml.NVMLError):
            return str(nvml.nvmlDeviceGetName(handle))
    return ""


def visible_cards() -> list[str]:
    """Return what names each card that this process may use, in CUDA's order; none without a driver.

    Cards named by ``CUDA_VISIBLE_DEVICES`` are taken as they are named there.
    """
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [card.strip() for card in named.split(",") if card.strip()]
    return [card.uuid for card in cards()]


@contextmanager
def one_card(cards: Sequence[str] | None = None, folder: Path | None = None) -> Iterator[str | None]:
    """Let this process see one card alone, that with the fewest members on it; yield its name, None without a choice.

    To be entered before CUDA starts in this process, which reads ``CUDA_VISIBLE_DEVICES`` then and not again.

    Parameters
    ----------
    cards : what to choose from, by default `visible_cards`
    folder : shared by the members of a machine; holds a file for each of them, locked while it runs
    """
    cards = visible_cards() if cards is None else cards
    if len(cards) < 2:
        yield None
        return
    folder = folder or Path(tempfile.gettempdir()) / f"aifs-ensemble-cards-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "wb") as lock:
        flock(lock, fcntl.LOCK_EX)
        taken = _members_by_card(folder)
        chosen = min(cards, key=lambda card: taken[card])
        path = folder / f"{chosen}~{os.getpid()}.member"
        claim = open(path, "wb")  # noqa: SIM115 - held until the end
        flock(claim, fcntl.LOCK_EX)
    before = os.environ.get(_VISIBLE)
    os.environ[_VISIBLE] = chosen
    LOG.info("GPU %s, the one with fewest members of %d", chosen, len(cards))
    try:
        with claim:
            yield chosen
    finally:
        path.unlink(missing_ok=True)
        if before is None:
            del os.environ[_VISIBLE]
        else:
            os.environ[_VISIBLE] = before


def _members_by_card(folder: Path) -> Counter[str]:
    """Return how many members hold each card; what dead ones left is removed."""
    found: Counter[str] = Counter()
    for path in folder.glob("*.member"):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            if _free(file, int(path.stem.rpartition("~")[2] or 0)):
                path.unlink()
            else:
                found[path.name.rpartition("~")[0]] += 1
    return found


def _free(file: BinaryIO, process: int) -> bool:
    """Whether nobody holds a lock on a file; where there are no locks, whether the process that made it is gone."""
    try:
        return flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) or not Path(f"/proc/{process}").exists()
    except BlockingIOError:
        return False


def wake_card() -> None:
    """Let CUDA's driver set itself up on the card that torch will use, which takes part of a second; best in a thread.

    Python is not held up meanwhile. To be called once it is settled which cards this process sees. The primary context
    is the one that torch takes later. Nothing happens without a driver or a card: torch says what is wrong.
    """
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def visible_card(environment: Mapping[str, str]) -> str | None:
    """Return the index or UUID of the card that torch calls ``cuda:0``, None where CUDA is shown none.

    CUDA numbers the cards of ``CUDA_VISIBLE_DEVICES`` anew and shows none after the first entry that is no card; a
    forecast takes the first. NVML, which knows nothing of that variable, lists them all.
    """
    if _VISIBLE not in environment:
        return "0"
    first = environment[_VISIBLE].split(",")[0].strip()
    return first if first.isdigit() or first.startswith(("GPU-", "MIG-")) else None


def card_handle(nvml: Any, name: str) -> Any:
    """Return NVML's handle of a card by its index or UUID, of which CUDA takes the first letters too.

    ``MIG-GPU-uuid/instance/compute-instance`` is what drivers before R470 call a slice of a card. An index stands for
    the card's first slice where it is cut into slices. Raises NVMLError when there is no such card.
    """
    if name.startswith(("GPU-", "MIG-")):
        cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        for card in cards:
            if name.startswith("GPU-") and str(nvml.nvmlDeviceGetUUID(card)).startswith(name):
                return card
        return nvml.nvmlDeviceGetHandleByUUID(name)
    card = nvml.nvmlDeviceGetHandleByIndex(int(name))
    with suppress(nvml.NVMLError):
        if nvml.nvmlDeviceGetMigMode(card)[0]:
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, 0)
    return card
