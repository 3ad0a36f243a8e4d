"""Every kind of operation there is."""

from collections.abc import Mapping

from breezeblock.operations import imaging, managing, verbs
from breezeblock.operations.run import Verb

VERBS: Mapping[str, Verb] = {**verbs.VERBS, **managing.VERBS, **imaging.VERBS}
