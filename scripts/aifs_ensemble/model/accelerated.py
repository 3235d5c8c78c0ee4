"""The forward pass of AIFS ENS, arranged so that a GPU does little else than products.

`AcceleratedForward` computes what anemoi-models' ``AnemoiEnsModelEncProcDec.forward`` computes under
autocast, from the same weights:

- the mappers' attention runs destination by destination (`graph_attention`): no tensor with a row
  per edge, no atomics, so the result does not change from run to run;
- what depends on the checkpoint alone (hidden nodes' embedding, their queries) is computed once;
- the truncation of the skip connection sums row by row (`truncation`), again without atomics;
- the decoder goes through the data grid in parts, so that intermediates stay small;
- keys and values, and queries and the skip connection, come from one product each;
- residual sums, layer norms and their noise conditioning are one pass (`conditional_norm`);
- one transformer block is compiled and used for all layers;
- the whole of it can be recorded as a CUDA graph, which the host then starts with one call instead of a thousand.

Weights are held in the precision of the products. Sums, norms and softmax are in float32. Products may be in float8
where `float8` says so, layer by layer: what they read then comes quantised out of the kernel before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aifs_ensemble.model import graph_attention as ga
from aifs_ensemble.model.attention import WindowAttention, window_attention
from aifs_ensemble.model.conditional_norm import add_norm, add_norm_to_float8, pack
from aifs_ensemble.model.cuda_graph import RecordedPass
from aifs_ensemble.model.determinism import places_written_once
from aifs_ensemble.model.float8 import Float8Linear, Quantised, check_names, gelu_to_float8, norm_to_float8
from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.network import Network, NotAcceleratedError
from aifs_ensemble.model.supported import reasons_against
from aifs_ensemble.model.truncation import Truncation

__all__ = ["AcceleratedForward", "NotAcceleratedError", "reasons_against"]


@dataclass
class Linear:
    """Weight ``(out, in)`` and bias ``(out,)`` of a linear layer in the products' precision."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Products:
    """Makes linear layers: in 16 bits, in the type `dtype`, or in float8 where their name is in `float8`."""

    dtype: torch.dtype
    float8: Collection[str] = ()

    def __call__(self, name: str, *layers: Any, pad_inputs: int = 0) -> Linear | Float8Linear:
        """Stack layers that read the same input into one, its inputs padded with zeros."""
        weight = torch.cat([layer.weight for layer in layers]).detach()
        biases = [torch.zeros_like(x.weight[:, 0]) if x.bias is None else x.bias for x in layers]
        bias = None if all(x.bias is None for x in layers) else torch.cat(biases).detach()
        weight = F.pad(weight, (0, pad_inputs))
        if name in self.float8:
            return Float8Linear.of(self.dtype, weight, bias, name)
        return Linear(weight.to(self.dtype).contiguous(), None if bias is None else bias.to(self.dtype))

    def mlp(self, name: str, sequence: Any) -> Mlp:
        """Return the layers of an anemoi-models MLP: linear, GELU, linear."""
        return Mlp(self(name, sequence[0]), self(name, sequence[2]))


