"""Attention over edges in anemoi-models 0.11: by its Triton kernel on a card, by torch-geometric elsewhere.

A block of the encoder and decoder keeps the function by which it attends. anemoi-models chooses it when a model is
made: the kernel where there is a card. The checkpoint of AIFS ENS v2 was made so, and its pickle names that kernel,
which a machine without a card cannot even import. Neither function has weights, so the choice is made again for the
device that a model is loaded for. `KERNEL` stands for the kernel in a pickle: nothing of it is imported or called.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

KERNEL_MODULE, KERNEL_CLASS, KERNEL_FUNCTION = "anemoi.models.triton.gt", "GraphTransformerFunction", "apply"


class EdgeKernel:
    """Stands for anemoi-models' ``GraphTransformerFunction``."""


KERNEL = EdgeKernel()


def _blocks(interface: Any) -> Iterator[Any]:
    for module in interface.modules():
        if getattr(module, "graph_attention_backend", None) is not None:
            yield module


def as_released(interface: Any) -> None:
    """Have a model that was just made keep the kernel, as one that was made on a card does."""
    for block in _blocks(interface):
        del block.conv
        block.graph_attention_backend, block.conv = "triton", KERNEL


def choose_edges(interface: Any, device: str) -> None:
    """Give each block the function for a kind of device, whichever it was made with; other versions have no choice."""
    triton = device == "cuda" and importlib.util.find_spec("triton") is not None
    for block in _blocks(interface):
        if triton and (block.graph_attention_backend != "triton" or block.conv is KERNEL):
            from anemoi.models.triton.gt import GraphTransformerFunction

            del block.conv
            block.graph_attention_backend, block.conv = "triton", GraphTransformerFunction.apply
        elif not triton and block.graph_attention_backend != "pyg":
            from anemoi.models.layers.conv import GraphTransformerConv

            del block.conv
            block.graph_attention_backend, block.conv = "pyg", GraphTransformerConv(block.out_channels_conv)
