"""What the accelerated pass can stand in for: every condition on a model, in one list.

`reasons_against` says all that is in the way, so that a checkpoint can be judged before anything runs. The pass itself
asks the same question when it is made; what it finds is not a traceback in a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from aifs_ensemble.model.graph_attention import MOST_ATTRIBUTES, WIDEST_HEAD
from aifs_ensemble.model.truncation import truncation_matrices

MODEL = "AnemoiEnsModelEncProcDec"
# of anemoi.models.layers.bounding; they change the output in place, by index, and ask nothing of the host
BOUNDINGS = frozenset(
    prefix + name
    for name in ("ReluBounding", "NormalizedReluBounding", "HardtanhBounding", "FractionBounding")
    for prefix in ("", "Leaky")
)


class NotAcceleratedError(Exception):
    """The accelerated pass does not know a part of the model; the caller uses the model's own forward."""


def reasons_against(model: Any) -> list[str]:
    """Return why the accelerated pass cannot stand in for a model's own, all of them; none when it can.

    `model` is the network inside of an anemoi-models interface (``interface.model``), on any device.
    """
    if type(model).__name__ != MODEL:
        return [f"a model of type {type(model).__name__}, expected {MODEL}"]
    reasons: dict[str, None] = {}
    for part, check in _CHECKS.items():
        try:
            for reason in check(model):  # what was said before a part turns out to be unknown counts too
                reasons[reason] = None
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reasons[f"{part} of an unknown kind ({type(error).__name__}: {error})"] = None
    return list(reasons)


def _truncation(model: Any) -> Iterator[str]:
    points = model.node_attributes.num_nodes[model._graph_name_data]
    reads, shapes = points, [tuple(matrix.shape) for matrix in truncation_matrices(model)]
    for rows, columns in shapes:
        if columns != reads:
            yield f"a truncation matrix that reads {columns} points, expected {reads}"
        reads = rows
    if reads != points:
        yield f"a truncation that writes {reads} points, expected {points}"


def _noise(model: Any) -> Iterator[str]:
    if type(model.noise_injector).__name__ != "NoiseConditioning" or model.noise_injector.projection is not None:
        yield f"noise by {type(model.noise_injector).__name__}, expected NoiseConditioning"


def _encoder(model: Any) -> Iterator[str]:
    yield from _mapper("encoder", model.encoder)
    yield from _linear("encoder", model.encoder.emb_nodes_src)
    if getattr(model.encoder.proc, "update_src_nodes", False):
        yield "an encoder that updates its sources"


def _decoder(model: Any) -> Iterator[str]:
    yield from _mapper("decoder", model.decoder)
    extractor = model.decoder.node_data_extractor
    if len(extractor) != 2:
        yield f"a decoder that ends with {len(extractor)} layers, expected a layer norm and a linear layer"
    yield from _norm("decoder", extractor[0])
    yield from _linear("decoder", extractor[1])


def _mapper(name: str, mapper: Any) -> Iterator[str]:
    block = mapper.proc
    if type(block).__name__ != "GraphTransformerMapperBlock":
        yield f"{name} of {type(block).__name__}, expected GraphTransformerMapperBlock"
        return
    if block.qk_norm:
        yield f"{name} with qk_norm"
    if block.out_channels_conv > WIDEST_HEAD:
        yield f"{name} with heads of {block.out_channels_conv} channels, expected at most {WIDEST_HEAD}"
    attributes = block.lin_edge.in_features
    if attributes > MOST_ATTRIBUTES:
        yield f"{name} with {attributes} edge attributes, expected at most {MOST_ATTRIBUTES}"
    for layer in (mapper.emb_nodes_dst, block.lin_key, block.lin_value, block.lin_query, block.lin_self,
                  block.lin_edge, block.projection):  # fmt: skip
        yield from _linear(name, layer)
    for norm in (block.layer_norm_attention_src, block.layer_norm_attention_dest, block.layer_norm_mlp_dst):
        yield from _norm(name, norm)
    yield from _mlp(name, block.node_dst_mlp)


