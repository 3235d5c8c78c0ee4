"""Every condition of the accelerated pass, broken one by one in a model, is named before anything runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.model import accelerated, forms
from aifs_ensemble.model.supported import NotAcceleratedError, reasons_against
from torch import nn

from model.toys import NEWER, fast_pass, layer, toy

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def interface(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return toy(tmp_path_factory.mktemp("model") / "toy.ckpt", monkeypatch, layers=2)


class Unbounded(nn.Module):
    """A bounding that nobody knows, and a skip connection."""


def sparse(rows: int, columns: int) -> torch.Tensor:
    return torch.zeros(rows, columns).to_sparse_coo()


class TruncatedConnection(nn.Module):
    """Named as anemoi-models' own, with matrices of other sizes."""

    def __init__(self, *matrices: torch.Tensor):
        super().__init__()
        self.project_down, self.project_up = (SimpleNamespace(projection_matrix=matrix) for matrix in matrices)


Broken = dict[str, tuple[Any, str, Any, str]]

# what is broken: where, which attribute, its new value, what is said of it
FIRST: Broken = {
    "down": (lambda m: m, "A_down", sparse(20, 87), "a truncation matrix that reads 87 points, expected 88"),
    "up": (lambda m: m, "A_up", sparse(86, 88), "a truncation that writes 86 points, expected 88"),
    "noise folded in": (
        lambda m: m.noise_injector, "projection", nn.Linear(1, 1), "noise by NoiseConditioning, expected"
    ),
    "biases": (lambda m: layer(m).attention, "lin_qkv", nn.Linear(32, 96), "a bias on queries, keys and values"),
}  # fmt: skip
SECOND: Broken = {
    "down": (
        lambda m: m, "residual", TruncatedConnection(sparse(20, 87), sparse(88, 20)),
        "a truncation matrix that reads 87 points, expected 88",
    ),
    "up": (
        lambda m: m, "residual", TruncatedConnection(sparse(20, 88), sparse(86, 20)),
        "a truncation that writes 86 points, expected 88",
    ),
    "another skip connection": (
        lambda m: m, "residual", Unbounded(),
        "a skip connection of type Unbounded, expected SkipConnection or TruncatedConnection",
    ),
    "noise matrix": (
        lambda m: m.noise_injector, "noise_projector", SimpleNamespace(projection_matrix=sparse(39, 9)),
        "a noise matrix that writes 39 nodes, expected 40",
    ),
    "biases": (lambda m: layer(m).attention, "lin_k", nn.Linear(32, 32), "a bias on queries, keys and values"),
    "rotary": (lambda m: layer(m).attention, "use_rotary_embeddings", True, "rotary embeddings"),
    "edges": (
        lambda m: m.encoder.proc, "edge_pre_mlp", nn.Sequential(nn.Linear(11, 11), nn.SiLU()),
        "an MLP of the edges in the encoder that is not linear, GELU",
    ),
    "edges, another layer": (
        lambda m: m.decoder.proc, "edge_pre_mlp", nn.Sequential(nn.Identity(), nn.GELU()),
        "Identity in place of a linear layer in the decoder",
    ),
}  # fmt: skip
BROKEN: Broken = {
    **(SECOND if NEWER else FIRST),
    "input": (lambda m: m, "input_dim", 5, "an input of 5 columns, expected "),
    "no noise": (lambda m: m, "noise_injector", None, "noise by NoneType, expected NoiseConditioning"),
    "norms that are not there": (
        lambda m: m.decoder.proc, "qk_norm", True, "decoder of an unknown kind (AttributeError"
    ),
    "sources": (lambda m: m.encoder.proc, "update_src_nodes", True, "an encoder that updates its sources"),
    "wide heads": (
        lambda m: m.decoder.proc, "out_channels_conv", 300, "decoder with heads of 300 channels, expected at most 256"
    ),
    "attributes": (
        lambda m: m.encoder.proc, "lin_edge", nn.Linear(65, 32), "encoder with 65 edge attributes, expected at most 64"
    ),
    "another mapper": (
        lambda m: m.encoder, "proc", nn.Identity(), "encoder of Identity, expected GraphTransformerMapperBlock"
    ),
    "another linear layer": (
        lambda m: m.encoder.proc, "lin_key", nn.Identity(), "Identity in place of a linear layer in the encoder"
    ),
    "another norm": (
        lambda m: m.decoder.proc, "layer_norm_mlp_dst", nn.RMSNorm(32),
        "RMSNorm in place of a layer norm in the decoder",
    ),
    "another activation": (
        layer, "mlp", nn.Sequential(nn.Linear(32, 8), nn.SiLU(), nn.Linear(8, 32)),
        "an MLP in the processor that is not linear, GELU, linear",
    ),
    "approximate activation": (
        lambda m: layer(m).mlp[1], "approximate", "tanh", "an approximate GELU in the processor"
    ),
    "another processor": (lambda m: m, "processor", nn.Identity(), "a processor of type Identity, expected"),
    "softcap": (lambda m: layer(m).attention, "softcap", 30.0, "softcap 30.0"),
    "alibi": (lambda m: layer(m).attention, "use_alibi_slopes", True, "alibi slopes"),
    "plain norm": (
        layer, "layer_norm_mlp", nn.LayerNorm(32), "LayerNorm in the processor, expected Conditional"
    ),
    "layers that differ": (
        lambda m: layer(m).attention, "window_size", 7,
        "a processor whose layers differ in heads, window, qk_norm or eps",
    ),
    "bounding": (lambda m: m, "boundings", nn.ModuleList([Unbounded()]), "a bounding of type Unbounded"),
    "no decoder": (lambda m: m, "decoder", None, "decoder of an unknown kind (AttributeError"),
}  # fmt: skip


def test_a_model_that_it_knows_has_nothing_against_it(interface: Any) -> None:
    assert reasons_against(interface.model) == []


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_named_and_refused(interface: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    place, attribute, value, said = BROKEN[name]
    part = place(interface.model)
    if isinstance(part, nn.Module) and attribute in part._modules:
        monkeypatch.setitem(part._modules, attribute, value)
    else:
        monkeypatch.setattr(part, attribute, value)
    reasons = reasons_against(interface.model)
    assert any(reason.startswith(said) for reason in reasons), reasons
    with pytest.raises(NotAcceleratedError) as refused:
        accelerated.AcceleratedForward(interface.model, torch.float32, compiled=False)
    assert said in str(refused.value)


def test_all_that_is_in_the_way_is_said_at_once(interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer(interface.model).attention, "softcap", 5.0)
    monkeypatch.setattr(interface.model.encoder.proc, "update_src_nodes", True)
    assert len(reasons_against(interface.model)) == 2
    with pytest.raises(NotAcceleratedError, match=r"an encoder that updates its sources; softcap 5\.0"):
        fast_pass(interface)


def test_anything_else_is_refused_by_its_class() -> None:
    assert reasons_against(nn.Linear(1, 1)) == ["a model of type Linear, expected AnemoiEnsModelEncProcDec"]


def test_a_version_that_is_not_known_is_named(interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms.metadata, "version", lambda _: "0.9.3")
    (reason,) = reasons_against(interface.model)
    assert reason == "anemoi-models 0.9.3 is installed, the accelerated pass is written for 0.5, 0.6 and 0.11"


def test_without_triton_it_says_so(interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "ga", SimpleNamespace(HAS_TRITON=False))
    with pytest.raises(NotAcceleratedError, match="no Triton here"):
        fast_pass(interface)
