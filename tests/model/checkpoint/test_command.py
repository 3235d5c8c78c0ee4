"""The checkpoint command and the registration of digests."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.models import CATALOGUE, get_model
from aifs_ensemble.model.checkpoint.fetch import fetch_checkpoint
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.checkpoint.register import register_checkpoint
from anemoi.utils.checkpoints import load_metadata, replace_metadata
from doubles.huggingface_server import COMMIT, huggingface_hub_server


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """The catalogue, with the released model on the demonstration's grid so that its checkpoint fits."""
    text = CATALOGUE.read_text()
    before, name, after = text.partition("  aifs-ens-1.0:\n")
    path = tmp_path / "models.yaml"
    after = after.replace("grid: N320", "grid: N32", 1).replace("size: 921584533", "size: null")
    path.write_text(before + name + after)
    return path


def test_register_changes_two_lines_and_no_others(catalogue: Path, demo_path: Path) -> None:
    before = catalogue.read_text().splitlines()
    digest = register_checkpoint("aifs-ens-1.0", demo_path, catalogue)
    after = catalogue.read_text().splitlines()
    assert digest == hashlib.sha256(demo_path.read_bytes()).hexdigest()
    changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [
        ("sha256: null", f'sha256: "{digest}"'),
        ("size: null", f"size: {demo_path.stat().st_size}"),
    ]
    entry = yaml.safe_load(catalogue.read_text())["models"]["aifs-ens-1.0"]["checkpoint"]
    assert entry["sha256"] == digest
    assert register_checkpoint("aifs-ens-1.0", demo_path, catalogue) == digest


def test_register_pins_the_revision_that_was_fetched(
    catalogue: Path, demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_model("aifs-ens-1.0", catalogue)
    place = (model.checkpoint["repository"], model.checkpoint["file"])
    monkeypatch.delenv("HF_TOKEN", raising=False)
    before = catalogue.read_text().splitlines()
    with huggingface_hub_server({place: demo_path.read_bytes()}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        fetch_checkpoint(model, tmp_path / "c.ckpt")
        digest = register_checkpoint("aifs-ens-1.0", tmp_path / "c.ckpt", catalogue)
        registered = get_model("aifs-ens-1.0", catalogue)
        assert registered.checkpoint["revision"] == COMMIT
        hub.seen.clear()
        fetch_checkpoint(registered, tmp_path / "again.ckpt")
        assert {seen.path.split("/")[4] for seen in hub.seen if "/resolve/" in seen.path} == {COMMIT}
    changed = [new.strip() for old, new in zip(before, catalogue.read_text().splitlines(), strict=True) if old != new]
    assert changed == [f'revision: "{COMMIT}"', f'sha256: "{digest}"', f"size: {demo_path.stat().st_size}"]


def test_another_size_is_refused_where_no_digest_is_known(catalogue: Path, demo_path: Path, tmp_path: Path) -> None:
    text = catalogue.read_text()
    catalogue.write_text(text.replace("size: null", "size: 921584533"))
    model, found = get_model("aifs-ens-1.0", catalogue), demo_path.stat().st_size
    line = re.escape(f"{found} bytes, expected 921584533 (aifs-ens-1.0 in models.yaml)")
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(demo_path))}: {line}"):
        register_checkpoint("aifs-ens-1.0", demo_path, catalogue)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(demo_path))}: {line}"):
        load_model(demo_path, model, device="cpu", trust=True)
    with pytest.raises(CheckpointError, match=line):
        fetch_checkpoint(model, tmp_path / "c.ckpt", source=str(demo_path))
    assert not (tmp_path / "c.ckpt").exists()
    shutil.copyfile(demo_path, tmp_path / "kept.ckpt")
    with pytest.raises(CheckpointError, match=line):
        fetch_checkpoint(model, tmp_path / "kept.ckpt")
    # the digest is the better witness, once it is known
    digest = hashlib.sha256(demo_path.read_bytes()).hexdigest()
    listed = replace(model, checkpoint={**model.checkpoint, "sha256": digest})
    load_model(demo_path, listed, device="cpu")


