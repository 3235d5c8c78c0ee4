"""The network as anemoi-models 0.11 makes it: that of AIFS ENS v2.

Beside the order of the input, the skip connection is a part of its own, layers of the processor stand alone, queries,
keys and values have a product each, and noise may be drawn on a coarse grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from aifs_ensemble.model.network import Network, Places

# Of 0.11.2, which is installed. In a `SparseProjector`'s place `projection` may have put another, which names it.
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "interface": {
        "AnemoiModelInterface": ("672dd3302dfa264b",),
    },
    "layers.attention": {
        "FlashAttentionWrapper": ("06d869a3e8e7ab9b",),
        "MultiHeadSelfAttention": ("9db2ed1a72fe2798",),
        "SDPAAttentionWrapper": ("40a6f437452cccd5",),
    },
    "layers.block": {
        "BaseBlock": ("5c43658be4e8b5c1",),
        "GraphTransformerBaseBlock": ("4a9155364f77c231",),
        "GraphTransformerMapperBlock": ("9c35c53eb01c96e1",),
        "TransformerProcessorBlock": ("472900a28c4800ae",),
    },
    "layers.conv": {
        "GraphTransformerConv": ("1259526f4e4e255d",),
    },
    "layers.ensemble": {
        "BaseNoiseInjector": ("9e1c1c0c27921db5",),
        "NoiseConditioning": ("9f448e075bbd6085",),
    },
    "layers.graph": {
        "NamedNodesAttributes": ("29b4939904ac6c09",),
        "TrainableTensor": ("326d9ca496c1709d",),
    },
    "layers.mapper": {
        "BackwardMapperPostProcessMixin": ("0d428f29e7352bf7",),
        "BaseMapper": ("363158bdd2331922",),
        "ForwardMapperPreProcessMixin": ("5b960bfaa9abf531",),
        "GraphEdgeMixin": ("b0f0b25bb52e6eb3",),
        "GraphTransformerBackwardMapper": ("22c39acddc81cdca",),
        "GraphTransformerBaseMapper": ("0d854f31da31b332",),
        "GraphTransformerForwardMapper": ("7695117cce8e8a52",),
    },
    "layers.normalization": {
        "AutocastLayerNorm": ("771c7620f5d31bd6",),
        "ConditionalLayerNorm": ("b293f75d35cf0142",),
    },
    "layers.processor": {
        "BaseProcessor": ("95676098d38542d1",),
        "TransformerProcessor": ("335722665d1eb27d",),
    },
    "layers.residual": {
        "BaseResidualConnection": ("3cbea79c3fe317e6",),
        "SkipConnection": ("0863ee98fad110ff",),
        "TruncatedConnection": ("539777f0123a5a4a",),
    },
    "layers.sparse_projector": {
        "SparseProjector": ("a128d26952ba6944",),
    },
    "models.base": {
        "BaseGraphModel": ("f21cb5ccbd044a9f",),
    },
    "models.encoder_processor_decoder": {
        "AnemoiModelEncProcDec": ("41d96f873f94c8fb",),
    },
    "models.ens_encoder_processor_decoder": {
        "AnemoiEnsModelEncProcDec": ("b35f387a476c8023",),
    },
}


class Network011(Network):
    """Reads a model of anemoi-models 0.11."""

    classes = CLASSES
    read_versions = "0.11.2"

    def edges(self, mapper: Any) -> tuple[Tensor, Tensor]:
        index, attributes = super().edges(mapper)
        return index, mapper.proc.edge_pre_mlp(attributes)

    @property
    def layers(self) -> list[Any]:
        return list(self.model.processor.proc)

    def query_key_value(self, layer: Any) -> tuple[Any, ...]:
        attention = layer.attention
        return attention.lin_q, attention.lin_k, attention.lin_v

    @property
    def places(self) -> Places:
        # variables, attributes, step, skip connection
        variables, attributes, skip = self._columns
        step = variables + attributes
        if not self.model.condition_on_residual:
            return Places(attributes=variables, step=step, skip=None, inputs=step + 1)
        return Places(attributes=variables, step=step, skip=step + 1, inputs=step + 1 + skip)

    @property
    def skip_kind(self) -> str:
        return type(self.model.residual).__name__

    @property
    def skip_time(self) -> int:
        return int(self.model.residual.step) if self.skip_kind == "SkipConnection" else -1

    @property
    def skip_matrices(self) -> list[Tensor]:
        residual = self.model.residual
        if self.skip_kind == "SkipConnection":
            return []
        return [part.projection_matrix for part in (residual.project_down, residual.project_up)]

    @property
    def noise_matrix(self) -> Tensor | None:
        projector = self.noise_injector.noise_projector
        return None if projector is None else projector.projection_matrix

    def replaced(self) -> Iterator[Any]:
        yield from self.model.residual.modules()
        injector = getattr(self.model, "noise_injector", None)
        yield from (injector, getattr(injector, "noise_projector", None))

    @staticmethod
    def entrance(interface: Any) -> Any:
        return interface.model
