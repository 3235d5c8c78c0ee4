"""`checkpoint check`: what it tells of a file is so, nothing of the file is run, and what cannot run is said."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aifs_ensemble.cli import main
from aifs_ensemble.cli._checkpoint_check import by_card
from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.model.checkpoint.anatomy import anatomy, anatomy_configured, octahedral
from aifs_ensemble.model.checkpoint.archive import read_archive
from aifs_ensemble.model.checkpoint.build import build_checkpoint
from aifs_ensemble.model.checkpoint.check import Report, examine
from aifs_ensemble.model.checkpoint.inert import Inert, read_inert
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.checkpoint.on_device import tell_passes
from aifs_ensemble.model.known_classes import why_not_accelerated
from aifs_ensemble.planning.throughput import Throughput

from model.checkpoint import archives


@pytest.fixture(scope="module")
def report(demo_path: Path) -> Report:
    return examine(demo_path)


@pytest.fixture
def interface(demo: Model, demo_path: Path) -> Any:
    """The demonstration's model, for a test to change."""
    return load_model(demo_path, demo, device="cpu")


def pickled(interface: Any) -> Inert:
    """Return a model as the pickle in its checkpoint describes it."""
    file = io.BytesIO()
    torch.save(interface, file)
    with zipfile.ZipFile(file) as archive:
        return read_inert(archive.read("archive/data.pkl"), "c.ckpt")[0]


def with_pickle(original: Path, to: Path, content: bytes) -> Path:
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name.endswith("/data.pkl") else source.read(name))
    return to


def call(module: str, name: str, argument: str) -> bytes:
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X" + struct.pack("<I", len(text)) + text + b"tR."


def of_other_parts() -> bytes:
    """Return the pickle of a module whose model keeps what no version keeps."""
    inner = pickle.dumps({"_modules": 7, "encoder": 3, "_graph_name_hidden": []}, protocol=2)[2:-1]
    cls = b"canemoi.models.interface\nUnheard\n)\x81"
    return b"\x80\x02" + cls + b"}X\x08\x00\x00\x00_modules}X\x05\x00\x00\x00model" + cls + inner + b"bssb."


def test_the_demonstration_is_what_its_entry_says(report: Report, demo: Model, interface: Any) -> None:
    assert report.problems == []
    assert report.entry == demo
    assert report.accelerated
    recipe, network = demo.checkpoint["build"], report.facts["network"]
    told = {name: network[name] for name in ("layers", "channels", "heads", "window", "qk norm", "noise channels")}
    expected = {name: recipe[name] for name in ("layers", "channels", "heads", "window")}
    assert told == expected | {"qk norm": True, "noise channels": 4}
    parameters = sum(parameter.numel() for parameter in interface.parameters())
    assert network["parameters"] == f"{parameters / 1e6:,.1f} M"
    encoder, decoder = (interface.model.encoder.edge_index_base, interface.model.decoder.edge_index_base)
    assert network["edges"].startswith(f"encoder {encoder.shape[1]:,} with 3 attributes; decoder {decoder.shape[1]:,}")
    assert network["hidden grid"] == "544 points (O8)"
    assert network["boundings"][1] == "HardtanhBounding 0..1: tcc hcc mcc lcc"
    assert report.facts["data"]["prognostic"].startswith("88: 10u 10v 2d 2t msl skt sp stl1 stl2 tcw and 78 on levels")
    assert report.facts["data"]["levels"].startswith("q t u v w z: 50 100 150")
    assert report.facts["file"]["records"].endswith(", stored")
    assert report.facts["file"]["digest"] == "what checkpoint.build of demo makes here"


