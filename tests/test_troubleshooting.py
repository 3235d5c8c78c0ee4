"""docs/troubleshooting.md quotes what the code says, and lists the exit codes that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from aifs_ensemble.common import errors

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = re.findall(r"^\| (`[^|]*) \|[^|]*\|[^|]*\|$", PAGE, re.MULTILINE)
QUOTED = [text for row in ROWS for text in re.findall(r"`([^`]+)`", row)]


def texts() -> list[str]:
    """Return every text in the library, what is put into it left out."""
    found = []
    for path in sorted([*(ROOT / "scripts" / "aifs_ensemble").rglob("*.py"), *(ROOT / "plugins").rglob("src/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@pytest.fixture(scope="module")
def library() -> str:
    return "\n".join(texts())


@pytest.mark.parametrize("text", QUOTED)
def test_what_is_quoted_is_said(library: str, text: str) -> None:
    assert text in library, f"nothing says {text!r}"


def test_every_exit_code_is_explained() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {item.exit_code for item in classes if issubclass(item, errors.WorkflowError)}
    listed = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(",")}
    assert listed == codes
