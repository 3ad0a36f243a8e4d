"""Chains: one volume = one linear chain of images in one directory, described by its `.info`.

Every verb may be killed at any instruction; run again, it finishes. After a finished verb the directory
holds nothing of the volume but its images and, once a snapshot was taken, its `.info`.
"""

from breezeblock.chains.chain import Chain, Layer, active, load
from breezeblock.chains.naming import Naming
from breezeblock.chains.snapshots import delete_snapshot, revert, snapshot
from breezeblock.chains.survey import Item, Problem, check, inventory, sweep
from breezeblock.chains.volumes import copy, create, delete, extend

__all__ = [
    "Chain",
    "Item",
    "Layer",
    "Naming",
    "Problem",
    "active",
    "check",
    "copy",
    "create",
    "delete",
    "delete_snapshot",
    "extend",
    "inventory",
    "load",
    "revert",
    "snapshot",
    "sweep",
]
