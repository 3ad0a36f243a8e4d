"""Mirrors of stores that take snapshots and give leases themselves."""

from breezeblock.objects.mirrors.store import SizedMirrors
from breezeblock.objects.stores.port import Leases, Snapshots, Store


class BlobMirrors(SizedMirrors):
    """The same with snapshots and leases. The endpoints' stores share what leases they have."""

    async def snapshot(self, key: str) -> str:
        """Take one; of an attempt whose answer was lost, one may be left over."""
        return await self._run("other", 0, lambda store: _snapshots(store).snapshot(key))

    async def get_snapshot(self, key: str, name: str, first: int, length: int) -> bytes:
        """Read bytes of a snapshot."""
        return await self._run(
            "read",
            length,
            lambda store: _snapshots(store).get_snapshot(key, name, first, length),
            self._hedged,
        )

    async def delete_snapshot(self, key: str, name: str) -> None:
        """Remove one; absent counts as success."""
        await self._run("other", 0, lambda store: _snapshots(store).delete_snapshot(key, name))

    async def acquire(self, key: str, *, steal: bool = False) -> str:
        """Take the lease. Raises ChangedError if somebody has it."""
        return await self._run("other", 0, lambda store: _leases(store).acquire(key, steal=steal))

    async def release(self, key: str) -> None:
        """Give the lease back."""
        await self._run("other", 0, lambda store: _leases(store).release(key))


def _snapshots(store: Store) -> Snapshots:
    assert isinstance(store, Snapshots)  # noqa: S101 - all endpoints are of one kind
    return store


def _leases(store: Store) -> Leases:
    assert isinstance(store, Leases)  # noqa: S101 - all endpoints are of one kind
    return store
