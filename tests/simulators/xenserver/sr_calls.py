"""SR and PBD: creating, introducing, plugging, scanning, forgetting, and the secrets of device_config."""

from typing import Any
from xml.sax.saxutils import escape

from xenserver.calls import Caller, call
from xenserver.engines import LunEngine
from xenserver.failures import Failure, backend
from xenserver.fields import NULL
from xenserver.plugins import Plugin

Config = dict[str, str]


@call("SR.get_supported_types")
def supported_types(caller: Caller) -> list[str]:
    return sorted(caller.pool.plugins)


def _plugin(caller: Caller, kind: str) -> Plugin:
    """Return the plug-in of a type."""
    found = caller.pool.plugins.get(kind.lower())
    if found is None:
        raise Failure("SR_UNKNOWN_DRIVER", kind)
    return found


def _hide_secrets(caller: Caller, config: Config) -> Config:
    """Move passwords into secrets; give each PBD its own copy of a secret that is named."""
    hidden = {}
    for key, value in config.items():
        if key.endswith("password"):
            secret = caller.db.add("secret", value=value)
            hidden[f"{key}_secret"] = caller.db.row("secret", secret)["uuid"]
        elif key.endswith("password_secret"):
            named = caller.db.row("secret", caller.db.find("secret", value))
            secret = caller.db.add("secret", value=named["value"])
            hidden[key] = caller.db.row("secret", secret)["uuid"]
        else:
            hidden[key] = value
    return hidden


def _forget_secrets(caller: Caller, config: Config) -> None:
    for key, value in config.items():
        if key.endswith("password_secret") and ("secret", value) in caller.db.by_uuid:
            caller.db.remove("secret", caller.db.find("secret", value))


def _check(plugin: Plugin, config: Config) -> None:
    """Fail as the plug-in does where a key is missing, with what it found in its place."""
    for key, number in plugin.needs.items():
        if not config.get(key) and not config.get(f"{key}_secret"):
            raise backend(number, "", _discovery(number, config))


def _discovery(number: int, config: Config) -> str:
    """Return the XML that the failure of a probe carries."""
    place = escape(config.get("server") or config.get("target") or "")
    if number == 101:
        export = "<Export><Target>{}</Target><Path>/exports/vm</Path><Accesslist>*</Accesslist></Export>"
        return f'<?xml version="1.0" ?><nfs-exports>{export.format(place)}</nfs-exports>'
    if number == 96:
        found = (
            f"<TGT><Index>0</Index><IPAddress>{place}</IPAddress>"
            "<TargetIQN>iqn.2026-01.org.example:t0</TargetIQN></TGT>"
        )
        return f'<?xml version="1.0" ?><iscsi-target-iqns>{found}</iscsi-target-iqns>'
    if number == 107:
        lun = (
            "<vendor>SIM</vendor><serial>s0</serial><LUNid>0</LUNid><size>1099511627776</size>"
            "<SCSIid>36001405sim0</SCSIid>"
        )
        return f'<?xml version="1.0" ?><iscsi-target><LUN>{lun}</LUN></iscsi-target>'
    return ""


@call("SR.probe")
def probe(caller: Caller, _host: str, config: Config, kind: str, _sm_config: Config | None = None) -> str:
    plugin = _plugin(caller, kind)
    if plugin.smapi == 3 or "SR_PROBE" not in plugin.features:
        raise Failure("SR_OPERATION_NOT_SUPPORTED")
    _check(plugin, config)
    found = [row["uuid"] for _ref, row in caller.db.all("SR", type=kind)]
    return "<SRlist>" + "".join(f"<SR><UUID>{uuid}</UUID></SR>" for uuid in found) + "</SRlist>"