def test_register_keeps_comments_on_the_line(catalogue: Path, demo_path: Path) -> None:
    catalogue.write_text(catalogue.read_text().replace("sha256: null", "sha256: null  # unknown"))
    digest = register_checkpoint("aifs-ens-1.0", demo_path, catalogue)
    assert f'      sha256: "{digest}"  # unknown\n' in catalogue.read_text()


@pytest.mark.parametrize(
    ("name", "change", "error", "expected"),
    [
        ("demo", ("", ""), ConfigError, "is built, not fetched"),
        ("aifs-ens-1.0", ("sha256: null", f'sha256: "{"1" * 64}"'), CheckpointError, "lists 1111"),
        ("aifs-ens-1.0", ("      sha256: null\n", ""), ConfigError, "no line `sha256:` under checkpoint"),
        (
            "aifs-ens-1.0",
            ("grid: N32\n    timestep_hours: 6", "grid: N48\n    timestep_hours: 6"),
            CheckpointError,
            "6114 grid",
        ),
    ],
)
def test_register_refuses(
    catalogue: Path, demo_path: Path, name: str, change: tuple[str, str], error: type[Exception], expected: str
) -> None:
    before, mark, after = catalogue.read_text().partition("  aifs-ens-1.0:\n")
    text = before + mark + after.replace(*change)
    catalogue.write_text(text)
    with pytest.raises(error, match=expected):
        register_checkpoint(name, demo_path, catalogue)
    assert catalogue.read_text() == text


def test_show(demo_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(demo_path), "--model", "demo"]) == 0
    shown = capsys.readouterr().out
    assert "no: untrained" in shown
    assert "6114 points" in shown
    assert "88 prognostic, 4 constant, 9 computed, 12 diagnostic" in shown
    assert "anemoi.models 0.6.0" in shown
    assert "records      stored\n" in shown
    assert "fits         demo" in shown


def test_show_names_the_packages_that_matter(
    demo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copyfile(demo_path, tmp_path / "c.ckpt"))
    metadata, arrays = load_metadata(str(path), supporting_arrays=True)
    recorded = metadata["provenance_training"]["module_versions"]
    kept = len(recorded) + 1  # Python
    recorded |= {f"module{number}": "1.0" for number in range(300)}
    replace_metadata(str(path), metadata, arrays)
    assert main(["checkpoint", "show", str(path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("made with"))
    assert "module1" not in line and line.endswith(" and 300 more")
    assert line.count(", ") == kept - 1


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["show", "nothing.ckpt"], 4, "error: nothing.ckpt: no such file, expected a checkpoint"),
        (["show", "{demo}", "--model", "aifs-ens-1.0"], 4, "6114 grid points, expected the 542080 of N320"),
        (["build", "aifs-ens-1.0"], 2, "it is fetched, not built"),
        (["fetch", "dmo"], 2, "did you mean 'demo'?"),
        (["register", "demo", "{demo}"], 2, "is built, not fetched"),
        (["register", "aifs-ens-1.0", "{demo}"], 4, "6114 grid points"),
    ],
)
def test_errors(
    demo_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, expected: str
) -> None:
    assert main(["checkpoint", *(argument.format(demo=demo_path) for argument in arguments)]) == code
    printed = capsys.readouterr().err
    assert expected in printed
    assert printed.count("\n") == 1


def test_build_and_fetch(
    demo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["checkpoint", "build", "demo"]) == 0
    built = tmp_path / "checkpoints" / "demo.ckpt"
    assert built.read_bytes() == demo_path.read_bytes()
    assert main(["checkpoint", "fetch", "demo", "--source", str(demo_path), "--output", "copy.ckpt"]) == 0
    assert (tmp_path / "copy.ckpt").read_bytes() == demo_path.read_bytes()
    printed = capsys.readouterr().out
    assert f"from {demo_path}" in printed
    assert hashlib.sha256(built.read_bytes()).hexdigest() in printed
