"""SRs and their connections: probe, create, introduce, plug, repair, forget, destroy.

Each may be run again: what is there already is found by uuid, by the description we gave it, or by the
mark on a secret. Secrets travel as XenAPI secrets: the pool keeps a copy with each PBD, and ours goes.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.xenapi import tasks
from breezeblock.xenapi.failures import XenApiError
from breezeblock.xenapi.mirror import Mirror, View
from breezeblock.xenapi.records import Pbd, Probed, Sr, decode
from breezeblock.xenapi.session import Session
from breezeblock.xenapi.srkinds import SECRET_SUFFIX, SrKind

MARK = "breezeblock:secret"
MAX_PROBE_BYTES = 4 << 20
_DISCOVERY = {"SR_BACKEND_FAILURE_96", "SR_BACKEND_FAILURE_101", "SR_BACKEND_FAILURE_107"}
"""Failures by which a driver says what there is to choose from."""
_ITEMS = ("Export", "TGT", "LUN", "BlockDevice", "SR")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An SR as the configuration asks for it."""

    label: str
    owner: str
    """What it is for: becomes its description, by which it is found again."""
    kind: SrKind
    device_config: Mapping[str, str]
    secrets: Mapping[str, str]
    """device_config key to secret."""


def probe(
    session: Session, mirror: Mirror, kind: SrKind, config: Mapping[str, str], secrets: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return what a driver finds with an incomplete device_config: exports, targets, LUNs, or SRs.

    Raises XenApiError, UnsupportedError where the pool has no such driver.
    """
    view = mirror.look()
    _must_have(view, kind)
    with_secrets = dict(config) | dict(secrets)  # the pool hides them itself, and keeps nothing of a probe
    host = _master(view)
    if kind.smapi == 3:
        found = decode(session.call("SR.probe_ext", host, with_secrets, kind.type, {}), list[Probed])
        return [one.shown() for one in found]
    try:
        text = session.call("SR.probe", host, with_secrets, kind.type, {})
    except XenApiError as error:
        if error.code not in _DISCOVERY:
            raise
        text = error.params[-1] if error.params else ""
    return parse_probe(str(text))


def _must_have(view: View, kind: SrKind) -> None:
    """Raise UnsupportedError if the pool's hosts have no driver of this kind."""
    there = {sm.type for sm in view.sms.values()}
    if there.isdisjoint({kind.type, *kind.aliases}):
        gone = f" {kind.title} was dropped: {kind.gone}." if kind.gone else ""
        raise UnsupportedError(
            f"The hosts have no storage driver of type {kind.type}.{gone}",
            remedy=f"They have: {', '.join(sorted(there))}.",
        )


def parse_probe(text: str) -> list[dict[str, str]]:
    """Return the items of a driver's XML, each as tag to text. Raises UnavailableError for what is none."""
    if len(text) > MAX_PROBE_BYTES or "<!" in text:
        raise UnavailableError("The driver's answer to the probe is not to be trusted.")
    if not text.strip():
        return []
    try:
        root = ET.fromstring(text)  # noqa: S314 - see the import
    except ET.ParseError as error:
        raise UnavailableError("The driver's answer to the probe is no XML.") from error
    found = [item for item in root.iter() if item.tag in _ITEMS]
    return [{child.tag: (child.text or "").strip() for child in item} for item in found]


def create(session: Session, mirror: Mirror, wanted: Wanted) -> Sr:
    """Create the SR on storage that it may take over, and plug it everywhere; return it."""
    view = mirror.look()
    held = _made_before(view, wanted)
    if held is None:
        _must_have(view, wanted.kind)
        if any(sr.name_label == wanted.label for sr in view.srs.values()):
            raise ConflictError(
                f"There is an SR called {wanted.label} already, which is not ours.",
                remedy="Use it as it is, or give the pool another `sr`.",
            )
        config, made = _with_secrets(session, wanted)
        kind = wanted.kind
        try:
            host = _master(view)
            tasks.run(
                session,
                "SR.create",
                host,
                config,
                0,
                wanted.label,
                wanted.owner,
                kind.type,
                "user",
                kind.shared,
                {},
            )
        finally:
            _forget_secrets(session, made)
    return repair(session, mirror, _made_before(mirror.look(), wanted) or _missing(wanted.label))


def introduce(session: Session, mirror: Mirror, uuid: str, wanted: Wanted) -> Sr:
    """Make an SR that exists on storage known to this pool, connect every host that may be, and plug it."""
    view = mirror.look()
    if not any(sr.uuid == uuid for sr in view.srs.values()):
        kind = wanted.kind
        _must_have(view, kind)
        session.call("SR.introduce", uuid, wanted.label, wanted.owner, kind.type, "user", kind.shared, {})
        view = mirror.look()
    ref, _sr = find(view, uuid)
    hosts = list(view.hosts) if wanted.kind.shared else [_master(view)]
    connected = {pbd.host for pbd in view.plugs(ref)}
    config, made = _with_secrets(session, wanted)
    try:
        for host in hosts:
            if host not in connected:
                session.call(
                    "PBD.create", {"host": host, "SR": ref, "device_config": config, "other_config": {}}
                )
    finally:
        _forget_secrets(session, made)
    done = plug(session, mirror, uuid)
    tasks.run(session, "SR.scan", ref)
    return done


def plug(session: Session, mirror: Mirror, name: str) -> Sr:
    """Plug an SR on every host that has a connection to it."""
    view = mirror.look()
    ref, sr = find(view, name)
    for pbd_ref in _connections(view, ref):
        if not view.pbds[pbd_ref].currently_attached:
            tasks.run(session, "PBD.plug", pbd_ref)
    return sr


def repair(session: Session, mirror: Mirror, sr: Sr) -> Sr:
    """Connect hosts that a shared SR is missing on, as the others are, and plug it everywhere."""
    view = mirror.look()
    ref, sr = find(view, sr.uuid)
    connections = view.plugs(ref)
    if not connections:
        raise ConflictError(
            f"SR {sr.name_label} has no connection to copy.", remedy="breezeblock xenserver sr introduce."
        )
    if sr.shared:
        for host in view.hosts.keys() - {pbd.host for pbd in connections}:
            pattern: Pbd = connections[0]
            record = {"host": host, "SR": ref, "device_config": pattern.device_config, "other_config": {}}
            session.call("PBD.create", record)
    return plug(session, mirror, sr.uuid)


def unplug(session: Session, mirror: Mirror, name: str) -> str:
    """Unplug an SR on every host; return its reference."""
    view = mirror.look()
    ref, _sr = find(view, name)
    for pbd_ref in _connections(view, ref):
        if view.pbds[pbd_ref].currently_attached:
            tasks.run(session, "PBD.unplug", pbd_ref)
    return ref


def forget(session: Session, mirror: Mirror, name: str) -> None:
    """Make the pool forget an SR; its data stays, the names and marks of its disks do not."""
    session.call("SR.forget", unplug(session, mirror, name))


def destroy(session: Session, mirror: Mirror, name: str) -> None:
    """Remove an empty SR from its storage. Refused while there are disks, before anything is unplugged."""
    view = mirror.look()
    ref, sr = find(view, name)
    disks = [vdi for vdi in view.vdis.values() if ref == vdi.SR and vdi.managed]
    if disks:
        raise ConflictError(
            f"SR {sr.name_label} still has {len(disks)} disks.", remedy="Delete or move them first."
        )
    tasks.run(session, "SR.destroy", unplug(session, mirror, name))


def find(view: View, name: str) -> tuple[str, Sr]:
    """Return an SR by uuid or by a name that only one has."""
    found = [(ref, sr) for ref, sr in view.srs.items() if name in {sr.uuid, sr.name_label}]
    if len(found) != 1:
        raise NotFoundError(f"{len(found) or 'No'} SRs are called {name}.", remedy="Name it by uuid.")
    return found[0]


def _made_before(view: View, wanted: Wanted) -> Sr | None:
    for sr in view.srs.values():
        if sr.name_label == wanted.label and sr.name_description == wanted.owner:
            return sr
    return None


def _missing(label: str) -> Sr:
    raise UnavailableError(f"SR {label} was made and is not there.")


def _connections(view: View, sr_ref: str) -> list[str]:
    """Return an SR's PBDs, the master's first: it owns the SR's metadata."""
    master = _master(view)
    mine = [ref for ref, pbd in view.pbds.items() if sr_ref == pbd.SR]
    return sorted(mine, key=lambda ref: view.pbds[ref].host != master)


def _master(view: View) -> str:
    return next(iter(view.pools.values())).master


def _with_secrets(session: Session, wanted: Wanted) -> tuple[dict[str, str], list[str]]:
    """Return device_config with uuids in place of secrets, and the secrets' references."""
    config, made = dict(wanted.device_config), []
    held = session.call("secret.get_all_records") if wanted.secrets else {}
    for ref, record in held.items():  # of an attempt that was killed
        if record["other_config"].get(MARK, "").startswith(f"{wanted.owner}:"):
            session.call("secret.destroy", ref)
    for key, value in wanted.secrets.items():
        ref = session.call("secret.create", {"value": value, "other_config": {MARK: f"{wanted.owner}:{key}"}})
        made.append(ref)
        config[f"{key}{SECRET_SUFFIX}"] = session.call("secret.get_record", ref)["uuid"]
    return config, made


def _forget_secrets(session: Session, made: list[str]) -> None:
    for ref in made:
        with suppress(BreezeblockError):
            session.call("secret.destroy", ref)
