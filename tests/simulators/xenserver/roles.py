"""Who may call what: the least role for each method, as the data model has it."""

ROLES = ("read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator", "pool-admin")
"""Each may do what those before it may."""
_OTHER = {
    "VDI.get_nbd_info": "vm-admin",
    "VDI.list_changed_blocks": "vm-operator",
    "VDI.pool_migrate": "vm-power-admin",
    "VDI.revert": "vm-power-admin",
    "SR.scan": "vm-power-admin",
    "VM.start": "vm-operator",
    "VM.hard_shutdown": "vm-operator",
}
TRANSFERS = "vm-admin"
"""Who may import and export disks over HTTP."""


def least(method: str) -> str:
    """Return the least role that may call a method."""
    cls, _, verb = method.partition(".")
    if method in _OTHER:
        return _OTHER[method]
    if cls == "secret":
        return "pool-operator"
    if cls in {"event", "session", "task"} or verb.startswith("get_"):
        return "read-only"
    return "pool-operator" if cls in {"SR", "PBD", "pool"} else "vm-admin"


def may(role: str, wanted: str) -> bool:
    """Say whether a role is at least another one."""
    return ROLES.index(role) >= ROLES.index(wanted)
