"""What back ends of files tell of a chain, in the contract's words."""

from collections.abc import Sequence

from breezeblock import chains
from breezeblock.backends.contract import Adopted, Ancestor, Placement, Snapshot


def placed(locator: str, image_format: str, chain: chains.Chain, naming: chains.Naming) -> Placement:
    """Say where a volume is, and how deep its chain is."""
    below = chain.layers[len(chain.own) :]
    parent = naming.owner(below[0].name) if below else None
    return _placement(locator, image_format, chain.layers, chain.hidden, parent or "")


def adopted(volume_id: str, locator: str, found: chains.Stranger) -> Adopted:
    """Say what taking a volume over makes of it."""
    parent = found.ancestors[0][0] if found.ancestors else ""
    return Adopted(
        volume=_placement(locator, found.format, found.layers, found.hidden, parent),
        virtual_bytes=found.virtual_bytes,
        snapshots=tuple(
            Snapshot(id=snapshot_id, volume_id=volume_id, virtual_bytes=virtual_bytes)
            for snapshot_id, virtual_bytes in found.snapshots
        ),
        edits=found.edits,
        ancestors=tuple(Ancestor(id=id_, gone=gone) for id_, gone in found.ancestors),
    )


def _placement(
    locator: str,
    image_format: str,
    layers: Sequence[chains.Layer],
    hidden: Sequence[chains.Layer],
    parent: str,
) -> Placement:
    return Placement(
        locator=locator,
        format=image_format,
        depth=len(layers),
        hidden_layers=len(hidden),
        reclaimable_bytes=sum(layer.allocated_bytes for layer in hidden),
        parent=parent,
    )
