"""What no XenServer has: ways for a test to look behind the scenes, and to break things (`POST /_sim`)."""

import base64
import json
from typing import Any

from xenserver.engines import LunEngine
from xenserver.failures import Failure
from xenserver.pool import Fault, Pool


def answer(pool: Pool, request: dict[str, Any]) -> bytes:
    """Do what `{"do": NAME, …}` asks for."""
    name = request.pop("do")
    try:
        return json.dumps({"result": ACTIONS[name](pool, **request)}).encode()
    except Failure as failure:
        return json.dumps({"failure": [failure.code, *failure.params]}).encode()


def _disk(pool: Pool, vdi: str) -> tuple[Any, str]:
    row = pool.db.row("VDI", pool.db.find("VDI", vdi))
    return pool.engine(row["SR"]), row["uuid"]


def write(pool: Pool, vdi: str, offset: int, data: str) -> None:
    """Write as a guest does."""
    engine, uuid = _disk(pool, vdi)
    with pool.storage_lock:
        engine.write(uuid, offset, base64.b64decode(data))


def read(pool: Pool, vdi: str, offset: int, length: int) -> str:
    """Read as a guest does."""
    engine, uuid = _disk(pool, vdi)
    with pool.storage_lock:
        return base64.b64encode(engine.read(uuid, offset, length)).decode()


def collect(pool: Pool) -> None:
    """Have the garbage collector finish now."""
    pool.collect()


def names(pool: Pool) -> list[str]:
    """Return everything there is: disks in the database, files, disks in machines, secrets."""
    with pool.storage_lock:
        pool.collect()
        lists = [f"VDI {row['uuid']} {row['managed']}" for _ref, row in pool.db.all("VDI")]
        lists += [f"VBD {row['uuid']}" for _ref, row in pool.db.all("VBD")]
        lists += [f"secret {row['uuid']}" for _ref, row in pool.db.all("secret")]
        lists += [
            f"file {path.relative_to(pool.folder)}" for path in pool.folder.rglob("*") if path.is_file()
        ]
        return sorted(lists)


def lose(pool: Pool, vdi: str) -> None:
    """Take a disk's data away: its file is gone and the SR was scanned, or its LUN does not answer."""
    engine, uuid = _disk(pool, vdi)
    ref = pool.db.find("VDI", vdi)
    with pool.storage_lock:
        if isinstance(engine, LunEngine):
            pool.db.set("VDI", ref, missing=True)
        else:
            engine.delete(uuid)
            pool.sync(pool.db.row("VDI", ref)["SR"])


def folder(pool: Pool, sr: str) -> str:
    """Return the directory that an SR keeps its files in."""
    return str(pool.engines[sr].folder)


def lag(pool: Pool, seconds: float) -> None:
    """Have the garbage collector wait that long from now on."""
    pool.settings.coalesce_delay_s = seconds


def fault(pool: Pool, **values: Any) -> None:
    """Have the next calls of a method fail (see `pool.Fault`)."""
    pool.faults.append(Fault(**values))


def forgive(pool: Pool) -> None:
    """Take all faults away."""
    pool.faults.clear()


def kill_host(pool: Pool, number: int) -> None:
    """Let a host die: no connection to it gets an answer."""
    pool.dead.add(pool.hosts[number])


def promote(pool: Pool, number: int) -> None:
    """Make another host the master."""
    pool.db.set("pool", pool.ref, master=pool.hosts[number])


def expire(pool: Pool) -> None:
    """End all sessions."""
    for ref, _row in list(pool.db.all("session")):
        pool.db.remove("session", ref)


def calls(pool: Pool, *, reset: bool = False) -> dict[str, int]:
    """Return how often each method was called."""
    counted = dict(pool.calls)
    if reset:
        pool.calls.clear()
    return counted


def depth(pool: Pool, vdi: str) -> int:
    """Return how long a disk's chain is."""
    engine, uuid = _disk(pool, vdi)
    return int(engine.depth(uuid))


def capacity(pool: Pool, sr: str, count: int) -> None:
    """Give an SR another size."""
    pool.engines[sr].capacity = count


def fill(pool: Pool, sr: str, marks: list[dict[str, str]], size: int) -> list[str]:
    """Make many disks at once, one for each other_config; return their uuids."""
    ref = pool.db.find("SR", sr)
    engine = pool.engine(ref)
    uuids = []
    for other_config in marks:
        node = engine.create(size, {})
        own = {key: node.uuid if value == "UUID" else value for key, value in other_config.items()}
        values = {"managed": True, "name_label": "filled", "virtual_size": size, "type": "user"}
        pool.db.add("VDI", uuid=node.uuid, SR=ref, location=node.uuid, other_config=own, **values)
        uuids.append(node.uuid)
    pool.sync(ref)
    return uuids


ACTIONS = {
    action.__name__: action
    for action in (
        write,
        read,
        collect,
        lag,
        folder,
        names,
        lose,
        fault,
        forgive,
        kill_host,
        promote,
        expire,
        calls,
        depth,
        fill,
        capacity,
    )
}
