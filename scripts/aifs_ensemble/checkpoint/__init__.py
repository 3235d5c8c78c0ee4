"""Checkpoints: fetched, built untrained, described, and loaded as safely as unpickling can be."""

from aifs_ensemble.checkpoint.build import build_checkpoint, build_demo
from aifs_ensemble.checkpoint.describe import Description, check_description, describe_checkpoint
from aifs_ensemble.checkpoint.digest import checkpoint_digest
from aifs_ensemble.checkpoint.download import Policy
from aifs_ensemble.checkpoint.fetch import fetch_checkpoint, provide_checkpoint
from aifs_ensemble.checkpoint.load import check_digest, load_model

__all__ = [
    "Description",
    "Policy",
    "build_checkpoint",
    "build_demo",
    "check_description",
    "check_digest",
    "checkpoint_digest",
    "describe_checkpoint",
    "fetch_checkpoint",
    "load_model",
    "provide_checkpoint",
]
