"""The forms of anemoi-models that the accelerated pass reads, by version.

A form is what a network is made of and where its parts are. Versions of one form compute the same. Importing this
imports no torch: a plan asks, too.
"""

from __future__ import annotations

from importlib import metadata

# By the first numbers of a version, the form: that of AIFS ENS v1, and that of v2.
FORMS = {"0.5": "0.6", "0.6": "0.6", "0.11": "0.11"}


def installed_version() -> str:
    """Return the version of anemoi-models that is installed, ``none`` without it."""
    try:
        return metadata.version("anemoi-models")
    except metadata.PackageNotFoundError:
        return "none"


def form_of(version: str) -> str:
    """Return the form of a version of anemoi-models, empty where it is not known."""
    return next((form for known, form in FORMS.items() if version == known or version.startswith(f"{known}.")), "")


def unknown_version(version: str) -> str:
    """Return why a version of anemoi-models is not accelerated, empty if it is."""
    if form_of(version):
        return ""
    *others, last = FORMS
    known = f"{', '.join(others)} and {last}"
    return f"anemoi-models {version} is installed, the accelerated pass is written for {known}"