def test_the_command_prints_a_table_or_json(demo_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "check", str(demo_path)]) == 0
    table = capsys.readouterr().out
    assert "  window              64\n" in table
    assert "  accelerated         yes\n" in table
    assert table.endswith("  runs here           yes, as demo\n")
    assert max(map(len, table.splitlines())) <= 120
    assert main(["checkpoint", "check", str(demo_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] and told["model"] == "demo" and told["network"]["layers"] == 2


def test_how_the_released_file_probably_is(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    """Deflated, in a folder of another name, its metadata under their old name."""
    root, path = "inference-by_epoch-epoch_001_fix_0.05", tmp_path / "c.ckpt"
    with zipfile.ZipFile(demo_path) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name).replace(b'"archive/anemoi', f'"{root}/anemoi'.encode())
            target.writestr(root + name.removeprefix("archive").replace("anemoi.json", "ai-models.json"), content)
    report = examine(path, name="demo", trust=True)
    assert report.problems == [] and report.accelerated
    assert report.facts["file"]["metadata"] == f"{root}/anemoi-metadata/ai-models.json"
    count = len(read_archive(report.path).records)
    assert f"{count} of {count} records deflated" in report.facts["file"]["records"]
    assert load_model(path, demo, device="cpu", trust=True) is not None


def test_nothing_of_a_file_is_run(demo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace"
    path = with_pickle(demo_path, tmp_path / "c.ckpt", call("posix", "system", f"touch {trace}"))
    for options in ([], ["--trust"]):
        assert main(["checkpoint", "check", str(path), *options]) == 4
        printed = capsys.readouterr().out
        assert "names refused       posix.system" in printed
        assert "cannot run          unpickling refuses posix.system" in printed
    assert not trace.exists()


CASES: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "absent class": (
        lambda demo, to: with_pickle(demo, to, call("anemoi.models.layers.residual", "Truncated", "x")),
        "not here: anemoi.models.layers.residual.Truncated",
    ),
    "damaged": (
        lambda demo, to: archives.damaged(demo, to, archives.largest_tensor(demo), at=0.5),
        "damaged: record archive/data/",
    ),
    "no pickle": (lambda demo, to: with_pickle(demo, to, b"no pickle"), "the pickled model cannot be read"),
    "truncated": (lambda demo, to: (to.write_bytes(demo.read_bytes()[:-500]) and to) or to, "truncated or damaged"),
    "metadata": (
        lambda demo, to: (to.with_suffix(".json").write_text('{"config": {}}') and to) and to.with_suffix(".json"),
        "no weights in it",
    ),
    "something else": (
        lambda demo, to: (to.with_suffix(".yaml").write_text("- 1\n- 2\n") and to) and to.with_suffix(".yaml"),
        "a list of 2, expected a checkpoint, its metadata",
    ),
    "no JSON": (
        lambda demo, to: (to.with_suffix(".json").write_text("{") and to) and to.with_suffix(".json"),
        "cannot be read",
    ),
    "a pickle of something else": (
        lambda demo, to: with_pickle(demo, to, pickle.dumps({"weights": 1})),
        "the pickle holds a dict, expected an AnemoiModelInterface",
    ),
    "a model of other parts": (
        lambda demo, to: with_pickle(demo, to, of_other_parts()),
        "not here: anemoi.models.interface.Unheard",
    ),
    "nothing": (lambda demo, to: to, "no such file, expected a checkpoint"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_run_is_said(
    demo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, expected = CASES[case]
    assert main(["checkpoint", "check", str(make(demo_path, tmp_path / "c.ckpt"))]) == 4
    printed = capsys.readouterr()
    assert expected in " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": {}, "dataset": 3},
        {"config": {"data": [], "training": 1}, "dataset": {"variables": 5, "shape": []}},
        {"config": {}, "metadata_inference": {"dataset_names": [1, 2]}},
        {"config": {}, "provenance_training": {"module_versions": {"torch": 3}}, "aifs_ensemble": []},
        {"config": {"model": {"processor": [], "bounding": {"a": 1}}}},
        {"config": {"data": {}}, "data_indices": {"model": []}, "version": "2.0"},
    ],
    ids=str,
)
def test_metadata_of_any_kind_end_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata: dict[str, Any]
) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(metadata))
    assert main(["checkpoint", "check", str(path)]) == 4
    assert "cannot run          no weights in it" in capsys.readouterr().out


