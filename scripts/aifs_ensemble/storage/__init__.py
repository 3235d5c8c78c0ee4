"""Where an ensemble is delivered: one interface over a folder and over ``gs://`` (Google Cloud Storage).

Importing this package imports no Google library; opening a ``gs://`` URL does.
"""

from __future__ import annotations

from aifs_ensemble.storage.base import (
    ConflictError,
    MissingError,
    ObjectInfo,
    Storage,
    TransferSettings,
    open_destination,
    open_storage,
    transfer_settings,
)

__all__ = [
    "ConflictError",
    "MissingError",
    "ObjectInfo",
    "Storage",
    "TransferSettings",
    "open_destination",
    "open_storage",
    "transfer_settings",
]
