"""The layout *flat*: a volume is one object, whose parts are written in place.

For stores that write parts but cannot fence writers (CDMI, Apache's WebDAV, a directory), and for reading
images on any HTTP server. Every write waits for the store; there are no snapshots.
"""

from breezeblock.objects.flat.device import FlatDevice
from breezeblock.objects.flat.image import ImageDevice

__all__ = ["FlatDevice", "ImageDevice"]
