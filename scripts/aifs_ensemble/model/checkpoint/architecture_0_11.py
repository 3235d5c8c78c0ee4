"""Configuration of an untrained checkpoint in the form that anemoi-models 0.11 reads: that of AIFS ENS v2.

The form is that of ``config/model/transformer_ens.yaml`` of anemoi-core at models-0.11.2. What is known of the
released network, and what is inferred, is in docs/models.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aifs_ensemble.common.models import Model
from aifs_ensemble.model.checkpoint.architecture import Size, boundings, normalizer

NOISE_CHANNELS = 4
_LAYERS = "anemoi.models.layers."


def _kernels(layer_norm: Mapping[str, Any] | None = None) -> dict[str, Any]:
    norm = {"_target_": _LAYERS + "normalization.AutocastLayerNorm", "bias": False}
    return {
        "LayerNorm": dict(layer_norm or {"_target_": "torch.nn.LayerNorm"}),
        "Linear": {"_target_": "torch.nn.Linear"},
        "Activation": {"_target_": "torch.nn.GELU"},
        "QueryNorm": dict(norm),
        "KeyNorm": dict(norm),
    }


def may_miss(model: Model) -> list[str]:
    """Return the variables that are read and whose values may be missing somewhere: an imputer fills them in."""
    return [name for name in model.inputs if name in model.missing]


def _processors(model: Model) -> dict[str, Any]:
    imputer = {
        "_target_": "anemoi.models.preprocessing.imputer.InputImputer",
        "config": {"default": "none", "mean": may_miss(model)},
    }
    return ({"imputer": imputer} if may_miss(model) else {}) | {"normalizer": normalizer(model)}


def _noise(noise_file: str | None) -> dict[str, Any]:
    return {
        "_target_": _LAYERS + "ensemble.NoiseConditioning",
        "noise_std": 1,
        "noise_channels_dim": NOISE_CHANNELS,
        "noise_mlp_hidden_dim": 32,
        "noise_matrix": noise_file,
        "transpose_noise_matrix": noise_file is not None,
        "row_normalize_noise_matrix": False,
        "autocast": False,
        "layer_kernels": {"Activation": {"_target_": "torch.nn.GELU"}},
    }


def _residual(*, truncated: bool) -> dict[str, Any]:
    if not truncated:
        return {"_target_": _LAYERS + "residual.SkipConnection", "step": -1}
    return {
        "_target_": _LAYERS + "residual.TruncatedConnection",
        "data_nodes": "data",
        "truncation_nodes": "truncation",
        "edge_weight_attribute": "weight",
    }


def architecture_0_11(model: Model, size: Size, *, noise_file: str | None, truncated: bool) -> dict[str, Any]:
    """Return the training configuration of a network like AIFS ENS v2.

    Parameters
    ----------
    noise_file : sparse matrix ``(noise points, hidden nodes)`` by which noise of a coarse grid is spread
    truncated : the skip connection passes through the nodes ``truncation`` of the graph
    """
    conditional = {
        "_target_": _LAYERS + "normalization.ConditionalLayerNorm",
        "normalized_shape": size.channels,
        "condition_shape": NOISE_CHANNELS,
        "zero_init": True,
        "autocast": False,
    }
    common = {"mlp_hidden_ratio": 4, "num_heads": size.heads, "cpu_offload": False}
    edges = ["edge_length", "edge_dirs"]
    mapper = {
        **common,
        "num_chunks": 1,
        "qk_norm": False,
        "trainable_size": 8,
        "sub_graph_edge_attributes": edges,
        "layer_kernels": _kernels(),
        "shard_strategy": "edges",
        # `edges.as_released` has the say: anemoi-models itself takes triton only where there is a card
        "graph_attention_backend": "pyg",
    }
    step = f"{model.timestep_hours}h"
    return {
        "data": {
            "forcing": [*model.constant, *model.computed],
            "diagnostic": list(model.diagnostic),
            "target": None,
            "timestep": step,
            "frequency": step,
            "processors": _processors(model),
        },
        "training": {"multistep_input": 2, "precision": "bf16-mixed"},
        "graph": {"data": "data", "hidden": "hidden"},
        "dataloader": {},
        "model": {
            "num_channels": size.channels,
            "condition_on_residual": truncated,
            "cpu_offload": False,
            "model": {"_target_": "anemoi.models.models.AnemoiEnsModelEncProcDec"},
            "layer_kernels": _kernels(),
            "noise_injector": _noise(noise_file),
            "residual": _residual(truncated=truncated),
            "trainable_parameters": {"data": 8, "hidden": 8, "data2hidden": 8, "hidden2data": 8},
            "attributes": {"edges": edges, "nodes": []},
            "encoder": {"_target_": _LAYERS + "mapper.GraphTransformerForwardMapper", **mapper},
            "decoder": {
                "_target_": _LAYERS + "mapper.GraphTransformerBackwardMapper",
                **mapper,
                "initialise_data_extractor_zero": False,
            },
            "processor": {
                "_target_": _LAYERS + "processor.TransformerProcessor",
                **common,
                "num_layers": size.layers,
                "num_chunks": 2 if size.layers % 2 == 0 else 1,
                "window_size": size.window,
                "dropout_p": 0.0,
                "attention_implementation": size.attention,
                "qk_norm": True,
                "softcap": 0.0,
                "use_alibi_slopes": False,
                "layer_kernels": _kernels(conditional),
            },
            "bounding": boundings(model),
        },
    }