def _processor(model: Any) -> Iterator[str]:
    kind = type(model.processor).__name__
    if kind != "TransformerProcessor":
        yield f"a processor of type {kind}, expected TransformerProcessor"
        return
    blocks = [block for chunk in model.processor.proc for block in chunk.blocks]
    for block in blocks:
        if type(block).__name__ != "TransformerProcessorBlock":
            yield f"processor of {type(block).__name__}, expected TransformerProcessorBlock"
            return
        yield from _block(block, model.noise_injector.noise_channels)
    if any(not _conditional(norm) for block in blocks for norm in _norms(block)):
        return
    # one function is compiled with the constants of the first layer and serves all
    first = _constants(blocks[0])
    if any(_constants(block) != first for block in blocks):
        yield "a processor whose layers differ in heads, window, qk_norm or eps"


def _norms(block: Any) -> tuple[Any, Any]:
    return block.layer_norm_attention, block.layer_norm_mlp


def _conditional(norm: Any) -> bool:
    return type(norm).__name__ == "ConditionalLayerNorm"


def _constants(block: Any) -> tuple[Any, ...]:
    attention, norms = block.attention, _norms(block)
    qk = (attention.q_norm.eps, attention.k_norm.eps) if attention.qk_norm else None
    return attention.num_heads, attention.window_size, qk, tuple(norm.norm.eps for norm in norms)


def _block(block: Any, noise_channels: int) -> Iterator[str]:
    attention = block.attention
    if attention.softcap:
        yield f"softcap {attention.softcap}"
    if attention.use_alibi_slopes:
        yield "alibi slopes"
    if attention.head_dim > WIDEST_HEAD:
        yield f"processor with heads of {attention.head_dim} channels, expected at most {WIDEST_HEAD}"
    yield from _linear("processor", attention.lin_qkv)
    if attention.lin_qkv.bias is not None:
        yield "a bias on queries, keys and values"
    yield from _linear("processor", attention.projection, bias=True)
    if attention.qk_norm:
        for norm in (attention.q_norm, attention.k_norm):
            yield from _norm("processor", norm)
        if attention.q_norm.eps != attention.k_norm.eps:
            yield "norms of queries and keys with different eps"
    for norm in _norms(block):
        if not _conditional(norm):
            yield f"{type(norm).__name__} in the processor, expected ConditionalLayerNorm"
        elif norm.norm.weight is not None or norm.scale.in_features != noise_channels:
            yield "a ConditionalLayerNorm with weights of its own, or of another width than the noise"
    if all(map(_conditional, _norms(block))) and len({norm.norm.eps for norm in _norms(block)}) > 1:
        yield "a processor whose norms differ in eps"
    yield from _mlp("processor", block.mlp)


def _boundings(model: Any) -> Iterator[str]:
    for bounding in model.boundings:
        if type(bounding).__name__ not in BOUNDINGS:
            yield f"a bounding of type {type(bounding).__name__}"


def _linear(where: str, layer: Any, *, bias: bool = False) -> Iterator[str]:
    if type(layer) is not nn.Linear:
        yield f"{type(layer).__name__} in place of a linear layer in the {where}"
    elif bias and layer.bias is None:
        yield f"a linear layer without bias in the {where}, where one is expected"


def _norm(where: str, layer: Any) -> Iterator[str]:
    # AutocastLayerNorm, anemoi-models' own, differs in the type of what it returns
    if type(layer) is not nn.LayerNorm and type(layer).__name__ != "AutocastLayerNorm":
        yield f"{type(layer).__name__} in place of a layer norm in the {where}"


def _mlp(where: str, sequence: Any) -> Iterator[str]:
    if not (isinstance(sequence, nn.Sequential) and len(sequence) == 3 and isinstance(sequence[1], nn.GELU)):
        yield f"an MLP in the {where} that is not linear, GELU, linear"
        return
    if sequence[1].approximate != "none":
        yield f"an approximate GELU in the {where}"
    for layer in (sequence[0], sequence[2]):
        yield from _linear(where, layer, bias=True)


_CHECKS: dict[str, Callable[[Any], Iterator[str]]] = {
    "truncation": _truncation,
    "noise": _noise,
    "encoder": _encoder,
    "processor": _processor,
    "decoder": _decoder,
    "bounding": _boundings,
}
