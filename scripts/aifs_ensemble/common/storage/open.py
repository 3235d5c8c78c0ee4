"""Opening the storage that a URL or a configuration names."""

from __future__ import annotations

from dataclasses import replace

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.locations import check_destination
from aifs_ensemble.common.storage.base import Storage, TransferSettings


def open_storage(url: str, settings: TransferSettings | None = None) -> Storage:
    """Return the storage at a folder or ``gs://bucket[/prefix]``; ConfigError for any other scheme."""
    settings = settings or TransferSettings()
    check_destination(url)
    if url.startswith("gs://"):
        from aifs_ensemble.common.storage.gcs import GcsStorage

        return GcsStorage(url, settings)
    from aifs_ensemble.common.storage.folder import FolderStorage

    return FolderStorage(url, settings)


def transfer_settings(config: Config) -> TransferSettings:
    """Return the transfer settings of a configuration."""
    delivery = config.delivery
    return TransferSettings(
        threads=delivery.threads,
        resumable_above=int(delivery.resumable_above_mb * 2**20),
        deadline=delivery.deadline_seconds,
    )


def open_destination(config: Config, *, within: float | None = None) -> Storage:
    """Return the storage that the configuration delivers to; ConfigError when none is set.

    `within` is for a look that must not wait as long as a delivery: seconds over its deadline, if that is longer.
    """
    if not config.destination:
        raise ConfigError("config: destination is not set, expected a folder or gs://bucket[/prefix]")
    settings = transfer_settings(config)
    if within is not None:
        settings = replace(settings, deadline=min(within, settings.deadline))
    return open_storage(str(config.destination), settings)
