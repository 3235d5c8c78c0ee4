"""What the accelerated pass can stand in for: every condition on a model, in one list.

`reasons_against` says all that is in the way, so that a checkpoint can be judged before anything runs. The pass itself
asks the same question when it is made; what it finds is not a traceback in a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.graph_attention import MOST_ATTRIBUTES, WIDEST_HEAD
from aifs_ensemble.model.network import Network, NotAcceleratedError

__all__ = ["NotAcceleratedError", "reasons_against"]

MODEL = "AnemoiEnsModelEncProcDec"
# of anemoi.models.layers.residual, from 0.11 on; before, a model has no such part
SKIPS = ("SkipConnection", "TruncatedConnection")
# of anemoi.models.layers.bounding; they change the output in place, by index, and ask nothing of the host
BOUNDINGS = frozenset(
    prefix + name
    for name in ("ReluBounding", "NormalizedReluBounding", "HardtanhBounding", "FractionBounding")
    for prefix in ("", "Leaky")
) | {"NormalizedLeakyReluBounding"}  # a name from 0.11 on


def reasons_against(model: Any) -> list[str]:
    """Return why the accelerated pass cannot stand in for a model's own, all of them; none when it can.

    `model` is the network inside of an anemoi-models interface (``interface.model``), on any device.
    """
    if type(model).__name__ != MODEL:
        return [f"a model of type {type(model).__name__}, expected {MODEL}"]
    try:
        network = network_class()(model)
    except NotAcceleratedError as error:
        return [str(error)]
    reasons: dict[str, None] = {}
    for part, check in _CHECKS.items():
        try:
            for reason in check(network):  # what was said before a part turns out to be unknown counts too
                reasons[reason] = None
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reasons[f"{part} of an unknown kind ({type(error).__name__}: {error})"] = None
    return list(reasons)


def _input(network: Network) -> Iterator[str]:
    found, expected = network.model.input_dim, network.places.inputs
    if found != expected:
        yield f"an input of {found} columns, expected {expected}"


def _truncation(network: Network) -> Iterator[str]:
    if network.skip_kind and network.skip_kind not in SKIPS:
        yield f"a skip connection of type {network.skip_kind}, expected {' or '.join(SKIPS)}"
        return
    reads, shapes = network.points, [tuple(matrix.shape) for matrix in network.skip_matrices]
    for rows, columns in shapes:
        if columns != reads:
            yield f"a truncation matrix that reads {columns} points, expected {reads}"
        reads = rows
    if reads != network.points:
        yield f"a truncation that writes {reads} points, expected {network.points}"


def _noise(network: Network) -> Iterator[str]:
    injector = network.noise_injector
    # with a projection noise is folded into the latent state
    if type(injector).__name__ != "NoiseConditioning" or getattr(injector, "projection", None) is not None:
        yield f"noise by {type(injector).__name__}, expected NoiseConditioning"
        return
    matrix, nodes = network.noise_matrix, network.hidden_nodes
    if matrix is not None and matrix.shape[0] != nodes:
        yield f"a noise matrix that writes {matrix.shape[0]} nodes, expected {nodes}"


def _encoder(network: Network) -> Iterator[str]:
    yield from _mapper("encoder", network.encoder)
    yield from _linear("encoder", network.encoder.emb_nodes_src)
    if getattr(network.encoder.proc, "update_src_nodes", False):
        yield "an encoder that updates its sources"


def _decoder(network: Network) -> Iterator[str]:
    yield from _mapper("decoder", network.decoder)
    extractor = network.decoder.node_data_extractor
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
        for norm in (block.q_norm, block.k_norm):
            yield from _norm(name, norm)
    if block.out_channels_conv > WIDEST_HEAD:
        yield f"{name} with heads of {block.out_channels_conv} channels, expected at most {WIDEST_HEAD}"
    attributes = block.lin_edge.in_features
    if attributes > MOST_ATTRIBUTES:
        yield f"{name} with {attributes} edge attributes, expected at most {MOST_ATTRIBUTES}"
    yield from _edge_mlp(name, block)
    for layer in (mapper.emb_nodes_dst, block.lin_key, block.lin_value, block.lin_query, block.lin_self,
                  block.lin_edge, block.projection):  # fmt: skip
        yield from _linear(name, layer)
    for norm in (block.layer_norm_attention_src, block.layer_norm_attention_dest, block.layer_norm_mlp_dst):
        yield from _norm(name, norm)
    yield from _mlp(name, block.node_dst_mlp)


def _edge_mlp(name: str, block: Any) -> Iterator[str]:
    """Say what of the layers before the edges' embedding, from 0.11 on, does not depend on an edge alone."""
    before = getattr(block, "edge_pre_mlp", None)
    if before is None or isinstance(before, nn.Identity):
        return
    if not (isinstance(before, nn.Sequential) and len(before) == 2 and isinstance(before[1], nn.GELU)):
        yield f"an MLP of the edges in the {name} that is not linear, GELU"
        return
    yield from _linear(name, before[0])


def _processor(network: Network) -> Iterator[str]:
    kind = type(network.model.processor).__name__
    if kind != "TransformerProcessor":
        yield f"a processor of type {kind}, expected TransformerProcessor"
        return
    blocks = network.layers
    for block in blocks:
        if type(block).__name__ != "TransformerProcessorBlock":
            yield f"processor of {type(block).__name__}, expected TransformerProcessorBlock"
            return
        yield from _block(network, block)
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


def _block(network: Network, block: Any) -> Iterator[str]:
    yield from _attention(network, block)
    for norm in _norms(block):
        if not _conditional(norm):
            yield f"{type(norm).__name__} in the processor, expected ConditionalLayerNorm"
        elif norm.norm.weight is not None or norm.scale.in_features != network.noise_injector.noise_channels:
            yield "a ConditionalLayerNorm with weights of its own, or of another width than the noise"
    if all(map(_conditional, _norms(block))) and len({norm.norm.eps for norm in _norms(block)}) > 1:
        yield "a processor whose norms differ in eps"
    yield from _mlp("processor", block.mlp)


def _attention(network: Network, block: Any) -> Iterator[str]:
    attention = block.attention
    if attention.softcap:
        yield f"softcap {attention.softcap}"
    if attention.use_alibi_slopes:
        yield "alibi slopes"
    if getattr(attention, "use_rotary_embeddings", False):
        yield "rotary embeddings"
    if attention.head_dim > WIDEST_HEAD:
        yield f"processor with heads of {attention.head_dim} channels, expected at most {WIDEST_HEAD}"
    for layer in network.query_key_value(block):
        yield from _linear("processor", layer)
        if layer.bias is not None:
            yield "a bias on queries, keys and values"
    yield from _linear("processor", attention.projection, bias=True)
    if attention.qk_norm:
        for norm in (attention.q_norm, attention.k_norm):
            yield from _norm("processor", norm)
        if attention.q_norm.eps != attention.k_norm.eps:
            yield "norms of queries and keys with different eps"


def _boundings(network: Network) -> Iterator[str]:
    for bounding in network.boundings:
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


_CHECKS: dict[str, Callable[[Network], Iterator[str]]] = {
    "input": _input,
    "truncation": _truncation,
    "noise": _noise,
    "encoder": _encoder,
    "processor": _processor,
    "decoder": _decoder,
    "bounding": _boundings,
}
