"""One member from end to end: interrupted, damaged, rerun, refused; always the same bytes or one clear line."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from aifs_ensemble.common import this_machine
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import (
    CheckpointError,
    ConfigError,
    DiskFullError,
    GpuMemoryError,
    InputError,
    InterruptedByUserError,
    NotFiniteError,
    StoppedError,
    WorkflowError,
)
from aifs_ensemble.common.files import link
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest, check_leads, read_member_manifest
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.common.names import lead_file
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.fields.grib_encoder import grib_parameter
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.state import write_state
from aifs_ensemble.forecast import engine
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.forecast.timings import Timings
from aifs_ensemble.model.checkpoint.build import build_checkpoint
from aifs_ensemble.model.stepper import Stepper

from forecast.cases import CYCLE, LEADS, content, initial_state, with_settings, write_initial

Requests = Callable[..., ForecastRequest]
Whole = tuple[ForecastRequest, dict[str, bytes]]
LOADED: dict[tuple, engine.Loaded] = {}


class Listener(Observer):
    """Keeps what it is told; raises or acts when it hears that the step to a chosen lead is over."""

    def __init__(self, at: int | None = None, act: Callable[[], None] = lambda: None):
        self.told: list[tuple] = []
        self._at, self._act = at, act

    def started(self, member: int, leads: int, done: int) -> None:
        self.told.append(("started", member, leads, done))

    def step(self, lead: int, seconds: float) -> None:
        assert seconds > 0
        self.told.append(("step", lead))
        if lead == self._at:
            self._act()

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        assert check_leads(folder, [record]) == {}
        self.told.append(("published", record.lead))

    def restart_written(self, lead: int, path: Path) -> None:
        assert path.is_file()
        self.told.append(("restart", lead))

    def finished(self, manifest: MemberManifest) -> None:
        self.told.append(("finished", len(manifest.leads)))

    def failed(self, error: BaseException) -> None:
        self.told.append(("failed", type(error).__name__))

    def leads(self, what: str) -> list[int]:
        return [event[1] for event in self.told if event[0] == what]


def fail() -> None:
    raise OSError("the observer has had enough")


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """Load each kind of stepper once: a model keeps no state between forecasts, and loading takes a second.

    `whole`, the killed processes and the command load theirs themselves.
    """
    load = engine.load

    def from_memory(request: ForecastRequest, device: torch.device, timings: Timings, *_: object) -> engine.Loaded:
        if request.checkpoint != checkpoint:
            return load(request, device, timings)
        key = (checkpoint, request.settings.precision)
        if key not in LOADED:
            LOADED[key] = load(request, device, timings)
        return LOADED[key]

    monkeypatch.setattr(engine, "load", from_memory)


# one member, not interrupted


@pytest.mark.models
def test_manifest_says_what_was_made_and_how(whole: Whole, model: Model) -> None:
    request, files = whole
    manifest = read_member_manifest(request.manifest)
    assert [record.lead for record in manifest.leads] == list(LEADS)
    assert check_leads(request.forecasts, manifest.leads) == {}
    assert {file.name for record in manifest.leads for file in record.files} == set(files)
    assert manifest.fields == len(LEADS) * len(model.delivered)
    unplanned = {"accelerated": False, "asked": False, "reason": "forecast.compile is false"}
    assert manifest.acceleration == unplanned and "pass" not in manifest.settings
    assert manifest.untrained and manifest.model == model.name and manifest.grid == "N32"
    assert manifest.seed["scheme"] == "sha256/1" and manifest.seed["first_step"] == request.seed(1)
    assert len(manifest.checkpoint["sha256"]) == 64
    assert manifest.initial_conditions["source"] == "waves"
    assert manifest.versions["torch"] == torch.__version__ and manifest.versions["anemoi-inference"] == "0.13.0"
    assert manifest.settings["precision"] == "32" and manifest.device == "cpu"
    assert {"load", "steps", "drain", "wait_output", "total"} <= set(manifest.timings)
    assert len(manifest.step_seconds) == len(LEADS)
    assert [attempt["outcome"] for attempt in manifest.attempts] == ["finished"]


@pytest.mark.models
def test_the_files_hold_what_the_rollout_made(whole: Whole, loaded: engine.Loaded, model: Model) -> None:
    from forecast.test_rollout import ours

    request, _ = whole
    for step, expected in ours(request, loaded, 2).items():
        lead = request.lead(step)
        path = request.forecasts / lead_file(CYCLE, 1, lead)
        for name in ("t_500", "2t", "tp"):
            (found,) = read_fields(path, **({"param": "t", "levelist": "500"} if name == "t_500" else {"param": name}))
            row = expected[model.outputs.index(name)] * grib_parameter(name).factor
            # half of what one bit stands for, which GRIB rounds up to a power of two; then float32's own
            tolerance = np.ptp(row) / 2 ** request.bits[name] + 2 * np.spacing(np.abs(row).max())
            assert np.abs(found - row).max() <= tolerance, f"{name} h{lead}"


def test_published_files_are_links_to_the_work_folder(whole: Whole) -> None:
    request, files = whole
    assert all((request.forecasts / name).samefile(request.work / "leads" / name) for name in files)


def test_observers_hear_everything_in_order(request_for: Requests) -> None:
    listener = Listener()
    run_forecast(request_for(), [listener])
    assert listener.told[0] == ("started", 1, 5, 0) and listener.told[-1] == ("finished", 5)
    assert listener.leads("step") == listener.leads("published") == list(LEADS)
    assert listener.leads("restart") == [12, 24]
    assert sorted(path.name for path in (request_for().work / "restarts").iterdir()) == [
        "h012.safetensors",
        "h024.safetensors",
    ]


@pytest.mark.models
def test_members_differ_and_each_is_the_same_again(
    request_for: Requests, whole: Whole, model: Model, tmp_path: Path
) -> None:
    """The same initial fields, so all the difference is the noise."""
    path = tmp_path / "member002.safetensors"
    write_state(path, replace(initial_state(model), member=2))
    second = request_for(member=2, initial=path, leads=(6,))
    run_forecast(second)
    one, two = (
        read_fields(request.forecasts / lead_file(CYCLE, request.member, 6), param="t", levelist="500")[0]
        for request in (whole[0], second)
    )
    assert 0 < np.abs(one - two).max() < 20


def test_per_step_amounts_add_up_to_those_from_the_start(request_for: Requests, whole: Whole) -> None:
    request = request_for(accumulate="per_step", leads=(6, 12))
    run_forecast(request)

    def tp(folder: Path, lead: int) -> np.ndarray:
        return read_fields(folder / lead_file(CYCLE, 1, lead), param="tp")[0]

    per_step = [tp(request.forecasts, lead) for lead in (6, 12)]
    total = tp(whole[0].forecasts, 12)
    assert per_step[1].max() > 0
    np.testing.assert_allclose(sum(per_step), total, atol=3 * np.ptp(total) / 2**15)
    assert not list((request.work / "restarts").glob("h006*"))


# reruns and resumes


def test_a_finished_member_returns_at_once_and_imports_no_torch(request_for: Requests, tmp_path: Path) -> None:
    request = request_for(leads=(6,), device="auto")
    made = run_forecast(request)
    before = {path: path.stat().st_ino for path in request.forecasts.iterdir()}
    manifest = request.manifest.read_bytes()
    request.manifest.unlink()
    for path in list(before)[1:]:
        path.unlink()
    code = f"""
