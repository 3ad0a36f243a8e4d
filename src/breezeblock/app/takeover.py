"""Catalog rows from what lies on storage: `pool rebuild` and `pool adopt`.

*Rebuild* is for our own share after the catalog was lost; it changes nothing there. *Adopt* is for a share
that another service wrote, Cinder's NFS driver above all; it edits what has to be edited, and copies
nothing. Both may be killed at any point and run again: the files' edits repeat themselves, and a volume's
rows appear in one transaction, after its files are right. A volume whose row is there is left alone.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from breezeblock.app.known import KnownSnapshot, KnownVolume
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Adopted, Backend, Volume
from breezeblock.catalog import families, identity, pools, quotas, rows, survey, tables, types
from breezeblock.catalog.clock import now, ordered_id
from breezeblock.catalog.database import Database
from breezeblock.config import Config, PoolPolicy
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.operations.adopting import add_kept, add_snapshots, as_json
from breezeblock.operations.verbs import GIB, columns_of, quota_amounts

NOBODY = "0" * 32
_AT_REST = frozenset({"available", "error", "error_extending", "error_deleting", "cached"})


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """How volumes that are found are to be entered."""

    edit: bool
    """Let the files be changed; False for a share of our own."""
    project_id: str = ""
    """Empty: as the list says."""
    volume_type: str = ""
    """Empty: as the list says, or the default."""
    format: Literal["", "raw", "qcow2", "vhd", "vhdx"] = ""
    """Of images about which the share leaves a doubt."""
    volumes: Mapping[str, KnownVolume] = {}
    snapshots: Mapping[str, KnownSnapshot] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is, or would be, done about one volume."""

    volume_id: str
    pool: str
    state: Literal["known", "to add", "added", "left"]
    reason: str = ""
    """Why it is left."""
    virtual_bytes: int = 0
    format: str = ""
    snapshots: int = 0
    edits: tuple[str, ...] = ()


