"""Every endpoint of the Block Storage API that is served."""

from breezeblock.api import (
    attachments,
    chains,
    imaging,
    infrastructure,
    managing,
    messages,
    metadata,
    operations,
    quotas,
    snapshots,
    types,
    volume_actions,
    volumes,
)
from breezeblock.api.routing import Routes

ROUTES = Routes(
    (
        *volumes.ENDPOINTS,
        *volume_actions.ENDPOINTS,
        *metadata.ENDPOINTS,
        *snapshots.ENDPOINTS,
        *attachments.ENDPOINTS,
        *types.ENDPOINTS,
        *quotas.ENDPOINTS,
        *infrastructure.ENDPOINTS,
        *imaging.ENDPOINTS,
        *managing.ENDPOINTS,
        *messages.ENDPOINTS,
        *operations.ENDPOINTS,
        *chains.ENDPOINTS,
    )
)
