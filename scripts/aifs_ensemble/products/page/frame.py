"""What pages have in common: style, theme, choices and time. One HTML file with its data in it.

A template has what is a page's own: a style (it may have none), what it shows, and a script. `frame.html` has the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from aifs_ensemble.products.pictures.looks import Look
from aifs_ensemble.products.wording import number_words

_FRAME = Path(__file__).with_name("frame.html")
_OWN = re.compile(r"(?:<style>(?P<style>.*?)</style>\n)?(?P<main>.*)\n<script>\n(?P<script>.*)\n</script>\n", re.DOTALL)


def framed(template: Path, parts: Mapping[str, str], data: Any, *, warned: Iterable[str]) -> str:
    """Return a page as HTML.

    Parameters
    ----------
    template : the page's own, with ``[[NAME]]`` where `parts` go
    parts : TITLE, SAID (beside the title) and those of the template, by name, as HTML
    data : what the script reads, JSON-compatible
    warned : sentences for the top of the page, without their full stops
    """
    own = _OWN.fullmatch(template.read_text(encoding="utf-8"))
    assert own is not None, template
    text = _FRAME.read_text(encoding="utf-8")
    for name in ("style", "main", "script"):
        text = text.replace(f"[[{name.upper()}]]", own[name] or "")
    filled = {
        **parts,
        "WARNED": "".join(f"<p class=warned role=alert>{escape(one)}.</p>" for one in warned),
        # no text of a file's name may end the script
        "DATA": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\[\[([A-Z]+)\]\]", lambda match: filled[match[1]], text)


def legend(look: Look) -> dict[str, Any]:
    """Return the colour bar, which a phone shows in letters of its own size."""
    first, count = look.shown
    return {
        "unit": look.label,
        "levels": [number_words(level) for level in look.levels],
        "below": look.extend == "both",
        **{
            name: [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in look.painted(dark=dark)[first:][:count]]
            for name, dark in (("light", False), ("dark", True))
        },
    }
