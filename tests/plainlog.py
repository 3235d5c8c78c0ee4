"""Snakemake's own log in copies of the checkout: tests read it job by job. What is run stays the same."""

from __future__ import annotations

from pathlib import Path


def use_plain_log(checkout: Path) -> None:
    """Take the profiles' choice of a logger out of a copied checkout."""
    for profile in (checkout / "profiles").glob("*/config.yaml"):
        profile.write_text(profile.read_text().replace("logger: aifs\n", ""))