@call("SR.probe_ext")
def probe_ext(
    caller: Caller, _host: str, config: Config, kind: str, _sm_config: Config
) -> list[dict[str, Any]]:
    plugin = _plugin(caller, kind)
    if plugin.smapi != 3:
        raise Failure("SR_OPERATION_NOT_SUPPORTED")
    if "ScsiId" not in config:
        lun = {"configuration": config | {"ScsiId": "36001405sim0"}, "extra_info": {"vendor": "SIM"}}
        return [lun | {"complete": True, "sr": []}]
    stats = {"free_space": 0, "total_space": 0, "clustered": True, "health": "healthy"}
    return [
        {
            "configuration": config,
            "complete": True,
            "sr": [{"uuid": [row["uuid"]], "name_label": row["name_label"], "name_description": "", **stats}],
            "extra_info": {},
        }
        for _ref, row in caller.db.all("SR", type=kind)
    ]


@call("SR.create")
def create(
    caller: Caller,
    host: str,
    config: Config,
    _size: int,
    label: str,
    description: str,
    kind: str,
    content: str,
    shared: bool,
    sm_config: Config | None = None,
) -> str:
    plugin = _plugin(caller, kind)
    if plugin.cluster and not caller.pool.settings.cluster:
        raise Failure("NO_COMPATIBLE_CLUSTER_HOST", host)
    _check(plugin, config)
    ref = _add(caller, "", label, description, kind, content, shared=shared, sm_config=sm_config or {})
    hosts = caller.pool.hosts if shared else [host]
    for one in hosts:
        caller.db.row("host", one)
        plug(caller, _add_pbd(caller, one, ref, config))
    return ref


def _add(
    caller: Caller,
    uuid: str,
    label: str,
    description: str,
    kind: str,
    content: str,
    *,
    shared: bool,
    sm_config: Config,
) -> str:
    values: dict[str, Any] = {"uuid": uuid} if uuid else {}
    ref: str = caller.db.add(
        "SR",
        name_label=label,
        name_description=description,
        type=kind.lower(),
        content_type=content or "user",
        shared=bool(shared),
        sm_config=sm_config,
        physical_size=-1,
        physical_utilisation=-1,
        virtual_allocation=-1,
        **values,
    )
    return ref


@call("SR.introduce")
def introduce(
    caller: Caller,
    uuid: str,
    label: str,
    description: str,
    kind: str,
    content: str,
    shared: bool,
    sm_config: Config | None = None,
) -> str:
    _plugin(caller, kind)
    if ("SR", uuid) in caller.db.by_uuid:
        raise Failure("SR_UUID_EXISTS", uuid)
    return _add(caller, uuid, label, description, kind, content, shared=shared, sm_config=sm_config or {})


@call("SR.scan")
def scan(caller: Caller, sr: str) -> None:
    with caller.pool.storage_lock, caller.pool.working("SR", sr, "scan", caller.task):
        engine = caller.pool.engine(sr)
        row = caller.db.row("SR", sr)
        known = {caller.db.row("VDI", ref)["uuid"] for ref in row["VDIs"]}
        caller.pool.sync(sr)
        for node in engine.nodes.values():
            if node.uuid not in known and not node.hidden and not isinstance(engine, LunEngine):
                caller.db.set("VDI", caller.db.find("VDI", node.uuid), managed=True, name_label="")


@call("SR.update")
def update(caller: Caller, sr: str) -> None:
    caller.pool.engine(sr)
    caller.pool.measure(sr)


@call("SR.forget")
def forget(caller: Caller, sr: str) -> None:
    row = caller.db.row("SR", sr)
    if any(caller.db.row("PBD", pbd)["currently_attached"] for pbd in row["PBDs"]):
        raise Failure("SR_HAS_PBD", sr)
    with caller.pool.storage_lock:  # the collector would make rows for its disks anew
        for vdi in list(row["VDIs"]):
            caller.db.remove("VDI", vdi)
        for pbd in list(row["PBDs"]):
            destroy_pbd(caller, pbd)
        caller.db.remove("SR", sr)


