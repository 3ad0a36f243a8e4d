"""Where a volume is used: how a host turns connection info into a device, and back.

One file for each kind of host; all have the shape of `Connector`.
"""

from collections.abc import Mapping
from typing import Any, Protocol


class Connector(Protocol):
    """Brings volumes to one host, which is usually this one."""

    def connect(self, connection_info: Mapping[str, Any]) -> str:
        """Bring a volume here and return the path of its device; one that is here already is returned.

        `connection_info` is what the service answers to an attachment. Raises InvalidInputError if it is
        for another kind of connector, UnavailableError if the storage does not answer.
        """

    def disconnect(self, connection_info: Mapping[str, Any]) -> None:
        """Write everything back and take the volume away; one that is not here is a success.

        When this returns, nothing of the volume is left here. Raises ConflictError if it is in use.
        """
