"""VDI: disks."""

import base64
import time
from typing import Any

from xenserver.calls import Caller, call
from xenserver.database import now
from xenserver.engines import LunEngine
from xenserver.failures import Failure
from xenserver.fields import NULL
from xenserver.pool_calls import step
from xenserver.transfer import changed_chunks, runs

TRACKED = 64 << 10
"""Bytes for each bit of changed block tracking."""
INHERITED = ("name_label", "name_description", "type", "sharable", "other_config", "xenstore_data", "tags")


def _need(caller: Caller, vdi: str, operation: str) -> dict[str, Any]:
    """Return the row if the operation is allowed now; else say why not, as xapi does."""
    row: dict[str, Any] = caller.db.row("VDI", vdi)
    if operation in caller.pool.allowed(row):
        return row
    if not row["managed"]:
        raise Failure("VDI_NOT_MANAGED", vdi)
    for task, busy in row["current_operations"].items():
        raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", vdi, busy, task)
    if any(caller.db.row("VBD", vbd)["currently_attached"] for vbd in row["VBDs"]):
        raise Failure("VDI_IN_USE", vdi, operation)
    raise Failure("SR_OPERATION_NOT_SUPPORTED", row["SR"])


@call("VDI.create")
def create(caller: Caller, record: dict[str, Any]) -> str:
    pool, sr = caller.pool, record["SR"]
    engine = pool.engine(sr)
    if "VDI_CREATE" not in pool.features(sr):
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    with pool.storage_lock:
        node = engine.create(int(record["virtual_size"]), record.get("sm_config", {}))
        values = {
            key: record[key]
            for key in (
                "name_label",
                "name_description",
                "sharable",
                "read_only",
                "other_config",
                "tags",
                "sm_config",
            )
            if key in record
        }
        return pool.sync(
            sr, node, type=str(record["type"]).lower(), snapshot_of=NULL, is_a_snapshot=False, **values
        )


@call("VDI.destroy")
def destroy(caller: Caller, vdi: str) -> None:
    pool = caller.pool
    with pool.storage_lock:
        row = _need(caller, vdi, "destroy")
        engine = pool.engine(row["SR"])
        with pool.working("VDI", vdi, "destroy", caller.task):
            for vbd in list(row["VBDs"]):
                caller.db.remove("VBD", vbd)
            engine.delete(row["uuid"])
            if isinstance(engine, LunEngine):
                caller.db.set("VDI", vdi, managed=False, missing=False)
                pool.measure(row["SR"])
            else:
                pool.sync(row["SR"])


def _inherit(caller: Caller, row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key].copy() if isinstance(row[key], dict | list) else row[key] for key in INHERITED}


@call("VDI.snapshot")
def snapshot(caller: Caller, vdi: str, _driver_params: dict[str, str] | None = None) -> str:
    pool = caller.pool
    with pool.storage_lock:
        row = _need(caller, vdi, "snapshot")
        engine = pool.engine(row["SR"])
        if row["sharable"]:
            raise Failure("VDI_IS_SHARABLE", vdi)
        with pool.working("VDI", vdi, "snapshot", caller.task):
            node = engine.snapshot(row["uuid"])
            inherited = _inherit(caller, row) | {
                "is_a_snapshot": True,
                "snapshot_of": vdi,
                "snapshot_time": now(),
                "cbt_enabled": row["cbt_enabled"],
            }
            return pool.sync(row["SR"], node, **inherited)


@call("VDI.clone")
def clone(caller: Caller, vdi: str, _driver_params: dict[str, str] | None = None) -> str:
    pool = caller.pool
    row = _need(caller, vdi, "clone")
    if "VDI_CLONE" not in pool.features(row["SR"]):
        return copy(caller, vdi, row["SR"])  # as xapi does, without a word
    with pool.storage_lock, pool.working("VDI", vdi, "clone", caller.task):
        node = pool.engine(row["SR"]).clone(row["uuid"])
        return pool.sync(row["SR"], node, **_inherit(caller, row))


@call("VDI.copy")
def copy(caller: Caller, vdi: str, sr: str = NULL, _base: str = NULL, into: str = NULL) -> str:
    pool = caller.pool
    row = _need(caller, vdi, "copy")
    source = pool.engine(row["SR"])
    if into == NULL:
        record = {
            "SR": sr if sr != NULL else row["SR"],
            "virtual_size": row["virtual_size"],
            "type": row["type"],
        }
        into = create(caller, record | _inherit(caller, row))
    target = caller.db.row("VDI", into)
    if target["virtual_size"] < row["virtual_size"]:
        raise Failure("VDI_TOO_SMALL", into, str(row["virtual_size"]))
    engine = pool.engine(target["SR"])
    with pool.working("VDI", vdi, "copy", caller.task), pool.working("VDI", into, "copy", caller.task):
        parts = list(runs(source.node(row["uuid"]).data()))
        for index, (offset, length) in enumerate(parts):
            with pool.storage_lock:
                step(caller, index / len(parts))
                pool.provoke("copying", after=False)
                engine.write(target["uuid"], offset, source.read(row["uuid"], offset, length))
    pool.sync(target["SR"])
    return into


@call("VDI.resize")
def resize(caller: Caller, vdi: str, size: int) -> None:
    _grow(caller, vdi, int(size), "resize")


@call("VDI.resize_online")
def resize_online(caller: Caller, vdi: str, size: int) -> None:
    _grow(caller, vdi, int(size), "resize_online")


def _grow(caller: Caller, vdi: str, size: int, operation: str) -> None:
    pool = caller.pool
    with pool.storage_lock:
        row = _need(caller, vdi, operation)
        with pool.working("VDI", vdi, operation, caller.task):
            pool.engine(row["SR"]).resize(row["uuid"], size)
            pool.sync(row["SR"])


