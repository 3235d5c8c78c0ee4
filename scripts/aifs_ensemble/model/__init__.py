"""Checkpoints and the forward pass."""
