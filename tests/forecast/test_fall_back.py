"""No failure of the accelerated pass ends a job, and nothing wrong is run fast: the whole job, a small model, the CPU.

The kernels' references in plain torch, to which tests/model/test_accelerated.py holds them, stand in for the kernels,
and torch.compile is left out: both take minutes here. What a failure is injected into is a kernel, a part of the pass
or a version, never what falls back.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.common.acceleration import why_not_accelerated
from aifs_ensemble.common.errors import ConfigError, PassChangedError, StoppedError
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.forecast import engine
from aifs_ensemble.forecast.request import ForecastRequest, read_initial
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.model import (
    accelerated,
    conditional_norm,
    float8,
    forms,
    graph_attention,
    numerics,
    passes,
    stepper,
    supported,
)
from aifs_ensemble.model.check_records import CheckRecords, check_key
from aifs_ensemble.model.checkpoint.build import build_checkpoint, is_newer
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.compile_cache import CACHE_VARIABLE
from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.measured_check import measure_check
from aifs_ensemble.model.numerics import Numerics
from tested import MODEL

from forecast.cases import content, make_request, with_settings, write_initial

pytestmark = pytest.mark.models

CHECKS = "self-check/*.json"


@pytest.fixture(scope="module")
def tiny() -> Model:
    return MODEL


@pytest.fixture(scope="module")
def inputs(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with one layer, and an initial state."""
    folder = tmp_path_factory.mktemp("tiny")
    size: dict[str, Any] = {"hidden": "O4", "channels": 32, "layers": 1, "heads": 2, "window": 16, "update": 0.05}
    build_checkpoint(tiny, folder / "tiny.ckpt", **size, **({"noise": "O2"} if is_newer(tiny) else {}))
    write_initial(folder / "member001.safetensors", tiny)
    return folder / "tiny.ckpt", folder / "member001.safetensors"


KERNEL = graph_attention.attend


def reference(query, key, value, attributes, weight, bias, row, source, added, heads):  # type: ignore[no-untyped-def]
    """What the kernel `attend` returns, rounded as on a card."""
    edges = graph_attention.SortedEdges(row, source, torch.arange(len(source)))
    split = [part.reshape(len(part), heads, -1) for part in (query, key, value)]
    return graph_attention.reference(*split, attributes, weight, bias, edges).flatten(1).half().float() + added


def accelerate_here(patch: pytest.MonkeyPatch, cache: Path) -> None:
    patch.setitem(numerics.ACCELERATED, "cpu", ("32",))
    patch.setattr(torch, "compile", lambda work, **_: work)
    patch.setattr(graph_attention, "attend", reference)
    patch.setattr(accelerated, "add_norm", conditional_norm.reference)
    patch.setenv(CACHE_VARIABLE, str(cache))


@pytest.fixture(autouse=True)
def _accelerated_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accelerate_here(monkeypatch, tmp_path / "cache")


@pytest.fixture
def request_for(tiny: Model, inputs: tuple[Path, Path], tmp_path: Path) -> Callable[..., ForecastRequest]:
    def make(folder: str = "member", **settings: Any) -> ForecastRequest:
        request = make_request(*inputs, tmp_path / folder)
        usual = {"model": tiny, "compile": True, "leads": (6,), "restart_hours": 6, "progress": False}
        return with_settings(request, **usual | settings)

    return make