@dataclass
class Norm:
    """A layer norm with its own scale and shift, kept in float32."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, self.eps).to(x.dtype)

    def read_by(self, layer: Linear | Float8Linear, x: Tensor) -> Tensor | Quantised:
        """Return the norm of `x` in the form that `layer` reads."""
        if isinstance(layer, Float8Linear):
            return norm_to_float8(x, self.weight, self.bias, self.eps)
        return self(x)

    def into(self, layer: Linear | Float8Linear, x: Tensor) -> Tensor:
        """Return what `layer` makes of the norm of `x`."""
        return layer(self.read_by(layer, x))  # type: ignore[arg-type]

    @classmethod
    def of(cls, layer: Any) -> Norm:
        weight = None if layer.weight is None else layer.weight.detach().float()
        bias = None if layer.bias is None else layer.bias.detach().float()
        return cls(weight, bias, layer.eps)


@torch.library.custom_op("aifs_ensemble::linear_gelu", mutates_args=())
def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True)


@_linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, gelu: str) -> Tensor:
    """GELU of a linear layer: ``exact`` (erf), or ``fused`` into the product (its tanh form)."""
    return _linear_gelu(x, weight, bias) if gelu == "fused" else F.gelu(F.linear(x, weight, bias))


@dataclass
class Mlp:
    """A linear layer, GELU, and another one, both of the same kind."""

    up: Linear | Float8Linear
    down: Linear | Float8Linear

    def __call__(self, x: Tensor | Quantised, gelu: str) -> Tensor:
        """Return ``(rows, channels)`` of `x`, which is in the form that `up` reads."""
        if isinstance(self.up, Float8Linear) and isinstance(self.down, Float8Linear):
            return self.down(gelu_to_float8(self.up(x), gelu))
        assert self.up.bias is not None and isinstance(x, Tensor)
        return self.down(linear_gelu(x, self.up.weight, self.up.bias, gelu))

    def of_norm(self, norm: Norm, x: Tensor, gelu: str) -> Tensor:
        """Return ``(rows, channels)`` of the norm of `x`."""
        return self(norm.read_by(self.up, x), gelu)


class _Edges:
    """The edges of one mapper: sorted, attributes padded, their linear embedding, and norms of queries and keys."""

    def __init__(self, network: Network, mapper: Any, destinations: int, dtype: torch.dtype):
        block = mapper.proc
        index, attributes = network.edges(mapper)
        edges = ga.sort_edges(index, destinations)
        self.row, self.source = edges.row, edges.source
        self.attributes = ga.pad_attributes(attributes[edges.order].detach().to(dtype)).contiguous()
        self.weight = ga.pad_attributes(block.lin_edge.weight.detach().to(dtype)).contiguous()
        bias = block.lin_edge.bias
        self.bias = torch.zeros_like(self.weight[:, 0]) if bias is None else bias.detach().to(dtype)
        self.heads = block.num_heads
        self.norms = (Norm.of(block.q_norm), Norm.of(block.k_norm)) if block.qk_norm else None

    def attend(self, query: Tensor, key_value: Tensor, row: Tensor, added: Tensor) -> Tensor:
        key, value = key_value.chunk(2, -1)
        if self.norms is not None:
            query, key = (
                norm(x.unflatten(-1, (self.heads, -1))).flatten(-2)
                for norm, x in zip(self.norms, (query, key), strict=True)
            )
        return ga.attend(
            query, key, value, self.attributes, self.weight, self.bias, row, self.source, added, self.heads
        )


class _Encoder:
    def __init__(self, network: Network, linear: Products, pad: int, gelu: str):
        self.gelu, dtype = gelu, linear.dtype
        mapper, block = network.encoder, network.encoder.proc
        self.embed = linear("encoder.embedding", mapper.emb_nodes_src, pad_inputs=pad)
        self.norm_source = Norm.of(block.layer_norm_attention_src)
        self.key_value = linear("encoder.key_value", block.lin_key, block.lin_value)
        self.projection = linear("encoder.projection", block.projection)
        self.norm_mlp = Norm.of(block.layer_norm_mlp_dst)
        self.mlp = linear.mlp("encoder.mlp", block.node_dst_mlp)
        nodes = network.hidden
        self.edges = _Edges(network, mapper, nodes.shape[0], dtype)
        # hidden nodes enter the encoder with fixed attributes: their part of the block is a constant
        hidden = mapper.emb_nodes_dst(nodes)
        normal = Norm.of(block.layer_norm_attention_dest)(hidden)
        self.skip = hidden.detach().to(dtype)
        self.query = block.lin_query(normal).detach().to(dtype)
        self.self_part = block.lin_self(normal).detach().to(dtype)

    def rows(self, x: Tensor) -> Tensor:
        """Keys and values ``(nodes, 2 channels)`` of data nodes ``x (nodes, inputs)``."""
        return self.norm_source.into(self.key_value, self.embed(x))

    def gather(self, key_value: Tensor) -> Tensor:
        """The latent state ``(hidden nodes, channels)``."""
        out = self.projection(self.edges.attend(self.query, key_value, self.edges.row, self.self_part)) + self.skip
        return self.mlp.of_norm(self.norm_mlp, out, self.gelu) + out


class _Decoder:
    def __init__(self, network: Network, linear: Products, pad: int, gelu: str):
        self.gelu = gelu
        mapper, block = network.decoder, network.decoder.proc
        self.norm_source = Norm.of(block.layer_norm_attention_src)
        self.key_value = linear("decoder.key_value", block.lin_key, block.lin_value)
        self.embed = linear("decoder.embedding", mapper.emb_nodes_dst, pad_inputs=pad)
        self.norm = Norm.of(block.layer_norm_attention_dest)
        self.query_self = linear("decoder.query_self", block.lin_query, block.lin_self)
        self.projection = linear("decoder.projection", block.projection)
        self.norm_mlp = Norm.of(block.layer_norm_mlp_dst)
        self.mlp = linear.mlp("decoder.mlp", block.node_dst_mlp)
        self.norm_out = Norm.of(mapper.node_data_extractor[0])
        self.extract = linear("decoder.extraction", mapper.node_data_extractor[1])
        self.edges = _Edges(network, mapper, network.points, linear.dtype)

    def sources(self, latent: Tensor) -> Tensor:
        """Keys and values ``(hidden nodes, 2 channels)``."""
        return self.norm_source.into(self.key_value, latent)

    def rows(self, x: Tensor, key_value: Tensor, row: Tensor) -> Tensor:
        """Output ``(nodes, outputs)`` of data nodes ``x (nodes, inputs)`` with their part of `row`."""
        embedded = self.embed(x)
        query, self_part = self.norm.into(self.query_self, embedded).chunk(2, -1)
        out = self.projection(self.edges.attend(query, key_value, row, self_part)) + embedded
        out = self.mlp.of_norm(self.norm_mlp, out, self.gelu) + out
        return self.norm_out.into(self.extract, out)


@dataclass
class _Layer:
    """A transformer layer: its products, norms of queries and of keys where it has them, and its other norm."""

    qkv: Linear | Float8Linear
    qk_norms: tuple[Norm, Norm] | None
    projection: Linear | Float8Linear
    norm: Tensor
    mlp: Mlp

    @classmethod
    def of(cls, network: Network, block: Any, linear: Products) -> _Layer:
        attention = block.attention
        return cls(
            linear("processor.qkv", *network.query_key_value(block)),
            (Norm.of(attention.q_norm), Norm.of(attention.k_norm)) if attention.qk_norm else None,
            linear("processor.projection", attention.projection),
            pack(block.layer_norm_mlp.scale, block.layer_norm_mlp.bias),
            linear.mlp("processor.mlp", block.mlp),
        )


class _Processor:
    """The transformer layers; a layer is an argument of one function, so that it is compiled once."""

    def __init__(self, network: Network, linear: Products, attention: Callable[..., Tensor], gelu: str):
        blocks = network.layers
        first = blocks[0].attention
        self.heads, self.width, self.attention, self.gelu = first.num_heads, first.head_dim, attention, gelu
        self.eps = blocks[0].layer_norm_attention.norm.eps
        self.layers = [_Layer.of(network, block, linear) for block in blocks]
        entries = [pack(b.layer_norm_attention.scale, b.layer_norm_attention.bias) for b in blocks]
        # each layer ends with the norm that the next one starts with
        self.first_norm = entries[0]
        self.next_norms = [*entries[1:], torch.zeros_like(entries[0])]

    def block(
        self, x: Tensor, normal: Tensor | Quantised, noise: Tensor, next_norm: Tensor, layer: _Layer
    ) -> tuple[Tensor, Tensor | Quantised]:
        """One layer: from ``x (nodes, channels)`` and its norm to the next layer's, each norm as it is read."""
        nodes = x.shape[0]
        query, key, value = layer.qkv(normal).view(nodes, 3, self.heads, self.width).unbind(1)  # type: ignore[arg-type]
        if layer.qk_norms is not None:
            of_query, of_key = layer.qk_norms
            query, key = of_query(query), of_key(key)
        mixed = self.attention(*(part.permute(1, 0, 2)[None] for part in (query, key, value)))[0]
        delta = layer.projection(mixed.permute(1, 0, 2).reshape(nodes, -1))
        x, normal = self.sum_and_norm(x, delta, noise, layer.norm, layer.mlp.up)
        return self.sum_and_norm(x, layer.mlp(normal, self.gelu), noise, next_norm, layer.qkv)

    def sum_and_norm(
        self, x: Tensor, delta: Tensor, noise: Tensor, norm: Tensor, reader: Linear | Float8Linear
    ) -> tuple[Tensor, Tensor | Quantised]:
        """Return ``x + delta`` and its norm in the form that `reader` takes."""
        into = add_norm_to_float8 if isinstance(reader, Float8Linear) else add_norm
        return into(x, delta, noise, norm, self.eps)

    def __call__(self, block: Callable[..., tuple[Tensor, Tensor | Quantised]], x: Tensor, noise: Tensor) -> Tensor:
        """Run all layers through `block`, which is this object's `block`, compiled or not."""
        x, normal = self.sum_and_norm(x, torch.zeros_like(x), noise, self.first_norm, self.layers[0].qkv)
        for layer, next_norm in zip(self.layers, self.next_norms, strict=True):
            x, normal = block(x, normal, noise, next_norm, layer)
        return x


