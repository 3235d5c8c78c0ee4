"""The documentation against what it speaks of: keys, commands, options, modules, links, examples."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import markdown
import pytest
import yaml
from aifs_ensemble.cli import build_parser, command_names
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.config.schema import keys

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "config" / "README.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    GUIDE,
    *sorted((ROOT / "docs").glob("*.md")),
]
KEYS = [(key, node) for key, node in keys() if "properties" not in node]
EXAMPLES = re.findall(r"^<!-- example -->\n```yaml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def described() -> dict[str, str]:
    """Return the default that config/README.md gives for each key that has a row there."""
    return dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \| ", GUIDE.read_text(), re.MULTILINE))


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long options of a parser and of the commands below it."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            found.update(option for below in action.choices.values() for option in options(below))
    return found


@pytest.fixture(scope="module")
def known_options() -> dict[str, set[str]]:
    return {name: options(build_parser([name])) for name in command_names()}


@pytest.mark.parametrize(("key", "node"), [pytest.param(*item, id=item[0]) for item in KEYS])
def test_every_key_is_explained_with_its_default(key: str, node: Mapping[str, Any]) -> None:
    default = described().get(key)
    assert default is not None, f"config/README.md has no row for {key}"
    if "default" in node:
        assert default == f"`{json.dumps(node['default'])}`"
    else:
        assert default.startswith("*"), f"{key} has no default"


def test_no_key_is_explained_that_does_not_exist() -> None:
    sections = set(dict(KEYS))
    assert not {key for key in described() if not key.endswith((".yaml", ".json"))} - sections


def mentioned() -> set[str]:
    """Return the commands that stand in the tables of docs/commands.md, or behind `aifs-ensemble` on any page."""
    alone = re.findall(r"`([a-z-]+)[ `]", (ROOT / "docs" / "commands.md").read_text())
    whole = [name for page in PAGES for name in re.findall(r"(?:^ *|`)aifs-ensemble ([a-z-]+)", page.read_text(), re.M)]
    return {*alone, *whole}


@pytest.mark.parametrize("command", command_names())
def test_every_command_is_mentioned(command: str) -> None:
    assert command in mentioned()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_exist_with_the_options_printed(page: Path, known_options: dict[str, set[str]]) -> None:
    for command, rest in re.findall(r"(?:^ *|`)aifs-ensemble ([a-z-]+)([^`#\n]*)", page.read_text(), re.MULTILINE):
        assert command in known_options, f"aifs-ensemble {command}"
        asked = set(re.findall(r"(?<=[ \[])--[a-z-]+", rest))
        assert asked <= known_options[command], f"aifs-ensemble {command}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    asked = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)`", text))
    assert asked <= known


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"(?:\]\(|<img src=\")([^)\"\s]+)", page.read_text())
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert not [target for target in local if not (page.parent / target).exists()]


def test_the_site_has_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [
        page
        for part in nav
        for below in part.values()
        for item in below
        if isinstance(item, dict)
        for page in item.values()
    ]
    assert len(listed) == len(set(listed))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= set(listed)


def test_links_and_lists_become_the_sites() -> None:
    """Links as GitHub has them lead to the site's pages and files; what belongs to an item stays in it."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "site" / "hooks.py")
    assert spec and spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = (
        "See [it](../docs/grib.md#keys), [`home`](../README.md), [terms](../NOTICE), "
        "[there](https://coiled.io), `[no](x.md)`:\n"
        "1. First\n   more\n   ```yaml\n   - key: [a](b.md)\n   ```\n2. Second\nEnd\n"
    )
    page = SimpleNamespace(file=SimpleNamespace(src_uri="configuration.md"))
    made = markdown.markdown(hooks.on_page_markdown(text, page), extensions=["pymdownx.superfences"])
    assert re.findall(r'href="(.+?)"', made) == ["grib.md#keys", "index.md", "files/NOTICE.txt", "https://coiled.io"]
    assert made.count("<li>") == 2 and made.index("key") < made.index("Second")
    assert "[no](x.md)" in made and "[a](b.md)" in re.sub("<.+?>", "", made)


def sentences(text: str) -> list[str]:
    """Return the sentences of a page's prose: without code, tables, headings and the addresses of links."""
    text = re.sub(r"^ *```.*?^ *```$|^ *\|.*?$|^#.*?$|^    .*?$|^<!--.*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`` . ``|`[^`]*`", "code", re.sub(r"\]\(\S+\)", "]", text))
    parts = re.split(r"\n *\n|^ *(?:[-*]|\d+\.) ", text, flags=re.MULTILINE)
    return [" ".join(each.split()) for part in parts for each in re.split(r"[.?!:][)*]*\s", part)]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_name)
def test_sentences_are_short(page: Path) -> None:
    """CONTRIBUTING.md asks for 25 words; a sentence that lists names may have a few more."""
    assert not [each for each in sentences(page.read_text()) if len(each.split()) > 30]


def test_every_module_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+)`", text)}
    library = ROOT / "scripts" / "aifs_ensemble"
    whole = {"cli", "storage"}  # packages with one row
    modules = [p for p in library.rglob("*.py") if not p.name.startswith("__") and p.parent.name not in whole]
    assert not [page_name(p) for p in modules if p.stem not in named]


def test_every_rule_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rules = [r for p in (ROOT / "rules").glob("*.smk") for r in re.findall(r"^ *rule (\w+):", p.read_text(), re.M)]
    assert not [rule for rule in rules if f"`{rule}`" not in text]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 10


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_are_right(example: str) -> None:
    raw = read_files(ROOT / "config" / "config.yaml", over=yaml.safe_load(example))
    Config(raw)
