"""Disks of a XenServer pool in its virtual machines: a VBD made, plugged, unplugged and removed.

A VBD of ours says so in its other_config, so that one which a killed call left is found again. Calls
and rules: XenAPI classes VBD and VM.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from breezeblock.connect import Attached
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError
from breezeblock.xenapi import tasks
from breezeblock.xenapi.failures import XenApiError, XenNotFoundError
from breezeblock.xenapi.mirror import Mirror
from breezeblock.xenapi.records import Vbd, Vdi, Vm, decode
from breezeblock.xenapi.session import Session

OWNER = "breezeblock:vbd"


class XenServerConnector:
    """Machines of one pool. A consumer is a machine's uuid, or a name that only one has."""

    drivers: tuple[str, ...] = ("xenserver", "xensm")

    def __init__(self, session: Session, mirror: Mirror) -> None:
        self._session = session
        self._mirror = mirror

    def attach(self, data: Mapping[str, Any], consumer: str, *, read_only: bool = False) -> Attached:
        """Connect the disk to the machine, and plug it if that runs."""
        vdi_ref, vdi = self._disk(data)
        vm_ref, vm = self._machine(consumer)
        read_only = read_only or data.get("access_mode") == "ro"
        mode = "RO" if read_only else "RW"
        held = self._connection(vdi, vm_ref)
        if held and held[1].mode != mode:
            raise ConflictError(
                f"Disk {vdi.uuid} is attached to VM {vm.name_label} as {held[1].mode}.",
                remedy="Detach it first.",
            )
        ref = held[0] if held else self._session.call("VBD.create", _record(vdi_ref, vdi, vm_ref, mode))
        if vm.power_state == "Running":
            self._plug(ref, made=not held)
        return _attached(vm, self._vbd(ref))

    def detach(self, data: Mapping[str, Any], consumer: str) -> None:
        """Unplug the disk and remove the connection."""
        try:
            vm_ref, vm = self._machine(consumer)
        except NotFoundError:
            return
        try:
            _ref, vdi = self._disk(data)
            held = self._connection(vdi, vm_ref)
        except NotFoundError:
            held = self._moved(str(data.get("vdi_uuid")), vm)
        if held is None:
            return
        ref, vbd = held
        if vbd.currently_attached:
            self._but_for("DEVICE_ALREADY_DETACHED", "VBD.unplug", ref)
        with suppress(XenNotFoundError):
            self._session.call("VBD.destroy", ref)

    def find(self, data: Mapping[str, Any], consumer: str) -> Attached | None:
        """Look for the connection."""
        _ref, vdi = self._disk(data)
        vm_ref, vm = self._machine(consumer)
        held = self._connection(vdi, vm_ref)
        return _attached(vm, held[1]) if held else None

    def _plug(self, ref: str, *, made: bool) -> None:
        if self._vbd(ref).currently_attached:
            return
        try:
            self._but_for("DEVICE_ALREADY_ATTACHED", "VBD.plug", ref)
        except XenApiError:
            if made:  # or the disk could be neither used nor deleted
                with suppress(XenApiError):
                    self._session.call("VBD.destroy", ref)
            raise

    def _but_for(self, code: str, method: str, ref: str) -> None:
        """Run a call whose failure with this code means that it was done before."""
        try:
            tasks.run(self._session, method, ref)
        except XenApiError as error:
            if error.code != code:
                raise

    def _connection(self, vdi: Vdi, vm_ref: str) -> tuple[str, Vbd] | None:
        for ref in vdi.VBDs:
            with suppress(XenNotFoundError):
                vbd = self._vbd(ref)
                if vm_ref != vbd.VM:
                    continue
                made_for = vbd.other_config.get(OWNER, "")
                # It goes on under another uuid when the disk is moved; then the one it was made for is gone.
                moved = bool(made_for) and self._mirror.look().find(made_for) is None
                if made_for != vdi.uuid and not moved:
                    raise ConflictError(
                        f"Disk {vdi.uuid} is in that machine by VBD {vbd.uuid}, which is not ours.",
                        remedy="Remove the connection where it was made.",
                    )
                return ref, vbd
        return None

    def _moved(self, uuid: str, vm: Vm) -> tuple[str, Vbd] | None:
        """Return our connection of a disk that is gone: it was moved, and the machine has what it became."""
        for ref in vm.VBDs:
            with suppress(XenNotFoundError):
                vbd = self._vbd(ref)
                if vbd.other_config.get(OWNER) == uuid:
                    return ref, vbd
        return None

    def _vbd(self, ref: str) -> Vbd:
        return decode(self._session.call("VBD.get_record", ref), Vbd)

    def _disk(self, data: Mapping[str, Any]) -> tuple[str, Vdi]:
        uuid = data.get("vdi_uuid")
        if not isinstance(uuid, str) or not uuid:
            raise InvalidInputError("The connection info names no disk (vdi_uuid).")
        found = self._mirror.look().find(uuid)
        if found is None:
            raise NotFoundError(f"There is no disk {uuid}.")
        return found

    def _machine(self, name: str) -> tuple[str, Vm]:
        try:
            refs = [self._session.call("VM.get_by_uuid", name)]
        except XenNotFoundError:
            refs = self._session.call("VM.get_by_name_label", name)
        if len(refs) != 1:
            raise NotFoundError(f"{len(refs) or 'No'} machines are called {name}.", remedy="Name it by uuid.")
        return refs[0], decode(self._session.call("VM.get_record", refs[0]), Vm)


def _record(vdi_ref: str, vdi: Vdi, vm_ref: str, mode: str) -> dict[str, Any]:
    return {
        "VM": vm_ref,
        "VDI": vdi_ref,
        "userdevice": "autodetect",
        "bootable": False,
        "mode": mode,
        "type": "Disk",
        "unpluggable": True,
        "empty": False,
        "other_config": {OWNER: vdi.uuid},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }


def _attached(vm: Vm, vbd: Vbd) -> Attached:
    return Attached(consumer=vm.uuid, device=vbd.device, read_only=vbd.mode == "RO")
