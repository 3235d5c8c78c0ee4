"""Tables as CSV that every program reads: comments, a header, a row a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]], about: Iterable[str]) -> str:
    """Return rows as CSV below comments, a line each; what a row lacks is empty."""
    text = io.StringIO()
    text.write("".join(f"# {line}\n" for line in about))
    lines = csv.DictWriter(text, columns, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue()


def csv_number(value: float) -> str:
    """Return a number with six digits; one that is not known is empty."""
    return f"{value:.6g}" if np.isfinite(value) else ""
