"""What the released model may have and the demonstration has not, through both passes: tiny networks of each kind.

The released weights are not at hand. Public sources say, or leave open, what the network is made of: each possibility
is a network here, whose accelerated pass must be its own pass, or be refused by name (test_supported.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.common.models import get_model
from aifs_ensemble.model.supported import reasons_against

from model.toys import LEVELS, NEWER, RELEASED_ORDER, both_passes, some_inputs, toy

pytestmark = pytest.mark.models
first_form = pytest.mark.skipif(NEWER, reason="of AIFS ENS v1")
Change = Callable[[dict[str, Any]], None]


def alike(interface: Any, inputs: torch.Tensor | None = None) -> torch.Tensor:
    """Assert that both passes give the same, to float32's rounding; return it."""
    assert reasons_against(interface.model) == []
    found, own = both_passes(interface, inputs)
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    return found


def processor(**keys: Any) -> Change:
    return lambda config: config["model"]["processor"].update(keys)


def noise(channels: int, **keys: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        model = config["model"]
        model["noise_injector"].update(noise_channels_dim=channels, **keys)
        kernels = model["processor"]["layer_kernels"] if NEWER else model["layer_kernels"]["processor"]
        kernels["LayerNorm"]["condition_shape"] = channels

    return change


def trainables(nodes: int, edges: int) -> Change:
    def change(config: dict[str, Any]) -> None:
        model = config["model"]
        model["trainable_parameters"].update(data=nodes, hidden=nodes, data2hidden=edges, hidden2data=edges)
        for mapper in ("encoder", "decoder"):
            model[mapper]["trainable_size"] = edges

    return change


def without_qk_norm_or_capping(config: dict[str, Any]) -> None:
    config["model"]["processor"].update(qk_norm=False, softcap=0.0, use_alibi_slopes=False)


def in_model(part: str, **keys: Any) -> Change:
    """Change keys of a part of the network's configuration; of the network itself where it is empty."""
    return lambda config: (config["model"][part] if part else config["model"]).update(keys)


def in_mappers(**keys: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        for mapper in ("encoder", "decoder"):
            config["model"][mapper].update(keys)

    return change


def kernels(**keys: Any) -> Change:
    """Change layers of the processor."""

    def change(config: dict[str, Any]) -> None:
        for name, values in keys.items():
            config["model"]["processor"]["layer_kernels"][name] |= values

    return change


COARSE: dict[str, Any] = {"data_grid": "O4", "truncation": "O2", "hidden": "O2", "noise": "O1"}
SECOND: dict[str, tuple[Change | None, dict[str, Any]]] = {
    "truncated, noise from a coarse grid": (None, COARSE),
    "noise from a coarse grid, twice as strong, 12 channels": (
        noise(12, noise_std=2), {"data_grid": "O4", "hidden": "O2", "noise": "O1"},
    ),
    "truncated, and the network does not read it": (in_model("", condition_on_residual=False), COARSE),
    "whole, and the network reads it": (in_model("", condition_on_residual=True), {}),
    "the first time is passed on": (in_model("residual", step=0), {}),
    "norms of queries and keys with biases": (kernels(QueryNorm={"bias": True}, KeyNorm={"bias": True}), {}),
    "norms that keep the type": (kernels(LayerNorm={"autocast": True}), {}),
    "edges through an MLP": (in_mappers(edge_pre_mlp=True), {}),
    "mappers by heads": (in_mappers(shard_strategy="heads"), {}),
}  # fmt: skip
KINDS: dict[str, tuple[Change | None, dict[str, Any]]] = {
    **(SECOND if NEWER else {}),
    "no norm of queries and keys": (processor(qk_norm=False), {}),
    "norms of queries and keys in the mappers": (in_mappers(qk_norm=True), {"heads": 4}),
    "no edge trainables, softcap 0.0": (
        lambda config: (trainables(8, 0)(config), without_qk_norm_or_capping(config))[0], {},
    ),
    "no trainables at all": (trainables(0, 0), {}),
    "more edge attributes than 16": (trainables(3, 20), {}),
    "no window": (processor(window_size=None), {}),
    "3 noise channels": (noise(3), {}),
    "12 noise channels, twice as strong": (noise(12, noise_std=2, noise_mlp_hidden_dim=10), {}),
    "8 heads of 6 channels": (None, {"channels": 48, "heads": 8}),
    "heads of 40 channels, odd number of layers": (None, {"channels": 80, "heads": 2, "layers": 3}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_accelerated_pass_is_the_models_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, size = KINDS[kind]
    interface = toy(tmp_path / "toy.ckpt", monkeypatch, change=change, **size)
    generator = torch.Generator().manual_seed(4)
    for module in interface.model.modules():
        if isinstance(module, torch.nn.LayerNorm) and module.elementwise_affine:  # new ones are 1 and 0
            for weights in (w for w in (module.weight, module.bias) if w is not None):
                weights.data += 0.3 * torch.randn(weights.shape, generator=generator)
    alike(interface)


@first_form
def test_laid_out_as_the_released_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order of variables, names in the archive, truncation, no edge trainables: all at once."""

    def change(config: dict[str, Any]) -> None:
        trainables(8, 0)(config)
        config["model"]["processor"].update(softcap=0.0, use_alibi_slopes=False)

    path = tmp_path / "aifs-ens-crps-1.0.ckpt"
    interface = toy(
        path, monkeypatch, change=change, order=RELEASED_ORDER, released=True, data_grid="O4", truncation="O2"
    )
    names = interface.data_indices.model.input.name_to_index
    assert names["q_50"] == 0 and names["stl2"] == len(names) - 1
    alike(interface)


@first_form
def test_the_public_crps_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformer_ens.yaml of anemoi-training at models-0.6.0, with fewer channels and layers."""

    def change(config: dict[str, Any]) -> None:
        noise(4, noise_std=1, noise_mlp_hidden_dim=32)(config)
        trainables(8, 8)(config)
        for mapper in ("encoder", "decoder"):
            config["model"][mapper].update(num_chunks=4, qk_norm=False)
        config["model"]["processor"].update(
            window_size=512, qk_norm=True, softcap=0.0, use_alibi_slopes=False, num_chunks=2
        )
        bounding = "anemoi.models.layers.bounding.ReluBounding"
        config["model"]["bounding"] = [{"_target_": bounding, "variables": ["tp"]}]

    size = {
        "channels": 64,
        "heads": 16,
        "layers": 2,
        "attention": "flash_attention",
        "data_grid": "O4",
        "truncation": "O2",
    }
    alike(toy(tmp_path / "toy.ckpt", monkeypatch, change=change, **size))


def single(config: dict[str, Any]) -> None:
    """AIFS Single 1.1 (ecmwf/anemoi-configs aifs-single-mse-1.1): processors and boundings."""
    moist = ["tcw", *(f"q_{level}" for level in LEVELS)]
    forcings = [name for name in config["data"]["forcing"] if name not in ("z", "sdor", "slor")]
    config["data"]["processors"] = {
        "imputer": {
            "_target_": "anemoi.models.preprocessing.imputer.InputImputer",
            "_convert_": "all",
            "config": {"default": "none", "mean": ["stl1", "stl2"], "minimum": ["ro", "swvl1", "swvl2"]},
        },
        "normalizer": {
            "_target_": "anemoi.models.preprocessing.normalizer.InputNormalizer",
            "config": {
                "default": "mean-std",
                "std": ["tp", "cp", "sf", "ro", "ssrd", *moist],
                "max": ["sdor", "slor", "z"],
                "none": [*forcings, "tcc", "mcc", "hcc", "lcc", "swvl1", "swvl2"],
                "remap": {"cp": "tp", "sf": "tp"},
            },
        },
    }
    limits = {"min_val": 0, "max_val": 1}
    config["model"]["bounding"] = [
        {"_target_": f"anemoi.models.layers.bounding.{kind}Bounding", **keys}
        for kind, keys in (
            ("Relu", {"variables": ["tp", "ro", "tcw", "ssrd", "ro", *moist[1:]]}),
            ("Hardtanh", {"variables": ["tcc", "swvl1", "swvl2"], **limits}),
            ("Fraction", {"variables": ["cp", "sf"], "total_var": "tp", **limits}),
            ("Fraction", {"variables": ["lcc", "mcc", "hcc"], "total_var": "tcc", **limits}),
        )
    ]
    config["model"]["processor"].update(window_size=1120, qk_norm=False, softcap=0.0, use_alibi_slopes=False)


def single_toy(path: Path, monkeypatch: pytest.MonkeyPatch, change: Change) -> Any:
    demo = get_model("demo")
    soil = replace(demo, soil=(*demo.soil, "swvl1", "swvl2"))
    late = ["swvl1", "swvl2", "stl1", "stl2", "ssrd", "strd", "sf", "tcc", "mcc", "hcc", "lcc", "100u", "100v", "ro"]
    order = [*sorted(set(RELEASED_ORDER) - set(late)), *late]
    return toy(path, monkeypatch, change=change, order=order, model=soil, channels=64, heads=16)


@first_form
def test_what_aifs_single_processes_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network of AIFS ENS: inputs are imputed and scaled, and outputs bounded, as in AIFS Single 1.1."""
    interface = single_toy(tmp_path / "toy.ckpt", monkeypatch, single)
    found = alike(interface, 3 * some_inputs(interface))
    places = interface.data_indices.internal_model.output.name_to_index
    of = {name: found[..., place] for name, place in places.items()}
    for part, total in (("cp", "tp"), ("sf", "tp"), ("lcc", "tcc"), ("mcc", "tcc"), ("hcc", "tcc")):
        assert (of[part] >= 0).all() and (of[part] <= of[total]).all() and of[part].max() > 0
    assert of["tcc"].max() == 1 and of["swvl1"].min() == 0 and of["q_850"].min() == 0


@first_form
def test_aifs_single_itself_is_refused_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(config: dict[str, Any]) -> None:
        single(config)
        model = config["model"]
        model["model"]["_target_"] = "anemoi.models.models.AnemoiModelEncProcDec"
        model["layer_kernels"]["processor"]["LayerNorm"] = {"_target_": "torch.nn.LayerNorm", "_partial_": True}

    interface = single_toy(tmp_path / "toy.ckpt", monkeypatch, change)
    assert reasons_against(interface.model) == [
        "a model of type AnemoiModelEncProcDec, expected AnemoiEnsModelEncProcDec"
    ]
    with torch.no_grad():
        assert torch.isfinite(interface.model(some_inputs(interface))).all()


def every_bounding(config: dict[str, Any]) -> None:
    normalized = {"min_val": [0.0, 0.5], "normalizer": ["mean-std", "std"]}
    kinds = {
        "Relu": {"variables": ["tp"]},
        "LeakyRelu": {"variables": ["ro", "ssrd"]},
        "NormalizedRelu": {"variables": ["q_850", "tcw"], **normalized},
        "NormalizedLeakyRelu" if NEWER else "LeakyNormalizedRelu": {"variables": ["q_500", "2t"], **normalized},
        "Hardtanh": {"variables": ["tcc"], "min_val": 0, "max_val": 1},
        "LeakyHardtanh": {"variables": ["10u", "mcc"], "min_val": -0.5, "max_val": 0.8},
        "Fraction": {"variables": ["cp", "sf"], "min_val": 0, "max_val": 1, "total_var": "tp"},
        "LeakyFraction": {"variables": ["lcc", "hcc"], "min_val": 0, "max_val": 1, "total_var": "tcc"},
    }
    bounding = "anemoi.models.layers.bounding.{}Bounding"
    config["model"]["bounding"] = [{"_target_": bounding.format(kind), **keys} for kind, keys in kinds.items()]


def test_every_kind_of_bounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interface = toy(tmp_path / "toy.ckpt", monkeypatch, change=every_bounding)
    inputs = 3 * some_inputs(interface)
    bounded = alike(interface, inputs)
    boundings, interface.model.boundings = interface.model.boundings, torch.nn.ModuleList()
    free, _ = both_passes(interface, inputs)
    for bounding in boundings:
        for name in bounding.variables:
            place = interface.data_indices.model.output.name_to_index[name]
            assert not torch.equal(bounded[..., place], free[..., place]), f"{bounding} never bounds {name}"
