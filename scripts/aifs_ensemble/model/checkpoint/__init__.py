"""Checkpoints: built, fetched, described, and loaded without running foreign code."""