@call("VDI.revert")
def revert(caller: Caller, vdi: str) -> None:
    pool = caller.pool
    row = caller.db.row("VDI", vdi)
    of = row["snapshot_of"]
    if "VDI_REVERT" not in pool.features(row["SR"]):
        raise Failure("UNIMPLEMENTED_IN_SM_BACKEND", "VDI.revert")
    with pool.storage_lock, pool.working("VDI", of, "revert_to", caller.task):
        pool.engine(row["SR"]).revert(caller.db.row("VDI", of)["uuid"], row["uuid"])
        pool.sync(row["SR"])


@call("VDI.pool_migrate")
def pool_migrate(caller: Caller, vdi: str, sr: str, _options: dict[str, str]) -> str:
    """Move a disk that a machine uses: it gets another reference and another uuid, and keeps its content."""
    pool, row = caller.pool, caller.db.row("VDI", vdi)
    if not any(caller.db.row("VBD", vbd)["currently_attached"] for vbd in row["VBDs"]):
        raise Failure("VDI_NEEDS_VM_FOR_MIGRATE", vdi)
    if row["cbt_enabled"]:
        raise Failure("VDI_CBT_ENABLED", vdi)
    if "VDI_MIRROR" not in pool.features(row["SR"]):
        raise Failure("SR_DOES_NOT_SUPPORT_MIGRATION", row["SR"])
    record = {"SR": sr, "virtual_size": row["virtual_size"], "type": row["type"]}
    made = create(caller, record | _inherit(caller, row))
    source, target = pool.engine(row["SR"]), pool.engine(sr)
    with pool.storage_lock, pool.working("VDI", vdi, "mirror", caller.task):
        for offset, length in runs(source.node(row["uuid"]).data()):
            data = source.read(row["uuid"], offset, length)
            target.write(caller.db.row("VDI", made)["uuid"], offset, data)
        for vbd in list(row["VBDs"]):
            caller.db.set("VBD", vbd, VDI=made)
        source.delete(row["uuid"])
        for one in (row["SR"], sr):
            pool.sync(one)
    return made


@call("VDI.introduce")
def introduce(
    caller: Caller,
    uuid: str,
    label: str,
    description: str,
    sr: str,
    kind: str,
    _sharable: bool,
    _read_only: bool,
    other_config: dict[str, str],
    _location: str,
    _xenstore: dict[str, str],
    _sm_config: dict[str, str],
    *_more: Any,
) -> str:
    engine = caller.pool.engine(sr)
    node = engine.node(uuid)
    if isinstance(engine, LunEngine):
        engine.claimed.add(uuid)
    return caller.pool.sync(
        sr, node, name_label=label, name_description=description, type=kind.lower(), other_config=other_config
    )


@call("VDI.forget")
def forget(caller: Caller, vdi: str) -> None:
    caller.db.remove("VDI", vdi)


@call("VDI.update")
def update(caller: Caller, vdi: str) -> None:
    caller.db.row("VDI", vdi)


@call("VDI.set_name_label")
def set_name(caller: Caller, vdi: str, value: str) -> None:
    caller.db.set("VDI", vdi, name_label=value)


@call("VDI.set_name_description")
def set_description(caller: Caller, vdi: str, value: str) -> None:
    caller.db.set("VDI", vdi, name_description=value)


@call("VDI.set_sharable")
def set_sharable(caller: Caller, vdi: str, value: bool) -> None:
    caller.db.set("VDI", vdi, sharable=bool(value))


@call("VDI.enable_cbt")
def enable_cbt(caller: Caller, vdi: str) -> None:
    _need(caller, vdi, "enable_cbt")
    caller.db.set("VDI", vdi, cbt_enabled=True)


@call("VDI.disable_cbt")
def disable_cbt(caller: Caller, vdi: str) -> None:
    caller.db.set("VDI", vdi, cbt_enabled=False)


@call("VDI.list_changed_blocks")
def changed_blocks(caller: Caller, old: str, new: str) -> str:
    """Return a bit for each 64 KiB, the most significant first."""
    pool = caller.pool
    first, second = caller.db.row("VDI", old), caller.db.row("VDI", new)
    if not first["cbt_enabled"]:
        raise Failure("VDI_NO_CBT_METADATA", old)
    engine = pool.engine(first["SR"])
    size = max(first["virtual_size"], second["virtual_size"])
    bits = bytearray(-(-size // TRACKED // 8) or 1)
    with pool.storage_lock:
        for chunk in changed_chunks(engine, second["uuid"], first["uuid"], TRACKED):
            bits[chunk // 8] |= 0x80 >> chunk % 8
    return base64.b64encode(bytes(bits)).decode()


@call("VDI.get_nbd_info")
def nbd_info(caller: Caller, vdi: str) -> list[dict[str, Any]]:
    pool, row = caller.pool, caller.db.row("VDI", vdi)
    name = f"/{row['uuid']}?session_id={caller.session}"
    plugged = {pbd["host"] for _ref, pbd in pool.db.all("PBD", SR=row["SR"], currently_attached=True)}
    return [
        {"exportname": name, "address": address, "port": port, "cert": pool.certificate, "subject": address}
        for host, (address, port) in pool.nbd.items()
        if host in plugged
    ]


@call("VDI.data_destroy")
def data_destroy(caller: Caller, vdi: str) -> None:
    row = caller.db.row("VDI", vdi)
    if not row["cbt_enabled"]:
        raise Failure("VDI_NO_CBT_METADATA", vdi)
    time.sleep(0)
    caller.db.set("VDI", vdi, type="cbt_metadata")
