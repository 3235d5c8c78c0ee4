"""The checkpoint command and the registration of digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.models import CATALOGUE
from aifs_ensemble.model.checkpoint.register import register_checkpoint


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """The catalogue, with the released model on the demonstration's grid so that its checkpoint fits."""
    text = CATALOGUE.read_text()
    before, name, after = text.partition("  aifs-ens-1.0:\n")
    path = tmp_path / "models.yaml"
    path.write_text(before + name + after.replace("grid: N320", "grid: N32", 1))
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
    assert "fits         demo" in shown


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