import sys
from pathlib import Path, PosixPath
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.common.models import get_model
from forecast.cases import make_request
request = make_request({request.checkpoint!r}, {request.initial!r}, {tmp_path!r}, leads=(6,), device="auto")
assert run_forecast(request).content_digest == {made.content_digest!r}
assert "torch" not in sys.modules, "torch was imported"
"""
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert {path: path.stat().st_ino for path in request.forecasts.iterdir()} == before
    assert request.manifest.read_bytes() == manifest


def test_a_finished_member_needs_its_inputs_no_more(request_for: Requests, tmp_path: Path, model: Model) -> None:
    initial = tmp_path / "initial.safetensors"
    write_initial(initial, model)
    request = request_for(leads=(6,), initial=initial)
    made = run_forecast(request)
    initial.unlink()
    assert run_forecast(request).content_digest == made.content_digest
    with pytest.raises(InputError, match=r"initial\.safetensors: no such file"):
        run_forecast(replace(request, leads=(6, 12)))


@pytest.mark.models
@pytest.mark.parametrize(("stop_at", "resumed"), [(6, 0), (12, 0), (18, 12), (24, 12), (30, 24)])
def test_an_interrupted_member_goes_on_from_its_restart_state(
    request_for: Requests, whole: Whole, stop_at: int, resumed: int
) -> None:
    request = request_for(leads=(*LEADS, 36))
    first = Listener(stop_at, fail)
    with pytest.raises(OSError, match="had enough"):
        run_forecast(request, [first])
    assert first.told[-1] == ("failed", "OSError")
    assert not request.manifest.exists()
    second = Listener()
    manifest = run_forecast(request, [second])
    assert second.told[0] == ("started", 1, 6, stop_at // 6)
    assert second.leads("step") == list(range(resumed + 6, 42, 6))
    assert second.leads("published") == list(range(stop_at + 6, 42, 6))
    assert content(request).items() >= whole[1].items()
    assert manifest.attempts[1]["resumed_from"] == resumed
    assert [a["outcome"] for a in manifest.attempts] == ["OSError: the observer has had enough", "finished"]


def test_more_leads_are_added_to_a_finished_member(request_for: Requests, whole: Whole) -> None:
    request = request_for()
    run_forecast(replace(request, leads=LEADS[:2]))
    before = content(request)
    listener = Listener()
    run_forecast(request, [listener])
    assert listener.leads("step") == [18, 24, 30]
    assert content(request) == whole[1] and before.items() <= whole[1].items()
    fewer = run_forecast(replace(request, leads=LEADS[:3]))
    assert [record.lead for record in fewer.leads] == [6, 12, 18]


@pytest.mark.parametrize("damage", ["deleted", "cut", "altered", "index"])
def test_a_damaged_lead_is_made_again_and_nothing_else_is_touched(
    request_for: Requests, whole: Whole, damage: str
) -> None:
    request = request_for()
    run_forecast(request)
    name = lead_file(CYCLE, 1, 18)
    path = request.forecasts / name
    data = path.read_bytes()
    if damage == "deleted":
        path.unlink()
        (request.work / "leads" / name).unlink()
    elif damage == "index":
        path.with_suffix(".index").write_text("{}\n")
    else:  # through the published name: it is the same file
        path.write_bytes(data[:-1] if damage == "cut" else data[:500] + bytes([data[500] ^ 1]) + data[501:])
    kept = {p.name: p.stat().st_ino for p in (request.work / "leads").iterdir() if "_h018" not in p.name}
    listener = Listener()
    run_forecast(request, [listener])
    assert listener.told[0] == ("started", 1, 5, 4)
    assert listener.leads("step") == listener.leads("published") == [18]
    assert content(request) == whole[1]
    assert {p.name: p.stat().st_ino for p in (request.work / "leads").iterdir() if "_h018" not in p.name} == kept


def test_a_damaged_restart_state_costs_time_and_nothing_else(request_for: Requests, whole: Whole) -> None:
    request = request_for()
    with pytest.raises(OSError, match="enough"):
        run_forecast(request, [Listener(18, fail)])
    state = request.work / "restarts" / "h012.safetensors"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 4
    state.write_bytes(data)
    listener = Listener()
    run_forecast(request, [listener])
    assert listener.leads("step")[0] == 6
    assert content(request) == whole[1]


def test_delivered_leads_count_unless_they_must_be_local(request_for: Requests) -> None:
    request = request_for(leads=LEADS[:3])
    made = run_forecast(request)
    (request.work / "journal.jsonl").rename(request.work / "delivered.jsonl")
    for folder in (request.work / "leads", request.forecasts):
        for path in folder.iterdir():
            path.unlink()
    listener = Listener()
    assert run_forecast(request, [listener]).content_digest == made.content_digest
    assert listener.leads("step") == [] and not list(request.forecasts.iterdir())
    assert run_forecast(replace(request, local_leads=True)).content_digest == made.content_digest
    assert check_leads(request.forecasts, made.leads) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": "per_step"}, "accumulate (from_start -> per_step) changed"),
        ({"packing": {"t": 20}}, "packing changed"),
        ({"precision": "bf16"}, "precision (32 -> bf16) changed"),
        ({"ensemble_size": 20}, "ensemble_size (50 -> 20) changed"),
    ],
)
def test_leads_of_other_settings_never_mix(
    request_for: Requests, changes: dict, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_for(leads=(6, 12))
    run_forecast(replace(request, leads=(6,)))
    listener = Listener()
    with caplog.at_level(logging.WARNING):
        run_forecast(with_settings(request, **changes), [listener])
    assert message in caplog.text
    assert listener.leads("published") == [6, 12]


def test_other_initial_fields_never_mix(request_for: Requests, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "initial.safetensors"
    state = initial_state(model)
    write_initial(path, model)
    request = request_for(leads=(6,), initial=path)
    run_forecast(request)
    write_initial(path, model, provenance={"source": "waves", "made": "again"})
    listener = Listener()
    run_forecast(request, [listener])
    assert listener.leads("step") == []
    state.fields[1, model.inputs.index("t_500"), 0] += 1
    write_initial(path, model, fields=state.fields)
    run_forecast(request, [listener])
    assert listener.leads("step") == [6]


# stopping


@pytest.mark.parametrize("group", [False, True], ids=["the process", "its encoders too"])
def test_sigterm_finishes_the_lead_under_way_and_keeps_a_restart_state(
    request_for: Requests, whole: Whole, group: bool
) -> None:
    """Batch systems and systemd send it to every process of a job."""
    request = request_for(restart_hours=72)

    def stop() -> None:
        this = psutil.Process()
        for process in [*(this.children() if group else ()), this]:
            process.send_signal(signal.SIGTERM)

    listener = Listener(6, stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="stopped by SIGTERM") as caught:
        run_forecast(request, [listener])
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    stopped_after = listener.leads("step")[-1]
    assert listener.leads("published")[-1] == stopped_after < LEADS[-1]
    assert listener.leads("restart") == [stopped_after]
    second = Listener()
    run_forecast(request, [second])
    assert second.leads("step") == [lead for lead in LEADS if lead > stopped_after]
    assert content(request) == whole[1]


def test_ctrl_c_stops_as_a_preemption_does(request_for: Requests, whole: Whole) -> None:
    request = request_for(restart_hours=72)
    listener = Listener(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedByUserError, match="stopped by Ctrl-C with") as caught:
        run_forecast(request, [listener])
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert listener.leads("restart") == [listener.leads("step")[-1]] != [LEADS[-1]]
    run_forecast(request)
    assert content(request) == whole[1]


def test_a_second_ctrl_c_stops_at_once(request_for: Requests, whole: Whole) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    request, listener = request_for(), Listener(6, twice)
    with pytest.raises(KeyboardInterrupt):
        run_forecast(request, [listener])
    assert listener.leads("restart") == []
    run_forecast(request)
    assert content(request) == whole[1]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"device": "cuda"}, ConfigError),
        ({"checkpoint": "README.md"}, CheckpointError),
        ({"trust": False}, CheckpointError),
        ({"initial": "another member's"}, InputError),
        ({"model": "aifs-ens-1.0"}, CheckpointError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_cost_nothing_of_what_there_is(
    request_for: Requests, whole: Whole, tmp_path: Path, root: Path, model: Model, wrong: dict, error: type[Exception]
) -> None:
    if wrong == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    request = request_for()
    run_forecast(request)
    if "checkpoint" in wrong:
        wrong = {"checkpoint": tmp_path / "README.md"}
        shutil.copy(root / "README.md", wrong["checkpoint"])
    if "trust" in wrong:  # another model's weights, of which nobody said that they are to be trusted
        other = tmp_path / "other.ckpt"
        build_checkpoint(model, other, hidden="O8", channels=16, layers=1, heads=2, window=64, seed=7)
        wrong = {"checkpoint": other, "trust": False}
    if "initial" in wrong:
        wrong = {"initial": tmp_path / "member002.safetensors"}
        write_initial(wrong["initial"], model, member=2)
    if "model" in wrong:
        wrong = {"model": get_model("aifs-ens-1.0")}
    for _ in range(2):
        with pytest.raises(error):
            run_forecast(with_settings(request, **wrong))
    listener = Listener()
    run_forecast(request, [listener])
    assert listener.leads("step") == []
    assert content(request) == whole[1]


def test_the_command_ends_with_the_errors_exit_code(
    request_for: Requests, root: Path, tmp_path: Path, checkpoint: Path, initial: Path
) -> None:
    settings = ["members=1", f"scratch={tmp_path}", "lead_hours=6", "trust_checkpoint=true", "forecast.device=cpu"]
    command = [sys.executable, "-m", "aifs_ensemble", "forecast", "--configfile", str(root / "config/config.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}

    def run(*arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*command, *map(str, arguments), "--config", *settings],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    missing = run("--checkpoint", tmp_path / "none.ckpt", "--initial", initial)
    assert missing.returncode == CheckpointError.exit_code
    assert missing.stderr.splitlines()[-1] == f"error: {tmp_path}/none.ckpt: no such checkpoint, expected that of demo"
    done = run("--checkpoint", checkpoint, "--initial", initial)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("member 1: 1 leads, 100 fields")


# errors: one line, an exit code, and a folder that can go on


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": 2}, "member 2, expected 1"),
        ({"cycle": "20250819_0600"}, "cycle 20250819_0600, expected 20250819_0000"),
        ({"grid": "N48"}, "grid N48, expected N32"),
        ({"times": "swapped"}, "times .* expected"),
        ({"variables": "renamed"}, "missing t_500"),
        ({"fields": "nan"}, "NaN or infinity in 2t, expected numbers"),
        ({"fields": "short"}, "6000 grid points, expected the checkpoint's 6114"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_initial_states(request_for: Requests, model: Model, tmp_path: Path, changes: dict, message: str) -> None:
    state = initial_state(model)
    fields = state.fields.copy()
    fields[0, model.inputs.index("2t"), 5] = np.nan
    special = {
        "swapped": state.times[::-1],
        "renamed": tuple("t_501" if name == "t_500" else name for name in state.variables),
        "nan": fields,
        "short": state.fields[..., :6000],
    }
    path = tmp_path / "initial.safetensors"
    write_initial(path, model, **{key: special.get(value, value) for key, value in changes.items()})
    listener = Listener()
    with pytest.raises(InputError, match=message) as caught:
        run_forecast(request_for(initial=path), [listener])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert listener.told[-1] == ("failed", "InputError")


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"GRIB" * 100, None])
def test_what_is_no_state_at_all(request_for: Requests, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "initial.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"initial\.safetensors: (no such file|not a readable state)"):
        run_forecast(request_for(initial=path))


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_bad_checkpoints(request_for: Requests, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        run_forecast(request_for(checkpoint=path))


def test_bits_for_a_variable_that_is_not_written(request_for: Requests) -> None:
    with pytest.raises(ConfigError, match=r"forecast\.packing\.swh"):
        run_forecast(request_for(packing={"swh": 16}))


def test_a_forecast_that_is_not_finite_stops_before_it_is_written(
    request_for: Requests, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Stepper.forward, []

    def blow_up(self: Stepper, inputs: torch.Tensor, **options: object) -> torch.Tensor:
        output = forward(self, inputs, **options)
        calls.append(output)
        if len(calls) == 3:
            output = output.clone()
            output[7:10, 0] = float("nan")
            output[0, 1] = float("inf")
        return output

    request, listener = request_for(), Listener()
    monkeypatch.setattr(Stepper, "forward", blow_up)
    with pytest.raises(NotFiniteError, match=r"member001 h018: NaN or infinity in \S+ \(3 points\), \S+ \(1 points\)"):
        run_forecast(request, [listener])
    assert len((request.work / "journal.jsonl").read_text().splitlines()) == 2
    assert not list((request.work / "leads").glob("*h018*"))
    monkeypatch.undo()
    run_forecast(request)
    assert content(request) == whole[1]


def test_out_of_gpu_memory_says_what_to_change(request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore lines")

    monkeypatch.setattr(Stepper, "forward", too_much)
    with pytest.raises(GpuMemoryError, match=r"precision 32, compile false, chunks 1; change forecast\.precision") as e:
        run_forecast(request_for())
    assert "\n" not in str(e.value) and e.value.exit_code == 5


def test_out_of_gpu_memory_names_the_chunks_that_fit(request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the catalogue says of the model's own pass; nothing where the member has as many, or nobody knows."""
    gb = 10**9
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (gb // 2, 10 * gb))
    known = replace(get_model("demo"), own_pass_gpu_mb=8500, chunked_gpu_mb=33_000)
    numerics = request_for().settings
    for model, chunks, said in (
        (known, 10, "; forecast.chunks: 32 takes about 9.5 GB"),
        (known, 32, "share the card"),
        (get_model("demo"), 10, "share the card"),
    ):
        request = replace(request_for(), model=model, own_pass="it differs", settings=replace(numerics, chunks=chunks))
        with pytest.raises(GpuMemoryError) as error, engine.gpu_memory(request):
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert str(error.value).endswith(said)


@pytest.mark.parametrize("place", ["journal", "restart", "link"])
def test_a_full_disk_stops_the_member_with_its_state_intact(
    request_for: Requests, whole: Whole, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The device is said to be full by the call that would say so; a really full one needs a mount."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    if place == "journal":
        from aifs_ensemble.common.records import JsonLines

        append = JsonLines.append
        monkeypatch.setattr(
            JsonLines,
            "append",
            lambda self, what: full() if what.get("lead") == 18 else append(self, what),
        )
    elif place == "restart":
        monkeypatch.setattr("aifs_ensemble.forecast.restarts.write_state", full)
    else:
        monkeypatch.setattr(os, "link", full)
    request = request_for()
    with pytest.raises(DiskFullError, match="somewhere: no space left on device") as caught:
        run_forecast(request)
    assert caught.value.exit_code == 6
    assert not request.manifest.exists()
    monkeypatch.undo()
    run_forecast(request)
    assert content(request) == whole[1]


def test_an_encoder_that_dies_fails_the_member_cleanly(
    request_for: Requests, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, pools = request_for(), []
    open_pool = engine.open_pool

    def opened(*arguments: object) -> object:
        pools.append(open_pool(*arguments))
        return pools[-1]

    monkeypatch.setattr(engine, "open_pool", opened)

    def kill() -> None:
        for worker in pools[0]._workers:
            worker.process.kill()

    with pytest.raises(WorkflowError, match="encoder process") as caught:
        run_forecast(request, [Listener(6, kill)])
    assert caught.value.exit_code == 11
    monkeypatch.undo()
    run_forecast(request)
    assert content(request) == whole[1]


def test_an_observer_that_fails_while_told_of_a_failure_hides_nothing(request_for: Requests) -> None:
    class Worse(Listener):
        def failed(self, error: BaseException) -> None:
            super().failed(error)
            raise RuntimeError("and now this")

    worse, after = Worse(), Listener()
    with pytest.raises(InputError, match="no such file"):
        run_forecast(request_for(initial=Path("nowhere")), [worse, after])
    assert worse.told == after.told == [("failed", "InputError")]


# small things


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_a_copy_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    link(source, target)
    assert target.read_text() == "new" and not target.samefile(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_request_follows_the_configuration(tmp_path: Path) -> None:
    config = Config(
        {
            "model": "demo",
            "cycle": CYCLE,
            "members": "1-3",
            "lead_hours": 24,
            "scratch": str(tmp_path),
            "initial_conditions": {"source": "idealised"},
            "forecast": {"precision": 16, "packing": {"t": 18}, "restart_hours": 12},
        }
    )
    request = ForecastRequest.from_config(config, 2)
    assert request.leads == (6, 12, 18, 24) and request.member == 2 and request.settings.precision == "16"
    assert request.checkpoint == tmp_path / "checkpoints" / "demo.ckpt"
    assert request.initial == tmp_path / CYCLE / "initial" / "member002.safetensors"
    assert request.work == tmp_path / CYCLE / "work" / "member002"
    assert request.bits["t_500"] == 18 and request.local_leads
    given = ForecastRequest.from_config(config, 2, checkpoint=Path("x"), initial=Path("y"))
    assert (given.checkpoint, given.initial) == (Path("x"), Path("y"))
    assert set(this_machine.PACKAGES) <= set(this_machine.versions())
