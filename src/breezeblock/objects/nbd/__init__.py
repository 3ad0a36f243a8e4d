"""A server of the Network Block Device protocol, on one event loop."""

from breezeblock.objects.nbd.device import DATA, HOLE, ZEROS, Data, Device, Extent, Soon
from breezeblock.objects.nbd.memory import MemoryDevice
from breezeblock.objects.nbd.raw import RawDevice, raw_device
from breezeblock.objects.nbd.relay import Relay
from breezeblock.objects.nbd.server import Server

__all__ = [
    "DATA",
    "HOLE",
    "ZEROS",
    "Data",
    "Device",
    "Extent",
    "MemoryDevice",
    "RawDevice",
    "Relay",
    "Server",
    "Soon",
    "raw_device",
]