@pytest.fixture(scope="module")
def plain(tiny: Model, inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a member that is made with acceleration turned off."""
    folder = tmp_path_factory.mktemp("plain")
    request = with_settings(
        make_request(*inputs, folder), model=tiny, leads=(6, 12, 18), compile=True, accelerate=False
    )
    with pytest.MonkeyPatch.context() as patch:
        accelerate_here(patch, folder / "cache")
        manifest = run_forecast(request)
    assert manifest.acceleration["reason"] == "forecast.accelerate is false"
    assert not why_not_accelerated(manifest.acceleration)  # as planned
    return content(request)


def first_lead(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "_h006." in name}


def broken_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version's name: a part is not there."""
    monkeypatch.setattr(accelerated._Decoder, "__init__", lambda self, model, *_: model.decoder.proc.no_such_part)


def too_many_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason of the list of what the pass can do."""
    monkeypatch.setattr(supported, "MOST_ATTRIBUTES", 2)


def shapes_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of sizes that nobody thought of, while the pass is made."""
    monkeypatch.setattr(graph_attention, "padded", lambda size: -1)


def kernel_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton says of sizes that are no power of two, from inside the kernel."""
    monkeypatch.setattr(graph_attention, "padded", lambda size: 12)
    monkeypatch.setattr(graph_attention, "attend", KERNEL)


def kernel_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = graph_attention.attend
    monkeypatch.setattr(graph_attention, "attend", lambda *args: right(*args) * 1.2)


def another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms.metadata, "version", lambda name: "0.9.3")


def another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_class()
    known = network.classes | {"layers.conv": {"GraphTransformerConv": ("0" * 16,)}}
    monkeypatch.setattr(network, "classes", known)


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore lines")

    monkeypatch.setattr(graph_attention, "attend", allocate)


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (broken_part, r"^AttributeError: 'GraphTransformerMapperBlock' object has no attribute 'no_such_part'$"),
        (too_many_attributes, r"^encoder with \d+ edge attributes, expected at most 2"),
        (shapes_do_not_fit, r"^\w+Error: "),
        (kernel_does_not_compile, r"^\w+(Error)?: .*power of (2|two)"),
        (kernel_is_wrong, r"^it differs from the model's own pass: \w+ \d\.\de-\d\d of what a step changes, threshold"),
        (another_version, r"^anemoi-models 0\.9\.3 is installed, .* is written for 0\.5, 0\.6 and 0\.11$"),
        (
            another_source,
            rf"conv\.GraphTransformerConv of anemoi-models {re.escape(MODEL.anemoi_models)} has the source 12595",
        ),
        (no_memory, r"^OutOfMemoryError: CUDA out of memory\. Tried to allocate 9 GiB\.$"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_fails_the_job_ends_with_the_bytes_of_the_plain_pass(
    request_for: Callable[..., ForecastRequest],
    plain: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    request = request_for()
    with caplog.at_level(logging.WARNING):
        breaks(monkeypatch)
        manifest = run_forecast(request)
    assert content(request) == first_lead(plain)
    assert re.search(reason, why_not_accelerated(manifest.acceleration)), manifest.acceleration
    told = [record.message for record in caplog.records if record.message.startswith("not accelerated")]
    assert len(told) == 1 and "\n" not in told[0]
    assert manifest.settings["pass"] == "own"


class StopAfterALead(Observer):
    """Stops a member as soon as its first lead is on its way; that one is kept."""

    def step(self, lead: int, seconds: float) -> None:
        raise StoppedError("stopped")


def stopped(request: ForecastRequest) -> None:
    with pytest.raises(StoppedError):
        run_forecast(request, [StopAfterALead()])


def test_a_member_keeps_to_the_pass_it_began_with(
    request_for: Callable[..., ForecastRequest], plain: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(leads=(6, 12, 18))
    with monkeypatch.context() as broken:
        no_memory(broken)
        stopped(request)
    manifest = run_forecast(request)  # nothing is broken any more
    assert content(request) == plain
    assert "9 GiB" in why_not_accelerated(manifest.acceleration)


def test_a_member_that_began_accelerated_is_made_afresh_and_never_mixed(
    request_for: Callable[..., ForecastRequest], plain: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(leads=(6, 12, 18))
    stopped(request)
    no_memory(monkeypatch)
    with pytest.raises(PassChangedError, match=r"member001: began with the accelerated .*9 GiB.*; run again"):
        run_forecast(request)
    manifest = run_forecast(request)
    assert content(request) == plain
    assert "9 GiB" in why_not_accelerated(manifest.acceleration)


@pytest.fixture
def warmed_up(request_for: Callable[..., ForecastRequest], tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Load the model, warm it up with the records of a checkpoint, and return it with its input."""
    inputs: list[torch.Tensor] = []

    def warm_up(checkpoint: str = "a checkpoint") -> SimpleNamespace:
        request = request_for()
        records = CheckRecords(tmp_path / "cache", check_key(checkpoint, "a card", request.settings))
        choice: Any = SimpleNamespace(options={"known": records.read()})
        loaded = engine.load(request, torch.device("cpu"), choice=choice)
        if not inputs:
            inputs.append(engine.start_rollout(request, loaded, read_initial(request), None).inputs)
        loaded.stepper.warm_up(inputs[0], records)
        return SimpleNamespace(stepper=loaded.stepper, output=loaded.stepper.forward(inputs[0], first=True, seed=3))

    return warm_up


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two outputs are the same bytes; values may be missing."""
    return one.numpy().tobytes() == other.numpy().tobytes()


def test_what_was_compared_once_is_not_compared_again_and_changes_no_bit(
    warmed_up: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = warmed_up()
    check = first.stepper.acceleration.self_check
    assert check["passed"] and 1e-6 < check["largest"] < 5e-3 < check["threshold"] == 1e-2
    (record,) = (tmp_path / "cache").glob(CHECKS)
    assert json.loads(record.read_text())["result"] == check
    second = warmed_up()
    assert second.stepper.acceleration == first.stepper.acceleration
    assert same(second.output, first.output)
    kernel_is_wrong(monkeypatch)
    assert warmed_up().stepper.accelerated  # as the record says
    # another checkpoint is another matter, and so is a record that is not whole or was made for something else
    assert not warmed_up("another checkpoint").stepper.accelerated
    content = json.loads(record.read_text())
    for damaged in ("", "{}", '{"of": {}}', json.dumps(content | {"of": content["of"] | {"card": "another"}})):
        record.write_text(damaged)
        assert not warmed_up().stepper.accelerated
        assert not json.loads(record.read_text())["result"]["passed"]


def test_a_record_of_a_wrong_pass_is_believed_without_making_it(
    warmed_up: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        kernel_is_wrong(wrong)
        first = warmed_up()
    monkeypatch.setattr(accelerated.AcceleratedForward, "__init__", lambda *_, **__: pytest.fail("made"))
    second = warmed_up()
    assert second.stepper.acceleration == first.stepper.acceleration and not second.stepper.accelerated
    assert same(second.output, first.output)


def test_where_both_do_not_fit_it_is_said(
    warmed_up: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "no_room_for_both", lambda *_: "it needs 26.6 GB, the card has 9.0 GB free")
    found = warmed_up().stepper.acceleration
    assert found.accelerated and found.to_json()["self_check_not_done"] == "it needs 26.6 GB, the card has 9.0 GB free"
    assert found.to_json()["attention"] == "flex_attention: no CUDA, expected compute capability 9.0"
    assert not list((tmp_path / "cache").glob(CHECKS))


def test_the_models_own_parts_are_there_until_the_pass_has_proved_itself(
    request_for: Callable[..., ForecastRequest],
) -> None:
    request = request_for()
    loaded = engine.load(request, torch.device("cpu"))
    weights = loaded.stepper.model.model.encoder.proc.lin_key.weight
    assert loaded.stepper.accelerated and not weights.is_meta
    loaded.stepper.warm_up(engine.start_rollout(request, loaded, read_initial(request), None).inputs)
    assert loaded.stepper.model.model.encoder.proc.lin_key.weight.is_meta


@pytest.mark.parametrize("breaks", [None, kernel_is_wrong, no_memory])
def test_a_checkpoint_is_checked_without_a_forecast(
    tiny: Model,
    inputs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[pytest.MonkeyPatch], None] | None,
) -> None:
    interface = load_model(inputs[0], tiny, device="cpu", trust=True)
    if breaks is not None:
        breaks(monkeypatch)
    found = measure_check(interface, torch.device("cpu"), Numerics("32", compile=True), repeats=1).to_json()
    assert found["accelerated"] == (breaks is None)
    assert all(value > 0 for value in found["seconds"].values()) and found["gpu_mb"] == {}
    if breaks is no_memory:
        assert "self_check" not in found and "9 GiB" in found["reason"] and set(found["seconds"]) == {"own, compiled"}
    else:
        assert found["self_check"]["passed"] == (breaks is None)
        assert set(found["seconds"]) == {"own", "own, compiled" if breaks else "accelerated"}


# float8, which no other pass has


@pytest.fixture
def float8_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put emulated products in float8 in this processor's pass; plain torch quantises what they read."""

    def add_norm_to_float8(*args: Any) -> tuple[torch.Tensor, float8.Quantised]:
        total, normal = conditional_norm.reference(*args)
        return total, float8.reference(normal)

    def norm_to_float8(x: torch.Tensor, *norm: Any) -> float8.Quantised:
        return float8.reference(torch.nn.functional.layer_norm(x, x.shape[-1:], *norm))

    monkeypatch.setitem(numerics.ACCELERATED, "cpu", ("32", "fp8"))
    monkeypatch.setitem(passes.PRODUCT_TYPES, "fp8", torch.float32)
    monkeypatch.setitem(stepper._AUTOCAST, "fp8", None)
    monkeypatch.setattr(stepper, "why_no_float8", lambda _: "")
    monkeypatch.setattr(float8, "to_float8", float8.reference)
    monkeypatch.setattr(accelerated, "add_norm_to_float8", add_norm_to_float8)
    monkeypatch.setattr(accelerated, "norm_to_float8", norm_to_float8)
    gelu = torch.nn.functional.gelu
    monkeypatch.setattr(accelerated, "gelu_to_float8", lambda x, _: float8.reference(gelu(x, approximate="tanh")))


@pytest.mark.usefixtures("float8_here")
@pytest.mark.long
def test_a_job_in_float8_gives_its_own_bytes_again_also_resumed(
    request_for: Callable[..., ForecastRequest], plain: dict[str, bytes]
) -> None:
    request = request_for(leads=(6, 12, 18), precision="fp8")
    manifest = run_forecast(request)
    assert manifest.settings["precision"] == "fp8" and manifest.acceleration["accelerated"]
    check = manifest.acceleration["self_check"]
    # measured of this model: a hundredth to a tenth in the worst variable; without float8 it would be 1e-3
    assert check["precision"] == "fp8" and 5e-3 < check["largest"] < check["threshold"] == 0.3
    made = content(request)
    assert made.keys() == plain.keys() and all(made[name] != plain[name] for name in made if name.endswith(".grib2"))
    other = request_for("other", leads=(6, 12, 18), precision="fp8")
    stopped(other)
    run_forecast(other)
    assert content(other) == made


@pytest.mark.usefixtures("float8_here")
@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (too_many_attributes, r"encoder with \d+ edge attributes, expected at most 2; .*"),
        (another_version, r"anemoi-models 0\.9\.3 is installed, .*"),
        (no_memory, r"OutOfMemoryError: CUDA out of memory\. Tried to allocate 9 GiB\."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_without_the_accelerated_pass_a_job_in_float8_is_refused(
    request_for: Callable[..., ForecastRequest],
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    request = request_for(precision="fp8")
    with monkeypatch.context() as broken:
        breaks(broken)
        with pytest.raises(ConfigError, match=rf"^forecast\.precision: fp8, expected 16, .*\({reason}\)$"):
            run_forecast(request)
    assert not request.forecasts.exists()
    manifest = run_forecast(request)  # nothing is broken any more
    assert manifest.acceleration["accelerated"] and "pass" not in manifest.settings


def test_a_processor_refuses_float8_before_anything_is_loaded(
    request_for: Callable[..., ForecastRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(numerics.ACCELERATED, "cpu")
    monkeypatch.setattr(engine, "load", lambda *_: pytest.fail("loaded"))
    for settings, reason in (({}, "the device is cpu"), ({"compile": False}, "forecast.compile is false")):
        with pytest.raises(ConfigError, match=rf"^forecast\.precision: fp8, expected 16, bf16 or 32: .*\({reason}\)$"):
            run_forecast(request_for(precision="fp8", **settings))
