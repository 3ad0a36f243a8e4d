"""A CDMI server over a directory, since none can be had: for tests, and as a gateway to what is mounted."""

from breezeblock.objects.cdmi.server import CdmiServer

__all__ = ["CdmiServer"]