def test_a_listed_digest_is_held_to(demo: Model, demo_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(demo_path.read_bytes()).hexdigest()
    for listed, trust, problems in ((digest, False, 0), ("0" * 64, False, 1), ("0" * 64, True, 0)):
        entry = replace(demo, checkpoint={"repository": "a/b", "file": "c", "sha256": listed})
        monkeypatch.setattr("aifs_ensemble.model.checkpoint.check.get_model", lambda name, entry=entry: entry)
        report = examine(demo_path, name="demo", trust=trust)
        assert len(report.problems) == problems
        assert report.facts["file"]["digest"].startswith("the one" if listed == digest else "another than the one")
        assert (report.model is None) == bool(problems)


def test_a_checkpoint_that_no_entry_fits(demo: Model, tmp_path: Path) -> None:
    path = tmp_path / "toy.ckpt"
    toy = replace(demo, name="toy", grid="O16", surface=demo.surface[1:])
    build_checkpoint(toy, path, hidden="O4", channels=24, layers=3, heads=2, window=16)
    report = examine(path)
    assert report.entry is None and report.model is None
    assert "1600 grid points, expected the 6114 of N32 (demo)" in report.problems
    assert any("prognostic lacks 10u" in problem for problem in report.problems)
    told = examine(path, trust=True).facts
    assert told["network"]["layers"] == 3 and told["network"]["head width"] == 12
    assert told["here"]["accelerated"] == "yes"
    assert "1,600 points" in told["data"]["grid"]


def test_an_unlisted_digest_is_not_loaded_unless_trusted(demo_path: Path, tmp_path: Path) -> None:
    content = bytearray(demo_path.read_bytes())
    content[content.index(b"PK\x01\x02") + 12] ^= 1  # a time in the directory: the same model in another file
    path = tmp_path / "c.ckpt"
    path.write_bytes(content)
    report = examine(path)
    assert report.model is None and report.problems == []
    assert report.facts["here"]["accelerated"].startswith("not told: the model is not loaded without --trust")
    assert "which checkpoint.build of demo makes here" in report.facts["file"]["digest"]
    tell_passes(report, "cpu")
    assert report.facts["passes"]["compared"].startswith("not told")


def test_parts_that_the_demonstration_has_not(interface: Any) -> None:
    model = interface.model
    down = torch.sparse_coo_tensor(torch.tensor([[0, 1], [3, 5]]), torch.ones(2), (144, 6114))
    model.A_down, model.A_up = down, down.t().coalesce().to_sparse_csr()
    model.encoder.trainable.trainable = None
    model.processor.proc[0].blocks[0].attention.softcap = 15.0
    model.noise_injector.projection = torch.nn.Linear(20, 16)
    del model.boundings[1:]
    told = anatomy(pickled(interface))
    assert (
        told["truncation"]
        == "down 6,114 points to 144 points (O3), 2 weights; up 144 points (O3) to 6,114 points, 2 weights"
    )
    assert told["trainable parts"].startswith("encoder edges none, decoder edges 8")
    assert told["softcap"] == 15.0
    assert "folded into the channels" in told["noise"]
    assert told["boundings"] == ["ReluBounding: tp ro ssrd strd"]
    del model.processor, model.noise_injector
    bare = anatomy(pickled(interface))
    assert bare["layers"] is None and bare["noise"] == "none"


def test_why_a_model_is_not_accelerated(interface: Any) -> None:
    assert why_not_accelerated(interface) == ""
    block = interface.model.encoder.proc
    block.update_src_nodes = True
    assert why_not_accelerated(interface) == "an encoder that updates its sources"
    block.update_src_nodes = False
    del interface.model.encoder.emb_nodes_src
    assert why_not_accelerated(interface).startswith("encoder of an unknown kind (AttributeError: ")


def test_a_step_on_this_machine(report: Report) -> None:
    tell_passes(report, "cpu")
    told = report.facts["passes"]
    assert told["own pass"].endswith(" s a step") and float(told["own pass"].split()[0]) > 0
    assert told["used"].startswith("accelerated: no, because ") and told["difference"] == "not compared"


def test_a_precision_that_this_machine_has_not_is_refused(report: Report) -> None:
    for precision in ("16", "fp8"):
        with pytest.raises(ConfigError, match=rf"^--precision: {precision}, expected none on a CPU: "):
            tell_passes(report, "cpu", precision)
    assert main(["checkpoint", "check", "no.ckpt", "--precision", "fp8"]) == ConfigError.exit_code


def test_seconds_by_card_are_the_tables(throughput: Throughput) -> None:
    report = SimpleNamespace(entry=get_model("aifs-ens-size"), accelerated=True)
    cards = {card["card"]: card for card in by_card(report)}  # type: ignore[arg-type]
    (measured,) = (e for e in throughput.entries if (e.gpu, e.model, e.compile) == ("H100-80GB", "aifs-ens-1.0", True))
    assert cards["H100-80GB"]["step_seconds"] == round(measured.step_seconds, 3)
    assert cards["H100-80GB"]["status"] == "measured" and cards["L4"]["status"] == "estimated"
    report.accelerated = False
    slower = {card["card"]: card for card in by_card(report)}  # type: ignore[arg-type]
    assert slower["H100-80GB"]["step_seconds"] > cards["H100-80GB"]["step_seconds"]
    report.entry = get_model("demo")
    assert by_card(report) == []  # type: ignore[arg-type]


def test_a_training_configuration_tells_of_the_network() -> None:
    processor = {"num_layers": 16, "num_heads": 16, "window_size": 1120, "qk_norm": False}
    bounding = [{"_target_": "anemoi.models.layers.bounding.ReluBounding", "variables": ["tp", "ro"]}]
    config = {
        "model": {"num_channels": 1024, "processor": processor, "bounding": bounding},
        "data": {"processors": {"imputer": {"_target_": "anemoi.models.preprocessing.imputer.InputImputer"}}},
    }
    assert anatomy_configured(config) == {
        "layers": 16,
        "channels": 1024,
        "heads": 16,
        "window": 1120,
        "qk norm": False,
        "boundings": ["ReluBounding: tp ro"],
        "processors": {"imputer": "InputImputer"},
    }
    assert anatomy_configured({}) == {}


@pytest.mark.parametrize(("points", "name"), [(544, "O8"), (40320, "O96"), (6599680, "O1280"), (542080, ""), (0, "")])
def test_octahedral_grids_by_their_points(points: int, name: str) -> None:
    assert octahedral(points) == name


def test_an_inert_pickle_that_is_none() -> None:
    with pytest.raises(CheckpointError, match=r"c\.ckpt: the pickled model cannot be read"):
        read_inert(b"\x80\x02c", "c.ckpt")
