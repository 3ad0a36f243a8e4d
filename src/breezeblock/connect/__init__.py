"""Where a volume is used: connectors bring it to a consumer, and take it away again.

A connector is given the `data` of a `connection_info` as a back end made it, and the consumer's name in
its own world (a machine, a domain, a host). It finds out by itself how far an earlier call came:

- `attach` may be called again at any time, also after a call that was killed anywhere, and then gives
  the same answer; a consumer never gets a volume twice.
- `detach` takes away what `attach` made, also half of it; nothing there is a success. What somebody else
  connected is refused, not taken away.
- `find` only looks.

No secret is kept: where one is needed, it is in `data` for this one call or in the consumer's own keeping.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A volume at its consumer."""

    consumer: str
    """The consumer's own id, where it was named by something else."""
    device: str
    """What the consumer knows it by; empty while it does not run."""
    read_only: bool = False


class Connector(Protocol):
    """One way to use volumes; the module's docstring holds the rules. All raise BreezeblockErrors."""

    drivers: tuple[str, ...]
    """The `driver_volume_type`s that it understands."""

    def attach(self, data: Mapping[str, Any], consumer: str, *, read_only: bool = False) -> Attached:
        """Bring the volume to the consumer. Raises NotFoundError, ConflictError, UnavailableError."""

    def detach(self, data: Mapping[str, Any], consumer: str) -> None:
        """Take it away. Raises ConflictError where the consumer does not let go."""

    def find(self, data: Mapping[str, Any], consumer: str) -> Attached | None:
        """Say how the volume is attached there; None = not at all."""
