"""Chains: one volume = one linear chain of images in one directory, described by its `.info`.

Every verb may be killed at any instruction; run again, it finishes. After a finished verb the directory
holds nothing of the volume but its images and, once a snapshot was taken, its `.info`.
"""

from breezeblock.chains.adopting import Stranger, adopt, look, release
from breezeblock.chains.chain import Chain, active, load
from breezeblock.chains.clones import clone, flatten, removable, shorten
from breezeblock.chains.families import FORMATS, above, even
from breezeblock.chains.finding import called, named
from breezeblock.chains.imaging import export_image, import_image
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.chains.repairing import Mend, mend, mends, quarantine
from breezeblock.chains.snapshots import delete_snapshot, revert, snapshot
from breezeblock.chains.survey import Item, Problem, check, inventory, sweep
from breezeblock.chains.volumes import copy, create, delete, extend

__all__ = [
    "FORMATS",
    "Chain",
    "Item",
    "Layer",
    "Mend",
    "Naming",
    "Problem",
    "Stranger",
    "above",
    "active",
    "adopt",
    "called",
    "check",
    "clone",
    "copy",
    "create",
    "delete",
    "delete_snapshot",
    "even",
    "export_image",
    "extend",
    "flatten",
    "import_image",
    "inventory",
    "load",
    "look",
    "mend",
    "mends",
    "named",
    "quarantine",
    "release",
    "removable",
    "revert",
    "shorten",
    "snapshot",
    "sweep",
]