class Takeover:
    """One pool of one back end, and how its volumes are to be entered into the catalog."""

    def __init__(
        self,
        config: Config,
        database: Database,
        backend: Backend,
        policy: PoolPolicy,
        pool: str,
        wishes: Wishes,
    ) -> None:
        self._config, self._database = config, database
        self._backend, self._wishes = backend, wishes
        if not backend.capabilities().adopt:
            raise UnsupportedError(f"Back end {backend.name} cannot take over volumes.")
        backend.start()
        self._pool = self._report(pool, policy)

    def plan(self) -> Iterator[Outcome]:
        """Say for each volume in the pool, in the order of the ids, what would be done."""
        for volume_id in self._present():
            yield self._each(volume_id, self._look)

    def carry_out(self) -> Iterator[Outcome]:
        """Do it, one volume after the other; the catalog has a volume when its outcome is told."""
        for volume_id in self._present():
            yield self._each(volume_id, self._take)

    def _each(self, volume_id: str, act: Callable[[str], Outcome]) -> Outcome:
        try:
            return act(volume_id)
        except BreezeblockError as error:
            return self._outcome(volume_id, "left", reason=str(error))

    def _present(self) -> list[str]:
        found = [item for item in self._backend.inventory() if item.pool == self._pool and item.volume_id]
        # What is kept of a deleted volume is entered with those that rest on it.
        kept = {item.volume_id for item in found if item.kind == "kept"}
        return sorted({item.volume_id for item in found if item.volume_id} - kept)

    def _look(self, volume_id: str) -> Outcome:
        known = self._known(volume_id)
        if known is not None:
            return self._look_again(known)
        found = self._backend.examine(self._asked(volume_id), f"volume-{volume_id}")
        self._check(volume_id, found)
        return self._outcome(volume_id, "to add", found)

    def _look_again(self, known: survey.Believed) -> Outcome:
        """Look whether a volume of the catalog has what the catalog lacks: that may be an old copy."""
        volume_id = known.volume.id
        if known.busy or (known.volume.backend, known.volume.pool) != (self._backend.name, self._pool):
            return self._outcome(volume_id, "known")
        try:
            found = self._backend.examine(self._asked(volume_id, known), f"volume-{volume_id}")
        except BreezeblockError:
            return self._outcome(volume_id, "known")  # what is wrong with it is the doctor's to say
        with self._database.read() as connection:
            more = (
                {one.id for one in found.snapshots} - {row.id for row in known.snapshots}
                or (found.volume.parent or None) != known.volume.parent_id
                or any(one.gone and not families.one_kept(connection, one.id) for one in found.ancestors)
            )
        return self._outcome(volume_id, "to add" if more else "known", found)

    def _take(self, volume_id: str) -> Outcome:
        known = self._known(volume_id)
        outcome = self._look(volume_id)
        if outcome.state != "to add":
            return outcome
        asked, reference = self._asked(volume_id, known), f"volume-{volume_id}"
        if self._wishes.edit:
            attempt = Attempt(operation_id=ordered_id(), token=secrets.token_hex(4))
            found = self._backend.adopt(asked, reference, attempt)
        else:
            found = self._backend.examine(asked, reference)
        try:
            with self._database.write() as connection:
                if survey.one(connection, volume_id) != known:
                    return self._outcome(volume_id, "known", found)  # an operation was at work on it
                self._enter(connection, asked, found)
        except IntegrityError:
            return self._outcome(volume_id, "known", found)  # somebody else entered it just now
        return msgspec.structs.replace(self._outcome(volume_id, "added", found), edits=outcome.edits)

    def _known(self, volume_id: str) -> survey.Believed | None:
        with self._database.read() as connection:
            return survey.one(connection, volume_id)

    def _check(self, volume_id: str, found: Adopted) -> None:
        """Raise the reason why a volume that the catalog lacks may not be entered."""
        if found.edits and not self._wishes.edit:
            raise UnsupportedError(
                f"Volume {volume_id} is not as Breezeblock leaves volumes: {'; '.join(found.edits)}.",
                remedy="`breezeblock pool adopt` may change that.",
            )
        told = self._wishes.volumes.get(volume_id)
        if told is not None and told.status not in _AT_REST:
            raise UnavailableError(
                f"Volume {volume_id} is {told.status}, says the list.",
                remedy="Detach it, or wait; then make a new list and repeat.",
            )
        if told is not None and told.size and found.virtual_bytes > told.size * GIB:
            raise UnavailableError(
                f"Volume {volume_id} has {found.virtual_bytes} bytes on storage, the list says "
                f"{told.size} GiB: a guest may have written itself another header.",
                remedy="Find out which is right; correct the list.",
            )
        if not self._project(volume_id):
            raise ConfigError(
                f"Nothing says whose volume {volume_id} is.",
                remedy="Give --project, or a --list that names it.",
            )

    def _asked(self, volume_id: str, known: survey.Believed | None = None) -> Volume:
        said = known.volume.format if known else self._wishes.format
        return Volume(id=volume_id, virtual_bytes=0, pool=self._pool, format=said)

    def _project(self, volume_id: str) -> str:
        told = self._wishes.volumes.get(volume_id)
        return self._wishes.project_id or (told.project_id if told else None) or ""

    def _enter(self, connection: sa.Connection, asked: Volume, found: Adopted) -> None:
        """Add the rows that are missing, in the caller's transaction."""
        snapshots = {key: one.columns() for key, one in self._wishes.snapshots.items()}
        row = rows.one(connection, tables.volumes, asked.id)
        if row is None:
            self._enter_volume(connection, asked, found)
            row = rows.one(connection, tables.volumes, asked.id)
        else:
            rows.update(connection, tables.volumes, asked.id, **columns_of(found.volume))
        assert row is not None  # noqa: S101 - it was inserted
        add_snapshots(connection, row, found.snapshots, snapshots)
        add_kept(connection, row, found.ancestors)

    def _enter_volume(self, connection: sa.Connection, asked: Volume, found: Adopted) -> None:
        told = self._wishes.volumes.get(asked.id) or KnownVolume(id=asked.id)
        volume_type = self._type(connection, told)
        project_id = self._project(asked.id)
        rows.insert(
            connection,
            tables.volumes,
            id=asked.id,
            project_id=project_id,
            user_id=told.user_id or NOBODY,
            name=told.name,
            description=told.description,
            virtual_bytes=found.virtual_bytes,
            status="available",
            backend=self._backend.name,
            pool=self._pool,
            **columns_of(found.volume),
            volume_type_id=volume_type.id,
            availability_zone=self._config.service.availability_zone,
            bootable=told.bootable.lower() == "true",
            metadata=as_json(told.metadata),
            image_metadata=as_json(told.image_metadata),
            created_at=told.created_at or now(),
            launched_at=now(),
        )
        amounts = quota_amounts(volume_type.name, volumes=1, virtual_bytes=found.virtual_bytes)
        quotas.count(connection, project_id, amounts)
        pools.provision(connection, self._backend.name, self._pool, found.virtual_bytes)

    def _type(self, connection: sa.Connection, told: KnownVolume) -> sa.Row[Any]:
        for name in (self._wishes.volume_type, told.volume_type, self._config.service.default_volume_type):
            found = types.find(connection, name) if name else None
            if found is not None:
                return found
            if name and name == self._wishes.volume_type:
                break
        raise NotFoundError(f"Volume type {self._wishes.volume_type or name} could not be found.")

    def _report(self, wanted: str, policy: PoolPolicy) -> str:
        """Return the pool's name, the only one if none is wanted; enter it, where no worker has seen it.

        Promised bytes are counted in its row.
        """
        seen = {pool.name: pool for pool in self._backend.stats()}
        name = wanted or (next(iter(seen)) if len(seen) == 1 else "")
        if name not in seen:
            raise NotFoundError(
                f"Back end {self._backend.name} has no pool {wanted}."
                if wanted
                else f"Back end {self._backend.name} has several pools.",
                remedy=f"Say which: {', '.join(f'{self._backend.name}#{one}' for one in seen)}.",
            )
        pool = seen[name]
        if not pool.up:
            raise UnavailableError(f"Pool {self._backend.name}#{name} is down: {pool.reason}")
        with self._database.write() as connection:
            if pools.get(connection, self._backend.name, name) is None:
                values = {
                    "host": self._config.executor_id,
                    "total_bytes": pool.total_bytes,
                    "free_bytes": pool.free_bytes,
                    "up": pool.up,
                    "reason": pool.reason,
                    "reserved_percentage": policy.reserved_percentage,
                    "max_over_subscription_ratio": policy.max_over_subscription_ratio,
                    "capabilities": as_json(pool.capabilities or self._backend.capabilities()),
                }
                pools.report(connection, self._backend.name, name, values)
        return name

    def _outcome(
        self,
        volume_id: str,
        state: Literal["known", "to add", "added", "left"],
        found: Adopted | None = None,
        reason: str = "",
    ) -> Outcome:
        return Outcome(
            volume_id=volume_id,
            pool=f"{self._backend.name}#{self._pool}",
            state=state,
            reason=reason,
            virtual_bytes=found.virtual_bytes if found else 0,
            format=found.volume.format if found else "",
            snapshots=len(found.snapshots) if found else 0,
            edits=found.edits if found else (),
        )


def project_id(connection: sa.Connection, wanted: str) -> str:
    """Return the id of a project named by id or name; an id of another identity service is taken as it is."""
    found = identity.project(connection, project_id=wanted) or identity.project(connection, name=wanted)
    if found is not None:
        return str(found.id)
    if len(wanted) == 32 and not set(wanted) - set("0123456789abcdef"):
        return wanted
    raise NotFoundError(f"Project {wanted[:64]} could not be found.", remedy="Give its name or its id.")
