"""Imputers that do not wait for the device: the bits of anemoi-models' own, and nothing that asks for a value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from aifs_ensemble.model.imputers import KNOWN, WaitFreeImputer, without_waits
from anemoi.models.preprocessing import Processors, imputer
from anemoi.utils.config import DotDict
from torch.utils._python_dispatch import TorchDispatchMode

from model.toys import toy

pytestmark = pytest.mark.models

# what is imputed; the first of each two is an input, as all that can be missing at a start
METHODS: dict[str, dict[Any, list[str]]] = {
    "InputImputer": {"mean": ["stl1", "skt"], "minimum": ["stl2", "ro"]},
    "ConstantImputer": {0.25: ["stl1", "ro"], 3: ["stl2"]},
    "CopyImputer": {"2t": ["stl1", "skt"], "q_500": ["stl2"]},
    "DynamicInputImputer": {"maximum": ["stl1", "skt"], "mean": ["q_850"]},
    "DynamicConstantImputer": {1: ["stl1", "skt"]},
    "DynamicCopyImputer": {"2t": ["stl1", "skt"]},
}


class NoWaits(TorchDispatchMode):
    """Fails where a device would be asked for a value or a count."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = [x for x in (args[1] if name in ("index", "index_put", "index_put_") else []) if x is not None]
        assert name not in ("nonzero", "_local_scalar_dense", "masked_select", "equal"), name
        assert all(mask.dtype != torch.bool for mask in masks), f"{name} by a mask"
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        path = tmp_path_factory.mktemp("model") / "toy.ckpt"
        return toy(path, monkeypatch, change=lambda config: config["data"]["processors"].pop("imputer", None))


@pytest.fixture(params=METHODS)
def interface(request: pytest.FixtureRequest, plain: Any) -> Iterator[Any]:
    """The model with one imputer before its normalizer, as a checkpoint has it."""
    config = DotDict({"default": "none", **METHODS[request.param]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamic imputers warn of themselves
        made = getattr(imputer, request.param)(
            config=config, data_indices=plain.data_indices, statistics=plain.statistics
        )
    before = plain.pre_processors, plain.post_processors
    processors = [["imputer", made.eval()], ["normalizer", before[0].processors["normalizer"]]]
    plain.pre_processors, plain.post_processors = Processors(processors), Processors(processors, inverse=True)
    yield plain
    plain.pre_processors, plain.post_processors = before


def states(interface: Any) -> list[torch.Tensor]:
    """Physical inputs of two steps; values are missing, at other points of another time and step."""
    names = interface.data_indices.model.input.name_to_index
    made = []
    for step in (1, 2):
        fields = torch.randn(1, 2, 88, len(names), generator=torch.Generator().manual_seed(step))
        for place, variable in enumerate(("stl1", "stl2", "skt")):
            fields[:, 0, place : 30 * step : 3, names[variable]] = torch.nan
            fields[:, 1, place : 40 * step : 3, names[variable]] = torch.nan
        made.append(fields)
    return made


def through(interface: Any) -> list[torch.Tensor]:
    """What the processors make of two steps' inputs, and of an output after each."""
    outputs = torch.randn(1, 88, len(interface.data_indices.model.output.name_to_index))
    found = []
    for fields in states(interface):
        into, back = (part.processors["imputer"] for part in (interface.pre_processors, interface.post_processors))
        found += [into(fields, in_place=False), back(outputs, in_place=False, inverse=True)]
        changed = fields.clone(), outputs.clone()
        assert into(changed[0]) is changed[0] and back(changed[1], inverse=True) is changed[1]
        found += changed
    return found


def test_the_same_bits_and_no_waits(interface: Any) -> None:
    torch.manual_seed(1)
    expected = through(interface)
    assert without_waits(interface) == ["imputer"]
    first = interface.pre_processors.processors["imputer"]
    assert isinstance(first, WaitFreeImputer) and first is interface.post_processors.processors["imputer"]
    torch.manual_seed(1)
    found = through(interface)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert any(torch.isnan(fields).any() for fields in states(interface))
    with NoWaits():
        through(interface)


def test_every_imputer_there_is_is_known() -> None:
    made = {
        name for name, kind in vars(imputer).items() if isinstance(kind, type) and issubclass(kind, torch.nn.Module)
    }
    assert made - {"BaseImputer", "BasePreprocessor"} == KNOWN == set(METHODS)


def test_a_model_without_imputers_is_left_as_it_is(plain: Any) -> None:
    assert without_waits(plain) == []
    fields = torch.randn(1, 2, 88, len(plain.data_indices.model.input.name_to_index))
    plain.pre_processors(fields, in_place=False)  # its own check of the first input waits once
    with NoWaits():
        plain.pre_processors(fields, in_place=False)
