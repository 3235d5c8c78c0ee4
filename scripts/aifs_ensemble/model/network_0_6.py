"""The network as anemoi-models 0.5.1 and 0.6 make it: that of AIFS ENS v1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from aifs_ensemble.model.network import Network, Places

# The first digest is of 0.6.0, which is installed, a second of 0.5.1, which was read beside it: the same numbers come
# out (parts of the block became methods of their own, arguments are passed by name). 0.5.0 has none where it differs:
# its `predict_step` loses `fcstep`, without which no step can be made.
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "interface": {
        "AnemoiModelInterface": ("92d5e946b2bd8f51",),
    },
    "layers.attention": {
        "FlashAttentionWrapper": ("d7ecc6a8c83d4b2f",),
        "MultiHeadSelfAttention": ("81ac43de2b0f2dff",),
        "SDPAAttentionWrapper": ("ec42ef4c705103dc",),
    },
    "layers.block": {
        "BaseBlock": ("5c43658be4e8b5c1",),
        "GraphTransformerBaseBlock": ("c203409b04369f0a", "61a3f592e4e73de0"),
        "GraphTransformerMapperBlock": ("48187c0fcab0f301", "811def75af4fb680"),
        "TransformerProcessorBlock": ("1d367eba0d87312b",),
    },
    "layers.chunk": {
        "BaseProcessorChunk": ("d22cffd9a80b605c",),
        "TransformerProcessorChunk": ("189a037384a027e9",),
    },
    "layers.conv": {
        "GraphTransformerConv": ("1259526f4e4e255d",),
    },
    "layers.ensemble": {
        "NoiseConditioning": ("72135442bc33bd80",),
        "NoiseInjector": ("dbe8aa27d1fcf421",),
    },
    "layers.graph": {
        "NamedNodesAttributes": ("29b4939904ac6c09",),
        "TrainableTensor": ("326d9ca496c1709d",),
    },
    "layers.mapper": {
        "BackwardMapperPostProcessMixin": ("30593eef1f9f2ffa",),
        "BaseMapper": ("9574d06cb4784143",),
        "ForwardMapperPreProcessMixin": ("a24a8dadff29f085",),
        "GraphEdgeMixin": ("b0f0b25bb52e6eb3",),
        "GraphTransformerBackwardMapper": ("d5a65321f7b05a1d",),
        "GraphTransformerBaseMapper": ("4248a89f387ee86b", "008400b0793f8d9d"),
        "GraphTransformerForwardMapper": ("c339363916f072cd",),
    },
    "layers.normalization": {
        "AutocastLayerNorm": ("771c7620f5d31bd6",),
        "ConditionalLayerNorm": ("edfacd542385c506",),
    },
    "layers.processor": {
        "BaseProcessor": ("f7ea56741371a13d",),
        "TransformerProcessor": ("6183f0678b0af1e7",),
    },
    "models.encoder_processor_decoder": {
        "AnemoiModelEncProcDec": ("7e6676ea70b0f71a",),
    },
    "models.ens_encoder_processor_decoder": {
        "AnemoiEnsModelEncProcDec": ("8324e29f3eeecd12",),
    },
}


class Network06(Network):
    """Reads a model of anemoi-models 0.5.1 or 0.6."""

    classes = CLASSES
    read_versions = "0.5.1, 0.6.0"

    @property
    def layers(self) -> list[Any]:
        return [layer for chunk in self.model.processor.proc for layer in chunk.blocks]

    def query_key_value(self, layer: Any) -> tuple[Any, ...]:
        return (layer.attention.lin_qkv,)

    @property
    def places(self) -> Places:
        # variables, skip connection, attributes, step
        variables, attributes, skip = self._columns
        step = variables + skip + attributes
        return Places(attributes=variables + skip, step=step, skip=variables, inputs=step + 1)

    @property
    def skip_kind(self) -> str:
        return ""

    @property
    def skip_time(self) -> int:
        return -1

    @property
    def skip_matrices(self) -> list[Tensor]:
        return [matrix for matrix in (self.model.A_down, self.model.A_up) if matrix is not None]

    @property
    def noise_matrix(self) -> Tensor | None:
        return None

    def replaced(self) -> Iterator[Any]:
        yield getattr(self.model, "noise_injector", None)

    @staticmethod
    def entrance(interface: Any) -> Any:
        return interface
