"""Where an ensemble is delivered: one interface over a folder and over ``gs://`` (Google Cloud Storage).

Importing this package imports no Google library; opening a ``gs://`` URL does.
"""

from __future__ import annotations

from aifs_ensemble.common.storage.base import ConflictError, MissingError, ObjectInfo, Storage, TransferSettings
from aifs_ensemble.common.storage.open import open_destination, open_storage, transfer_settings

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
