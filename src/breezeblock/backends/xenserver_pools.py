"""The pools of a XenServer back end: each one SR, found by uuid or name, with what its kind can do."""

from collections.abc import Mapping
from typing import Literal

from msgspec.structs import replace

from breezeblock.backends.contract import Capabilities, Health, Pool, Volume
from breezeblock.backends.usage import Usage, full_in_s
from breezeblock.backends.xenserver_config import XenPool
from breezeblock.backends.xenserver_preflight import room
from breezeblock.backends.xenserver_reports import warnings
from breezeblock.backends.xenserver_sizes import check, largest
from breezeblock.backends.xenserver_tags import SELF, VOLUME, disks
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Sr
from breezeblock.xenapi.trees import Trees

OPTIONS = {"clone": ("linked", "full")}
_claims: dict[str, frozenset[str]] = {}
"""Pool of hosts to the SRs that a back end of this process saw there last."""


class Pools:
    """Pool names to SRs."""

    def __init__(self, backend: str, pools: Mapping[str, XenPool], usage: Usage, chains: Usage) -> None:
        self._backend = backend
        self._usage = usage
        self._chains = chains
        self.config = pools
        self.kinds = {pool: srkinds.find(one.type) for pool, one in pools.items()}

    def kind(self, pool: str) -> srkinds.SrKind:
        """Return the kind of a pool's SR. Raises NotFoundError for a pool that is not ours."""
        if pool not in self.kinds:
            raise NotFoundError(f"Back end {self._backend} has no pool {pool!r}.")
        return self.kinds[pool]

    def capabilities(self, *pools: str, driver: srkinds.SrKind | None = None) -> Capabilities:
        """Return what at least one of these pools can do; of a single one also what its SR is.

        `driver`: the kind of the only pool as its hosts' driver has it, where that is known.
        """
        kinds = [driver] if driver else [self.kinds[pool] for pool in pools]
        snapshots = any(kind.snapshots for kind in kinds)
        clone = any(
            kind.clones or self.config[one].clone == "full" for kind, one in zip(kinds, pools, strict=True)
        )
        facts = {}
        if len(kinds) == 1:
            facts = {
                "sr_type": kinds[0].type,
                "sr_shared": str(kinds[0].shared),
                "snapshot_support": str(kinds[0].snapshots),
                "linked_clone_support": str(kinds[0].clones),
                "extend_support": str(kinds[0].extends),
            }
        return Capabilities(
            storage_protocol="xenserver",
            thin=any(kind.thin for kind in kinds),
            extend=any(kind.extends for kind in kinds),
            snapshots=snapshots,
            revert="any" if snapshots else "none",
            clone=clone,
            create_from_snapshot=snapshots,
            adopt=True,
            images=True,
            max_virtual_bytes=max(kind.max_bytes for kind in kinds),
            options=OPTIONS,
            facts=facts,
        )

    def refs(self, view: View, pool: str) -> list[str]:
        """Return every SR that the pool's setting may mean."""
        wanted = self.config[pool].sr
        return [ref for ref, sr in view.srs.items() if wanted in {sr.uuid, sr.name_label}]

    def all_refs(self, view: View) -> dict[str, str]:
        """Return SR to pool."""
        return {ref: pool for pool in self.config for ref in self.refs(view, pool)}

    def sr(self, view: View, pool: str) -> tuple[str, Sr]:
        """Return the pool's SR, which is there, of the type we think, and plugged.

        Raises UnavailableError, ConfigError.
        """
        here = next(iter(view.pools.values())).uuid
        _claims[here] = frozenset(one.uuid for one in view.srs.values())
        wanted = self.config[pool]
        refs = self.refs(view, pool)
        if len(refs) != 1:
            raise UnavailableError(
                f"Pool {pool}: {len(refs) or 'no'} SRs are called {wanted.sr}.",
                remedy="Name it by uuid." if refs else "Create it: breezeblock xenserver sr create.",
            )
        sr = view.srs[refs[0]]
        if sr.type != self.kinds[pool].type and sr.type not in self.kinds[pool].aliases:
            raise ConfigError(f"Pool {pool}: SR {wanted.sr} is of type {sr.type}, not {wanted.type}.")
        self._only_here(here, pool, sr)
        if not any(pbd.currently_attached for pbd in view.plugs(refs[0])):
            raise UnavailableError(
                f"Pool {pool}: SR {wanted.sr} is plugged on no host.",
                remedy="Plug it: breezeblock xenserver sr plug.",
            )
        return refs[0], sr

    def must_show(self, view: View, volume: Volume) -> None:
        """Refuse to take a volume for absent where it may only be out of sight.

        Raises UnavailableError without its SR, ConflictError for a disk that lost its marks (an SR that was
        forgotten and introduced again) or that was moved. A LUN may have another owner since, so there a uuid
        proves nothing.
        """
        kind = self.kind(volume.pool)
        self.sr(view, volume.pool)
        if kind.layout == "luns" or not volume.locator:
            return
        _ref, vdi = view.find(volume.locator) or ("", None)
        if vdi is None:
            _must_not_be_elsewhere(view, volume)
            return
        if not vdi.managed:
            return
        if vdi.other_config.get(VOLUME) != volume.id:
            marks = f"other_config:{VOLUME}={volume.id} and other_config:{SELF}={vdi.uuid}"
            raise ConflictError(
                f"Disk {vdi.uuid} is not marked as volume {volume.id}: the SR forgot its marks.",
                remedy=f"Set {marks} on it.",
            )

    def _only_here(self, here: str, pool: str, sr: Sr) -> None:
        """Refuse an SR that another pool of hosts has as well: two masters would write its metadata."""
        for there, srs in list(_claims.items()):
            if there != here and sr.uuid in srs:
                raise ConflictError(
                    f"Pool {pool}: SR {sr.name_label} is in the XenServer pools {here} and {there} "
                    "at once, whose masters destroy each other's metadata.",
                    remedy="Stop using it, and forget it in one of the two.",
                )

    def describe(self, view: View) -> list[Pool]:
        """Return all pools as they are in this view."""
        trees = Trees(view)
        used: dict[str, int] = {}
        deepest: dict[str, int] = {}
        found: dict[str, tuple[str, Sr] | str] = {}
        for pool in self.config:
            try:
                ref, sr = found[pool] = self.sr(view, pool)
            except BreezeblockError as error:
                found[pool] = error.message
                continue
            deepest[pool] = trees.deepest(ref)
            if room(sr) is not None:
                used[pool] = sr.physical_utilisation
        usage, chains = self._usage.note(used), self._chains.note(deepest)
        pools = []
        for pool, what in found.items():
            if isinstance(what, str):
                pools.append(self.down(pool, what))
                continue
            ref, sr = what
            total = sr.physical_size if sr.physical_size >= 0 else None
            debt = trees.debt(ref)
            health = Health(
                deepest_chain=deepest[pool],
                unmerged_images=debt.images,
                unmerged_bytes=debt.reclaimable_bytes,
                full_in_s=full_in_s(usage[pool], total) if pool in usage and total is not None else None,
                chain_full_in_s=full_in_s(chains[pool], srkinds.CHAIN_LIMIT),
            )
            pools.append(
                Pool(
                    name=pool,
                    total_bytes=total,
                    free_bytes=room(sr),
                    health=health,
                    findings=warnings(f"pool {pool} (SR {sr.name_label})", health, room(sr)),
                    capabilities=self.capabilities(pool, driver=_offered(view, self.kinds[pool], sr)),
                )
            )
        return pools

    def down(self, pool: str, reason: str) -> Pool:
        """Return a pool that cannot be used."""
        able = self.capabilities(pool)
        return Pool(name=pool, total_bytes=None, free_bytes=None, up=False, reason=reason, capabilities=able)

    def able(
        self, volume: Volume, what: Literal["snapshots", "clones", "extends"], verb: str
    ) -> srkinds.SrKind:
        """Return the volume's kind of SR. Raises UnsupportedError if it has no such verb."""
        kind = self.kind(volume.pool)
        if not getattr(kind, what):
            raise UnsupportedError(
                f"Pool {volume.pool} is an SR of type {kind.type} ({kind.title}), which has no {verb}."
            )
        return kind

    def check_asked(self, volume: Volume) -> None:
        """Raise NotFoundError for a pool, InvalidInputError for an option or a size that is nowhere."""
        self.kind(volume.pool)
        for key, value in volume.options.items():
            if value not in OPTIONS.get(key, ()):
                raise InvalidInputError(f"Back end {self._backend} has no option {key} = {value!r}.")
        check(volume, volume.virtual_bytes)


def _offered(view: View, kind: srkinds.SrKind, sr: Sr) -> srkinds.SrKind:
    """Return a kind as the hosts' driver of it has it, which may lack what others of it have."""
    features = view.features(sr)
    return replace(
        kind,
        snapshots=kind.snapshots and "VDI_SNAPSHOT" in features,
        clones=kind.clones and "VDI_CLONE" in features,
        extends=kind.extends and not features.isdisjoint({"VDI_RESIZE", "VDI_RESIZE_ONLINE"}),
        max_bytes=largest(view, kind, sr),
    )


def _must_not_be_elsewhere(view: View, volume: Volume) -> None:
    """Refuse to take a volume for absent while a disk is there that may be what it became."""
    for disk in disks(view):
        named = disk.vdi.other_config.get(SELF) == volume.locator
        if disk.moved and named and disk.volume == volume.id and not disk.vdi.is_a_snapshot:
            raise ConflictError(
                f"Disk {volume.locator} of volume {volume.id} is gone, and {disk.vdi.uuid} has its marks.",
                remedy="If it was moved, run `breezeblock xenserver move` with the pool that it is in now; "
                f"if that is only a copy, remove {VOLUME} from its other_config.",
            )
