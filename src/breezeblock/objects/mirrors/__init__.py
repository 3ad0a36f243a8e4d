"""Several endpoints of one store, used as one: the quicker and freer of two, and never one that is down."""

from breezeblock.objects.mirrors.blobs import BlobMirrors
from breezeblock.objects.mirrors.group import Gate
from breezeblock.objects.mirrors.policy import Policy
from breezeblock.objects.mirrors.status import EndpointStatus, MirrorsStatus
from breezeblock.objects.mirrors.store import Mirrors, SizedMirrors

__all__ = ["BlobMirrors", "EndpointStatus", "Gate", "Mirrors", "MirrorsStatus", "Policy", "SizedMirrors"]
