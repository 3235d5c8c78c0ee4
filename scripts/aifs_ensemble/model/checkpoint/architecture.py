"""Configuration and metadata of an untrained checkpoint, in the form that anemoi-models 0.6.0 writes."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from aifs_ensemble.common.models import Model
from aifs_ensemble.common.parameters import split_variable

SCHEMA = "aifs-ensemble/untrained-checkpoint/1"

ATTENTIONS = ("scaled_dot_product_attention", "flash_attention")

# Computed forcings that do not change with time; the others follow the date.
_FIXED_FORCINGS = ("cos_latitude", "sin_latitude", "cos_longitude", "sin_longitude")

# Packages whose versions decide whether a pickled model can be loaded and run.
_PACKAGES = {
    "anemoi.models": "anemoi-models",
    "anemoi.utils": "anemoi-utils",
    "torch": "torch",
    "torch_geometric": "torch-geometric",
    "numpy": "numpy",
    "einops": "einops",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
}

# Normalisation by method; precipitation parts are scaled as their total, of which they are a fraction.
_SCALED_BY_LARGEST = ("sdor", "slor")
_SCALED_BY_DEVIATION = ("tp", "cp", "sf", "ro", "ssrd", "strd")
_NOT_SCALED = ("lsm", "tcc", "hcc", "mcc", "lcc")
_FRACTIONS_OF_RAIN = ("cp", "sf")
_NOT_NEGATIVE = ("tp", "ro", "ssrd", "strd")
_BETWEEN_0_AND_1 = ("tcc", "hcc", "mcc", "lcc")


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes
    ----------
    hidden : name of the hidden grid, such as ``O96``
    channels, layers, heads : of the processor
    window : hidden nodes on either side that a node attends to
    attention : one of `ATTENTIONS`; the first builds the whole mask, and is for small grids only
    """

    hidden: str
    channels: int
    layers: int
    heads: int
    window: int
    attention: str = ATTENTIONS[0]


def all_variables(model: Model) -> list[str]:
    """Return every variable of the training data, sorted: what is read, computed and made."""
    return sorted({*model.inputs, *model.computed, *model.diagnostic})


def present(names: Iterable[str], among: Iterable[str]) -> list[str]:
    there = set(among)
    return [name for name in names if name in there]


def _kernels(layer_norm: Mapping[str, Any]) -> dict[str, Any]:
    norm = {"_target_": "anemoi.models.layers.normalization.AutocastLayerNorm", "_partial_": True, "bias": False}
    linear = {"_target_": "torch.nn.Linear", "_partial_": True}
    return {"LayerNorm": dict(layer_norm), "Linear": linear, "QueryNorm": dict(norm), "KeyNorm": dict(norm)}


def normalizer(model: Model) -> dict[str, Any]:
    variables = all_variables(model)
    methods: dict[str, Any] = {
        "default": "mean-std",
        "max": present(_SCALED_BY_LARGEST, variables),
        "std": present(_SCALED_BY_DEVIATION, variables),
        "none": [*model.computed, *present(_NOT_SCALED, variables)],
    }
    if "tp" in variables:
        methods["remap"] = dict.fromkeys(present(_FRACTIONS_OF_RAIN, variables), "tp")
    return {"_target_": "anemoi.models.preprocessing.normalizer.InputNormalizer", "config": methods}


def boundings(model: Model) -> list[dict[str, Any]]:
    """Return what keeps diagnostics and humidity within what they can be."""
    bounding = "anemoi.models.layers.bounding."
    moist = present([name for name in model.prognostic if name.startswith("q_") or name == "tcw"], model.prognostic)
    entries: list[dict[str, Any]] = [
        {"_target_": bounding + "ReluBounding", "variables": present(_NOT_NEGATIVE, model.diagnostic)},
        {
            "_target_": bounding + "HardtanhBounding",
            "variables": present(_BETWEEN_0_AND_1, model.diagnostic),
            "min_val": 0,
            "max_val": 1,
        },
        {
            "_target_": bounding + "NormalizedReluBounding",
            "variables": moist,
            "min_val": [0.0] * len(moist),
            "normalizer": ["mean-std"] * len(moist),
        },
    ]
    if "tp" in model.diagnostic:
        entries.append(
            {
                "_target_": bounding + "FractionBounding",
                "variables": present(_FRACTIONS_OF_RAIN, model.diagnostic),
                "min_val": 0,
                "max_val": 1,
                "total_var": "tp",
            }
        )
    return [entry for entry in entries if entry["variables"]]


