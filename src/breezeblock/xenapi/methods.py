"""Every call that Breezeblock makes: its parameters (after the session) and what it returns.

Types are written as the data model writes them. Nothing else is ever called: `Session.call` looks here.
A trailing `?` marks a parameter that older hosts do not know and that is then left out.
"""

_CONFIG = "(string -> string) map"
_SR_CREATE = ("host ref", _CONFIG, "int", "string", "string", "string", "string", "bool", f"{_CONFIG}?")

METHODS: dict[str, tuple[tuple[str, ...], str]] = {
    "event.from": (("string set", "string", "float"), "an event batch"),
    "task.create": (("string", "string"), "task ref"),
    "task.get_record": (("task ref",), "task record"),
    "task.cancel": (("task ref",), "void"),
    "task.destroy": (("task ref",), "void"),
    "SR.create": (_SR_CREATE, "SR ref"),
    "SR.introduce": (("string", "string", "string", "string", "string", "bool", f"{_CONFIG}?"), "SR ref"),
    "SR.probe": (("host ref", _CONFIG, "string", f"{_CONFIG}?"), "string"),
    "SR.probe_ext": (("host ref", _CONFIG, "string", _CONFIG), "probe_result record set"),
    "SR.update": (("SR ref",), "void"),
    "SR.scan": (("SR ref",), "void"),
    "SR.forget": (("SR ref",), "void"),
    "SR.destroy": (("SR ref",), "void"),
    "PBD.create": (("PBD record",), "PBD ref"),
    "PBD.plug": (("PBD ref",), "void"),
    "PBD.unplug": (("PBD ref",), "void"),
    "secret.create": (("secret record",), "secret ref"),
    "secret.get_record": (("secret ref",), "secret record"),
    "secret.get_all_records": ((), "(secret ref -> secret record) map"),
    "secret.destroy": (("secret ref",), "void"),
    "VDI.create": (("VDI record",), "VDI ref"),
    "VDI.destroy": (("VDI ref",), "void"),
    "VDI.snapshot": (("VDI ref", f"{_CONFIG}?"), "VDI ref"),
    "VDI.clone": (("VDI ref", f"{_CONFIG}?"), "VDI ref"),
    "VDI.copy": (("VDI ref", "SR ref", "VDI ref?", "VDI ref?"), "VDI ref"),
    "VDI.resize": (("VDI ref", "int"), "void"),
    "VDI.resize_online": (("VDI ref", "int"), "void"),
    "VDI.get_record": (("VDI ref",), "VDI record"),
    "VDI.set_name_label": (("VDI ref", "string"), "void"),
    "VDI.set_other_config": (("VDI ref", _CONFIG), "void"),
    "VDI.add_to_other_config": (("VDI ref", "string", "string"), "void"),
    "VDI.remove_from_other_config": (("VDI ref", "string"), "void"),
    "VDI.revert": (("VDI ref",), "void"),
    "VDI.pool_migrate": (("VDI ref", "SR ref", _CONFIG), "VDI ref"),
    "VDI.get_nbd_info": (("VDI ref",), "vdi_nbd_server_info record set"),
    "VDI.enable_cbt": (("VDI ref",), "void"),
    "VDI.list_changed_blocks": (("VDI ref", "VDI ref"), "string"),
    "VDI.disable_cbt": (("VDI ref",), "void"),
    "VM.get_by_uuid": (("string",), "VM ref"),
    "VM.get_by_name_label": (("string",), "VM ref set"),
    "VM.get_record": (("VM ref",), "VM record"),
    "VBD.get_record": (("VBD ref",), "VBD record"),
    "VBD.create": (("VBD record",), "VBD ref"),
    "VBD.plug": (("VBD ref",), "void"),
    "VBD.unplug": (("VBD ref",), "void"),
    "VBD.destroy": (("VBD ref",), "void"),
}
ASYNC = frozenset(
    {
        "SR.create",
        "SR.scan",
        "SR.destroy",
        "PBD.plug",
        "PBD.unplug",
        "VDI.create",
        "VDI.destroy",
        "VDI.snapshot",
        "VDI.clone",
        "VDI.copy",
        "VDI.resize",
        "VDI.resize_online",
        "VDI.revert",
        "VDI.pool_migrate",
        "VBD.plug",
        "VBD.unplug",
    }
)
"""Calls that are made as tasks, so that they can take their time, tell progress and be cancelled."""


def reads(method: str) -> bool:
    """Say whether a call changes nothing, so that it may be repeated when its answer was lost."""
    return method == "event.from" or method.partition(".")[2].startswith("get_")
