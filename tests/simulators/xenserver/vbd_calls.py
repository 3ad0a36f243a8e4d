"""VBD and VM: disks in machines."""

from typing import Any

from xenserver.calls import Caller, call
from xenserver.failures import Failure
from xenserver.fields import NULL


@call("VM.create")
def create_vm(caller: Caller, record: dict[str, Any]) -> str:
    values = {key: record[key] for key in ("name_label", "name_description", "other_config") if key in record}
    made: str = caller.db.add("VM", power_state="Halted", **values)
    return made


@call("VM.start")
def start_vm(caller: Caller, vm: str, _paused: bool = False, _force: bool = False) -> None:
    caller.db.set("VM", vm, power_state="Running", resident_on=caller.host, domid=7)
    for vbd in caller.db.row("VM", vm)["VBDs"]:
        _attach(caller, vbd)


@call("VM.hard_shutdown")
def stop_vm(caller: Caller, vm: str) -> None:
    caller.db.set("VM", vm, power_state="Halted", resident_on=NULL, domid=-1)
    for vbd in caller.db.row("VM", vm)["VBDs"]:
        _detach(caller, vbd)


@call("VM.destroy")
def destroy_vm(caller: Caller, vm: str) -> None:
    for vbd in list(caller.db.row("VM", vm)["VBDs"]):
        caller.db.remove("VBD", vbd)
    caller.db.remove("VM", vm)


@call("VM.get_allowed_VBD_devices")
def free_devices(caller: Caller, vm: str) -> list[str]:
    used = {caller.db.row("VBD", vbd)["userdevice"] for vbd in caller.db.row("VM", vm)["VBDs"]}
    return [str(number) for number in range(16) if str(number) not in used]


@call("VBD.create")
def create(caller: Caller, record: dict[str, Any]) -> str:
    with caller.db.lock:
        vm, vdi = record["VM"], record["VDI"]
        caller.db.row("VM", vm)
        free = free_devices(caller, vm)
        device = str(record.get("userdevice", "autodetect"))
        if device == "autodetect":
            device = free[0]
        if not device.isdigit():
            raise Failure("INVALID_DEVICE", device)
        if device not in free:
            raise Failure("DEVICE_ALREADY_EXISTS", device)
        if str(record["mode"]).upper() == "RW" and caller.db.row("VDI", vdi)["read_only"]:
            raise Failure("VDI_READONLY", vdi)
        made: str = caller.db.add(
            "VBD",
            VM=vm,
            VDI=vdi,
            userdevice=device,
            mode=str(record["mode"]).upper(),
            type="Disk",
            bootable=bool(record.get("bootable")),
            empty=False,
            other_config=record.get("other_config", {}),
            unpluggable=True,
        )
        return made


@call("VBD.plug")
def plug(caller: Caller, vbd: str) -> None:
    row = caller.db.row("VBD", vbd)
    vm = caller.db.row("VM", row["VM"])
    if vm["power_state"] != "Running":
        raise Failure("VM_BAD_POWER_STATE", row["VM"], "running", vm["power_state"].lower())
    if row["currently_attached"]:
        raise Failure("DEVICE_ALREADY_ATTACHED", vbd)
    _attach(caller, vbd)


def _attach(caller: Caller, vbd: str) -> None:
    with caller.db.lock:
        row = caller.db.row("VBD", vbd)
        disk = caller.db.row("VDI", row["VDI"])
        caller.pool.engine(disk["SR"])
        others = [caller.db.row("VBD", one) for one in disk["VBDs"] if one != vbd]
        if not disk["sharable"] and any(
            one["currently_attached"] and "RW" in {one["mode"], row["mode"]} for one in others
        ):
            raise Failure("VDI_IN_USE", row["VDI"])
        caller.db.set(
            "VBD", vbd, currently_attached=True, device="xvd" + "abcdefghijklmnop"[int(row["userdevice"])]
        )
        caller.db.touch("VDI", row["VDI"])


def _detach(caller: Caller, vbd: str) -> None:
    with caller.db.lock:
        caller.db.set("VBD", vbd, currently_attached=False, device="")
        caller.db.touch("VDI", caller.db.row("VBD", vbd)["VDI"])


@call("VBD.unplug")
def unplug(caller: Caller, vbd: str) -> None:
    row = caller.db.row("VBD", vbd)
    if not row["currently_attached"]:
        raise Failure("DEVICE_ALREADY_DETACHED", vbd)
    if not row["unpluggable"]:
        raise Failure("DEVICE_DETACH_REJECTED", "VBD", vbd, "the guest refused")
    _detach(caller, vbd)


@call("VBD.unplug_force")
def unplug_force(caller: Caller, vbd: str) -> None:
    _detach(caller, vbd)


@call("VBD.destroy")
def destroy(caller: Caller, vbd: str) -> None:
    if caller.db.row("VBD", vbd)["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "VBD is currently attached")
    caller.db.remove("VBD", vbd)
