"""A computation on a GPU, recorded once and started with one call instead of a thousand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class RecordedPass:
    """A pass as a CUDA graph.

    The default generator's seed is read when the graph is started, so that noise is what it would be without it.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], skip: Tensor):
        self._skip = skip
        self._graph = torch.cuda.CUDAGraph()
        # other threads (forcings, observers) may use the device meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = work(skip)

    def replay(self, skip: Tensor) -> Tensor:
        self._skip.copy_(skip)
        self._graph.replay()
        return self._result