@call("SR.destroy")
def destroy(caller: Caller, sr: str) -> None:
    row = caller.db.row("SR", sr)
    if any(caller.db.row("PBD", pbd)["currently_attached"] for pbd in row["PBDs"]):
        raise Failure("SR_HAS_PBD", sr)
    if not row["PBDs"]:
        raise Failure("SR_NO_PBDS", sr)
    if row["other_config"].get("indestructible") == "true":
        raise Failure("SR_INDESTRUCTIBLE", sr)
    if any(caller.db.row("VDI", vdi)["managed"] for vdi in row["VDIs"]):
        raise Failure("SR_NOT_EMPTY")
    caller.pool.engines.pop(row["uuid"], None)
    forget(caller, sr)


@call("SR.set_name_label")
def set_name(caller: Caller, sr: str, value: str) -> None:
    caller.db.set("SR", sr, name_label=value)


@call("SR.set_shared")
def set_shared(caller: Caller, sr: str, value: bool) -> None:
    caller.db.set("SR", sr, shared=bool(value))


def _add_pbd(caller: Caller, host: str, sr: str, config: Config) -> str:
    if "SRmaster" in config:
        raise Failure("VALUE_NOT_SUPPORTED", "device_config", "SRmaster", "This key is for internal use only")
    for pbd, _row in caller.db.all("PBD", SR=sr, host=host):
        raise Failure("PBD_EXISTS", sr, host, pbd)
    made: str = caller.db.add("PBD", host=host, SR=sr, device_config=_hide_secrets(caller, config))
    return made


@call("PBD.create")
def create_pbd(caller: Caller, record: dict[str, Any]) -> str:
    return _add_pbd(caller, record["host"], record["SR"], record["device_config"])


@call("PBD.plug")
def plug(caller: Caller, pbd: str) -> None:
    row = caller.db.row("PBD", pbd)
    if row["currently_attached"]:
        return
    sr = caller.db.row("SR", row["SR"])
    others = [one for one in sr["PBDs"] if one != pbd and caller.db.row("PBD", one)["currently_attached"]]
    if others and not sr["shared"]:
        raise Failure("SR_NOT_SHARABLE", row["SR"], row["host"])
    _check(_plugin(caller, sr["type"]), row["device_config"])
    with caller.pool.storage_lock:  # the collector must not see the disks before the scan
        caller.pool.make_engine(sr["uuid"], sr["type"])
        caller.db.set("PBD", pbd, currently_attached=True)
        caller.db.touch("SR", row["SR"])
        scan(caller, row["SR"])


@call("PBD.unplug")
def unplug(caller: Caller, pbd: str) -> None:
    row = caller.db.row("PBD", pbd)
    disks = caller.db.row("SR", row["SR"])["VDIs"]
    used = [disk for disk in disks if _attached_on(caller, disk, row["host"])]
    if used:
        raise Failure("VDI_IN_USE", *used)
    caller.db.set("PBD", pbd, currently_attached=False)
    caller.db.touch("SR", row["SR"])


def _attached_on(caller: Caller, vdi: str, host: str) -> bool:
    for vbd in caller.db.row("VDI", vdi)["VBDs"]:
        row = caller.db.row("VBD", vbd)
        vm = row["VM"]
        if row["currently_attached"] and (vm == NULL or caller.db.row("VM", vm)["resident_on"] == host):
            return True
    return False


@call("PBD.destroy")
def destroy_pbd(caller: Caller, pbd: str) -> None:
    row = caller.db.row("PBD", pbd)
    if row["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    _forget_secrets(caller, row["device_config"])
    caller.db.remove("PBD", pbd)


@call("PBD.set_device_config")
def set_device_config(caller: Caller, pbd: str, config: Config) -> None:
    old = caller.db.row("PBD", pbd)["device_config"]
    caller.db.set("PBD", pbd, device_config=_hide_secrets(caller, config))
    _forget_secrets(caller, old)
