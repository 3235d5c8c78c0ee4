"""The forms of anemoi-models that the accelerated pass reads, by version.

A form is what a network is made of and where its parts are. Versions of one form compute the same. Importing this
imports no torch: a plan asks, too.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aifs_ensemble.model.network import Network

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


def network_class(version: str = "") -> type[Network]:
    """Return the adapter that reads models of a version of anemoi-models, the installed one by default.

    Raises NotAcceleratedError where there is none.
    """
    version = version or installed_version()
    form = form_of(version)
    if form == "0.6":
        from aifs_ensemble.model.network_0_6 import Network06

        return Network06
    if form == "0.11":
        from aifs_ensemble.model.network_0_11 import Network011

        return Network011
    from aifs_ensemble.model.network import NotAcceleratedError

    raise NotAcceleratedError(unknown_version(version))
