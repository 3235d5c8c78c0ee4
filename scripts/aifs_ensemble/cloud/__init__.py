"""Rented machines: Coiled and Google Batch adapters, images, doctor and live status."""
