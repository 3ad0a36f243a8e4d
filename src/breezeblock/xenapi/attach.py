"""Disks in virtual machines: a VBD made, plugged, unplugged and removed. Each may be run again."""

from contextlib import suppress

from breezeblock.errors import ConflictError, NotFoundError
from breezeblock.xenapi import tasks
from breezeblock.xenapi.failures import XenApiError, XenNotFoundError
from breezeblock.xenapi.mirror import Mirror
from breezeblock.xenapi.records import Vbd, Vdi, Vm, decode
from breezeblock.xenapi.session import Session

OWNER = "breezeblock:vbd"


def attach(session: Session, mirror: Mirror, vdi_uuid: str, vm_uuid: str, *, read_only: bool = False) -> Vbd:
    """Connect a disk to a VM and plug it if the VM runs; return the connection."""
    vdi_ref, vdi = _disk(mirror, vdi_uuid)
    vm_ref = session.call("VM.get_by_uuid", vm_uuid)
    vm = decode(session.call("VM.get_record", vm_ref), Vm)
    held = connection(session, vdi, vm_ref)
    if held is None:
        record = {
            "VM": vm_ref,
            "VDI": vdi_ref,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": "RO" if read_only else "RW",
            "type": "Disk",
            "unpluggable": True,
            "empty": False,
            "other_config": {OWNER: vdi_uuid},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
        ref = session.call("VBD.create", record)
    else:
        ref, vbd = held
        if vbd.mode != ("RO" if read_only else "RW"):
            raise ConflictError(
                f"Disk {vdi_uuid} is attached to VM {vm_uuid} as {vbd.mode}.", remedy="Detach it."
            )
    if (
        vm.power_state == "Running"
        and not decode(session.call("VBD.get_record", ref), Vbd).currently_attached
    ):
        try:
            tasks.run(session, "VBD.plug", ref)
        except XenApiError as error:
            if error.code != "DEVICE_ALREADY_ATTACHED":
                raise
    return decode(session.call("VBD.get_record", ref), Vbd)


def detach(session: Session, mirror: Mirror, vdi_uuid: str, vm_uuid: str) -> None:
    """Unplug a disk from a VM and remove the connection; none = done."""
    try:
        _ref, vdi = _disk(mirror, vdi_uuid)
        held = connection(session, vdi, session.call("VM.get_by_uuid", vm_uuid))
    except NotFoundError:
        return
    if held is None:
        return
    ref, vbd = held
    if vbd.currently_attached:
        try:
            tasks.run(session, "VBD.unplug", ref)
        except XenApiError as error:
            if error.code != "DEVICE_ALREADY_DETACHED":
                raise
    with suppress(XenNotFoundError):
        session.call("VBD.destroy", ref)


def connection(session: Session, vdi: Vdi, vm_ref: str) -> tuple[str, Vbd] | None:
    """Return the disk's connection to a VM, if there is one."""
    for ref in vdi.VBDs:
        with suppress(XenNotFoundError):
            vbd = decode(session.call("VBD.get_record", ref), Vbd)
            if vm_ref == vbd.VM:
                return ref, vbd
    return None


def _disk(mirror: Mirror, uuid: str) -> tuple[str, Vdi]:
    found = mirror.look().find(uuid)
    if found is None:
        raise NotFoundError(f"There is no disk {uuid}.")
    return found
