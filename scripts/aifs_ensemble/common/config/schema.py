"""The JSON schema of the configuration and the tables of its keys, both made from the classes of ``sections``.

``python -m aifs_ensemble.common.config.schema --write`` writes config/config.schema.json and the tables of
config/README.md; without ``--write`` it ends with 1 when one of them is not what the classes say.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import sections
from aifs_ensemble.common.config.sections import Values

FOLDER = Path(__file__).parents[4] / "config"
_ORDER = ("type", "additionalProperties", "required", "items", "enum", "default", "description")
_TABLE = re.compile(r"(?<=<!-- keys: )([\w. ]+)( -->\n).*?(?=<!-- end of keys -->)", re.DOTALL)
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "multipleOf": "a multiple of"}


@cache
def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration, without references."""
    raw = Values.model_json_schema()
    classes = raw.get("$defs", {})
    for name, meanings in _meanings().items():
        for key, meaning in meanings.items():
            (raw if name == Values.__name__ else classes[name])["properties"][key]["description"] = meaning
    node = _plain(raw, classes)
    draft, title = "https://json-schema.org/draft/2020-12/schema", "AIFS ensemble workflow configuration"
    return {"$schema": draft, "title": title, **{key: node[key] for key in node if key != "description"}}


def _meanings() -> dict[str, dict[str, str]]:
    """Return what the keys of each class mean: the text below each. pydantic would read it at every start."""
    found: dict[str, dict[str, str]] = {}
    source = ast.parse(Path(sections.__file__).read_text(encoding="utf-8"))
    for section in (node for node in source.body if isinstance(node, ast.ClassDef)):
        for line, text in pairwise(section.body):
            if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found.setdefault(section.name, {})[ast.unparse(line.target)] = str(text.value.value)
    return found


def _plain(node: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node of pydantic's with references filled in, without titles, its alternatives as a list of types."""
    if reference := node.get("$ref"):
        return _plain(classes[reference.rpartition("/")[2]], classes)
    found = {key: value for key, value in node.items() if key not in ("title", "$defs", "anyOf", "properties")}
    if kinds := [_plain(kind, classes) for kind in node.get("anyOf", ())]:
        for kind in kinds:
            found.update(kind)
        found["type"] = [kind["type"] for kind in kinds]
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), Mapping):
            found[key] = _plain(found[key], classes)
    if patterns := found.get("patternProperties"):
        found["patternProperties"] = {name: _plain(child, classes) for name, child in patterns.items()}
    if "description" in found:  # wrapped in the class
        found["description"] = " ".join(found["description"].split())
    ordered = sorted(found, key=lambda key: _ORDER.index(key) if key in _ORDER else 4.5)
    plain = {key: found[key] for key in ordered if found[key] != {}}
    if "default" in found:
        plain["default"] = found["default"]
    if "properties" in node:
        plain["properties"] = {name: _plain(child, classes) for name, child in node["properties"].items()}
    return plain


def keys(node: Mapping[str, Any] | None = None, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the full name and the node of every key and, before its keys, of every section."""
    for name, child in (json_schema() if node is None else node).get("properties", {}).items():
        yield prefix + name, child
        yield from keys(child, f"{prefix}{name}.")


def takes_text(key: str) -> bool:
    """Tell whether there is nothing but a text, or null, for a key such as ``cloud.project``."""
    node = dict(keys()).get(key, {})
    return bool(_kinds(node)) and "enum" not in node and _kinds(node) <= {"string", "null"}


def _kinds(node: Mapping[str, Any]) -> set[str]:
    kinds = node.get("type", ())
    return {kinds} if isinstance(kinds, str) else set(kinds)


def expected(node: Mapping[str, Any]) -> str:
    """Return in words what a key takes, e.g. ``integer, at least 1``."""
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    types = node.get("type", "a value")
    text = " or ".join(types) if isinstance(types, list) else types
    limits = [f"{word} {node[name]}" for name, word in _BOUNDS.items() if name in node]
    if isinstance(node.get("items"), Mapping):
        limits.append(f"of {expected(node['items'])}")
    return ", ".join([text, *limits])


def schema_text() -> str:
    """Return config.schema.json: a line a key."""
    return _lines(json_schema(), "") + "\n"


def _lines(node: Mapping[str, Any], indent: str) -> str:
    head = {key: value for key, value in node.items() if key != "properties"}
    if "properties" not in node:
        return json.dumps(head)
    parts = [f"{indent}  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    below = [
        f"{indent}    {json.dumps(name)}: {_lines(child, indent + '    ')}"
        for name, child in node["properties"].items()
    ]
    parts.append(f'{indent}  "properties": {{\n' + ",\n".join(below) + f"\n{indent}  }}")
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def guide_text(text: str) -> str:
    """Return config/README.md with its tables of keys made anew; each says which keys and sections it has."""
    return _TABLE.sub(lambda match: match[1] + match[2] + _table(match[1].split()), text)


def _table(names: list[str]) -> str:
    rows = ["| key | default | expected | meaning |", "|---|---|---|---|"]
    for key, node in keys():
        if "properties" in node or not any(key == name or key.startswith(f"{name}.") for name in names):
            continue
        default = f"`{json.dumps(node['default'])}`" if "default" in node else "*required*"
        cells = (f"`{key}`", default, expected(node), node["description"])
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def stale(*, write: bool = False) -> list[Path]:
    """Return the files that are not what the classes say, and write them if asked."""
    guide = FOLDER / "README.md"
    made = {FOLDER / "config.schema.json": schema_text(), guide: guide_text(guide.read_text(encoding="utf-8"))}
    different = [path for path, text in made.items() if path.read_text(encoding="utf-8") != text]
    for path in different if write else ():
        path.write_text(made[path], encoding="utf-8")
    return different


if __name__ == "__main__":
    write = "--write" in sys.argv[1:]
    found = stale(write=write)
    for path in found:
        print(f"{path}: {'written' if write else 'not current, see make config-docs'}")  # noqa: T201
    sys.exit(bool(found) and not write)
