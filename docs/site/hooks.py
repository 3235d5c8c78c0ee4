"""Hooks of mkdocs.yml: pages from outside docs/, and links and lists as they are written for GitHub.

A link names a file of the repository, relative to the page. In the site it leads to the page made of that file, or to a
copy of the file below `files/`. A link to anything else breaks the strict build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "config/README.md": "configuration.md",
    "plugins/snakemake-executor-plugin-coiled/README.md": "executor-coiled.md",
}
# what a link or a picture names, and code, in which nothing is a link
LINK_OR_CODE = re.compile(
    r'(?ms)^ *```.*?^ *```|`[^`\n]+`|(?:(?<=\]\()|(?<=<img src="))(?P<target>[^)"\s#:]+)(?=[)"#])'
)
ITEM = re.compile(r"(?:[-*]|1\.|[2-9]\.) +")


def repository_path(page: str) -> str:
    """Return where the file of a page of the site stands in the repository."""
    return {site: file for file, site in ELSEWHERE.items()}.get(page, f"docs/{page}")


def site_path(file: str) -> str:
    """Return where a file of the repository stands in the site."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    # a browser shows text by the end of its name, and saves what has none
    return ELSEWHERE.get(file) or f"files/{file}{'' if Path(file).suffix else '.txt'}"


def linked(page: str, target: str) -> str:
    """Return the file of the repository that a link on a page of the site means."""
    return os.path.normpath(Path(repository_path(page)).parent / target)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and the files that pages link to."""
    for file, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    for page in [item.src_uri for item in files.documentation_pages()]:
        for match in LINK_OR_CODE.finditer((ROOT / repository_path(page)).read_text()):
            if not match["target"]:
                continue
            file = linked(page, match["target"])
            if not (ROOT / file).is_file():
                raise PluginError(f"{repository_path(page)}: link to '{match['target']}', no file, expected one")
            if not files.get_file_from_path(site_path(file)):
                files.append(File.generated(config, site_path(file), abs_src_path=str(ROOT / file)))
    return files


def with_lists(markdown: str) -> str:
    """Return a page with its lists as mkdocs wants them: after an empty line, what belongs to an item four spaces in.

    For GitHub a list may follow its sentence at once, and what belongs to an item begins below the item's first letter.
    """
    lines: list[str] = []
    indent = 0  # of the item that the line belongs to; 0 outside of lists
    fenced = False
    for line in markdown.split("\n"):
        item = ITEM.match(line) if not fenced else None
        if item:
            if indent == 0 and lines and lines[-1].strip():
                lines.append("")
            indent = len(item[0])
        elif line.strip() and not line.startswith(" " * indent):
            indent = 0
        inside = indent and not item and line.strip()
        lines.append(" " * (4 - indent) + line if inside else line)
        fenced ^= line.lstrip().startswith("```")
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files of the repository into links to what the site has of them; see `with_lists`."""
    here = page.file.src_uri

    def in_site(match: re.Match[str]) -> str:
        if not match["target"]:
            return match[0]
        return os.path.relpath(site_path(linked(here, match["target"])), Path(here).parent)

    return with_lists(LINK_OR_CODE.sub(in_site, markdown))