class AcceleratedForward:
    """Stands in for ``AnemoiEnsModelEncProcDec.forward`` with batch and ensemble of one.

    Parameters
    ----------
    model : the anemoi-models model, on the GPU, in float32
    dtype : precision of products (float16 or bfloat16)
    attention : other than the card's fastest with the checkpoint's window
    chunks : parts in which the decoder goes through the data grid, or the next number that divides it
    gelu : ``exact`` (erf, as the model has it) or ``fused`` into the product (tanh form)
    compiled : use torch.compile for the parts
    float8 : names of the products that are in float8 (`float8.PRODUCTS` lists them), the others being in `dtype`

    Raises
    ------
    NotAcceleratedError : the model has parts that are not known here (`reasons_against` names them)
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        *,
        chunks: int = 1,
        compiled: bool = True,
        gelu: str = "fused",
        attention: WindowAttention | None = None,
        float8: Collection[str] = (),
    ):
        reasons = reasons_against(model) + ([] if ga.HAS_TRITON else ["no Triton here"])
        if reasons:
            raise NotAcceleratedError("; ".join(reasons))
        check_names(float8)
        linear = Products(dtype, float8)
        network, self.dtype = network_class()(model), dtype
        self.places = network.places
        self.inputs = self.places.inputs
        pad = -self.inputs % 16
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            self.encoder, self.decoder = _Encoder(network, linear, pad, gelu), _Decoder(network, linear, pad, gelu)
            data, self.hidden = network.data, network.hidden
        self.nodes = data.shape[0]
        # parts of one size, so that one compiled function serves them all
        self.chunks = next(n for n in range(chunks, self.nodes + 1) if self.nodes % n == 0)
        # the step's input, kept as a buffer because node attributes and padding never change
        self.buffer = torch.zeros((self.nodes, self.inputs + pad), dtype=dtype, device=data.device)
        self.prognostic = torch.as_tensor(network.prognostic_in, device=data.device)
        self.skip_time, matrices = network.skip_time, network.skip_matrices
        self.truncation = Truncation(matrices, self.prognostic) if matrices else None
        self.prognostic_out, self.boundings = network.prognostic_out, network.boundings
        self.noise_injector, matrix = network.noise_injector, network.noise_matrix
        self.noise_points = self.hidden.shape[0] if matrix is None else matrix.shape[1]
        noise_channels = torch.arange(self.noise_injector.noise_channels, device=data.device)
        self.spread = None if matrix is None else Truncation([matrix], noise_channels)
        first = self.places.attributes
        self.buffer[:, first : first + data.shape[1]] = data.to(dtype)
        heads = network.layers[0].attention
        attention = attention or window_attention(
            self.hidden.shape[0], heads.window_size, data.device, dtype, heads.num_heads, heads.head_dim
        )
        self.attention = attention.name
        self.processor = _Processor(network, linear, attention.attend, gelu)
        self.bounds = [self.nodes * i // self.chunks for i in range(self.chunks + 1)]
        wrap: Callable[[Any], Any] = lambda function: function  # noqa: E731
        if compiled:
            wrap = partial(torch.compile, dynamic=False)
        self._encode_rows, self._gather = wrap(self.encoder.rows), wrap(self.encoder.gather)
        self._block = wrap(self.processor.block)
        self._sources, self._decode_rows = wrap(self.decoder.sources), wrap(self.decoder.rows)
        self._assemble_output = wrap(self._residual)
        self._recorded: RecordedPass | None = None

    def _assemble(self, x: Tensor, fcstep: int) -> Tensor:
        """Fill the input buffer from the normalised ``x (1, time, 1, nodes, variables)``; return the skip part."""
        times, variables = x.shape[1], x.shape[-1]
        for time in range(times):
            self.buffer[:, time * variables : (time + 1) * variables] = x[0, time, 0]
        passed_on, first = x[0, self.skip_time, 0], self.places.skip
        skip = passed_on.index_select(1, self.prognostic) if self.truncation is None else self.truncation(passed_on)
        if first is not None:
            self.buffer[:, first : first + skip.shape[1]] = skip
        self.buffer[:, self.places.step] = min(1, fcstep)
        return skip

    def _residual(self, out: Tensor, skip: Tensor) -> Tensor:
        result = out.float()[None, None]
        result[..., self.prognostic_out] += skip
        for bounding in self.boundings:
            result = bounding(result)
        return result

    def noise(self) -> Tensor:
        """The step's noise ``(hidden nodes, few)``: drawn as the model draws it, from the default generator."""
        injector = self.noise_injector
        with torch.autocast("cuda", dtype=self.dtype, cache_enabled=False):
            drawn = torch.randn((self.noise_points, injector.noise_channels), device=self.hidden.device)
            drawn *= injector.noise_std
            return injector.noise_mlp(drawn if self.spread is None else self.spread(drawn)).float()

    def __call__(self, x: Tensor, *, fcstep: int, **_: Any) -> Tensor:
        """Return the model's output ``(1, 1, nodes, outputs)``, normalised, float32.

        Once recorded, every call returns the same tensor with new content.
        """
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            skip = self._assemble(x, fcstep)
            return self._pass(skip) if self._recorded is None else self._recorded.replay(skip)

    def _pass(self, skip: Tensor) -> Tensor:
        """What lies between the assembled input and the output, with nothing that the host must know of it."""
        encoded = self._gather(self._encode_rows(self.buffer))
        latent = self.processor(self._block, encoded, self.noise())
        sources = self._sources(latent + encoded)
        row = self.decoder.edges.row
        parts = [
            self._decode_rows(self.buffer[first:last], sources, row[first : last + 1])
            for first, last in zip(self.bounds, self.bounds[1:], strict=False)
        ]
        with places_written_once():  # residual and bounds are added and set by index
            return self._assemble_output(torch.cat(parts), skip)

    @property
    def recorded(self) -> bool:
        """Whether the pass is a CUDA graph."""
        return self._recorded is not None

    def record(self) -> None:
        """Record the pass as a CUDA graph that later calls replay; everything must have been compiled by a call.

        The graph's memory is its own: what calls before it took is given back first. RuntimeError when something
        in the pass cannot be recorded; the process should then end.
        """
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            skip = torch.zeros((self.nodes, len(self.prognostic)), device=self.buffer.device)
            self._recorded = RecordedPass(self._pass, skip)