def architecture(model: Model, size: Size) -> dict[str, Any]:
    """Return the training configuration of an AIFS-ENS-like network: encoder, processor, decoder, noise."""
    norm = {"_target_": "torch.nn.LayerNorm", "_partial_": True}
    conditional = {
        "_target_": "anemoi.models.layers.normalization.ConditionalLayerNorm",
        "_partial_": True,
        "normalized_shape": size.channels,
        "condition_shape": 4,
        "w_one_bias_zero_init": True,
        "autocast": False,
    }
    common = {"activation": "GELU", "mlp_hidden_ratio": 4, "num_heads": size.heads, "cpu_offload": False}
    edges = ["edge_length", "edge_dirs"]
    mapper = {**common, "num_chunks": 1, "qk_norm": False, "trainable_size": 8, "sub_graph_edge_attributes": edges}
    layers = "anemoi.models.layers."
    step = f"{model.timestep_hours}h"
    return {
        "data": {
            "forcing": [*model.constant, *model.computed],
            "diagnostic": list(model.diagnostic),
            "remapped": None,
            "timestep": step,
            "frequency": step,
            "processors": {"normalizer": normalizer(model)},
        },
        "training": {"multistep_input": 2, "precision": "16-mixed"},
        "graph": {"data": "data", "hidden": "hidden"},
        "dataloader": {},
        "model": {
            "num_channels": size.channels,
            "activation": "GELU",
            "cpu_offload": False,
            "model": {"_target_": "anemoi.models.models.AnemoiEnsModelEncProcDec"},
            "layer_kernels": {"processor": _kernels(conditional), "encoder": _kernels(norm), "decoder": _kernels(norm)},
            "noise_injector": {
                "_target_": layers + "ensemble.NoiseConditioning",
                "noise_std": 1,
                "noise_channels_dim": 4,
                "noise_mlp_hidden_dim": 32,
                "inject_noise": True,
            },
            "trainable_parameters": {"data": 8, "hidden": 8, "data2hidden": 8, "hidden2data": 8},
            "attributes": {"edges": edges, "nodes": []},
            "encoder": {"_target_": layers + "mapper.GraphTransformerForwardMapper", **mapper},
            "decoder": {
                "_target_": layers + "mapper.GraphTransformerBackwardMapper",
                **mapper,
                "initialise_data_extractor_zero": False,
            },
            "processor": {
                "_target_": layers + "processor.TransformerProcessor",
                **common,
                "num_layers": size.layers,
                "num_chunks": 2 if size.layers % 2 == 0 else 1,
                "window_size": size.window,
                "dropout_p": 0.0,
                "attention_implementation": size.attention,
                "qk_norm": True,
                "softcap": None,
                "use_alibi_slopes": None,
            },
            "bounding": boundings(model),
        },
    }


def variables_metadata(model: Model) -> dict[str, dict[str, Any]]:
    """Return for each variable its MARS keys and whether it is computed, constant or accumulated."""
    described: dict[str, dict[str, Any]] = {}
    for name in all_variables(model):
        if name in model.computed:
            described[name] = {"computed_forcing": True, "constant_in_time": name in _FIXED_FORCINGS}
            continue
        param, level = split_variable(name)
        if level:
            described[name] = {"mars": {"param": param, "levelist": level, "levtype": "pl"}}
            continue
        described[name] = {"mars": {"param": name, "levtype": "sfc"}}
        if name in model.constant:
            described[name]["constant_in_time"] = True
        if name in model.accumulated:
            described[name] |= {"process": "accumulation", "period": [0, model.timestep_hours]}
    return described


def provenance() -> dict[str, Any]:
    """Return the versions of this environment, in the form of anemoi's training provenance."""
    versions = {}
    for module, distribution in _PACKAGES.items():
        try:
            versions[module] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "module_versions": versions, "git_versions": {}}


def checkpoint_metadata(
    model: Model,
    *,
    grid: str,
    points: int,
    config: Mapping[str, Any],
    indices: Any,
    identity: str,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the metadata that anemoi-inference reads, saying that the model is untrained."""
    variables = all_variables(model)
    return {
        "version": "1.0",
        "aifs_ensemble": {"schema": SCHEMA, "model": model.name, "untrained": True, "title": model.title}
        | dict(made_by),
        "config": config,
        "run_id": identity,
        "uuid": identity,
        "seed": made_by["seed"],
        "dataset": {
            "variables": variables,
            "shape": [1, len(variables), 1, points],
            "variables_metadata": variables_metadata(model),
            "data_request": {"grid": grid, "area": [90, 0, -90, 360]},
        },
        "data_indices": indices,
        "provenance_training": provenance(),
    }
