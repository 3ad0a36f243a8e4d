"""Breezeblock: block storage on the storage you already own."""

__version__ = "0.1.0"
