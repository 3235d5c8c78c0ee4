"""A queue of transfers: a few threads take what is earliest in the forecast first."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class SendQueue:
    """Tasks by the hour of their lead or restart state; once one has failed, none starts.

    Attributes
    ----------
    changed : held while state is looked at or changed that `wait_for` waits for, and notified after it
    error : what the first failing task raised
    """

    def __init__(self, threads: int):
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="deliver")
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._unfinished = 0

    def first(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a task that the others need, before them; its error is for those who ask for its result."""
        return self._pool.submit(task, *args, **kwargs)

    def submit(self, hours: int, task: Callable[..., None], *arguments: Any) -> None:
        """Queue a task; earlier hours go first, of the same hour what came first."""

        def run() -> None:
            try:
                if self.error is None:
                    task(*arguments)
            except BaseException as error:
                with self.changed:
                    self.error = self.error or error
            finally:
                with self.changed:
                    self._unfinished -= 1
                    self.changed.notify_all()

        with self.changed:
            self._unfinished += 1
            heapq.heappush(self._waiting, (hours, next(self._number), run))
        self._pool.submit(self._run_first)

    def _run_first(self) -> None:
        with self.changed:
            _, _, run = heapq.heappop(self._waiting)
        run()

    def wait_for(self, ready: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until `ready`, an error, or the end of `seconds`."""
        with self.changed:
            self.changed.wait_for(lambda: self.error is not None or ready(), seconds)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until every task is done, an error, or the end of `seconds`."""
        self.wait_for(lambda: self._unfinished == 0, seconds)

    def close(self, *, wait: bool) -> None:
        """Start no more tasks, and wait for those that run."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
