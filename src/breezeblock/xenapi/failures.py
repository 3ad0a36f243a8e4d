"""What XenServer says when a call fails: a code and its parameters, as exceptions that keep all of them.

Codes and the numbers behind `SR_BACKEND_FAILURE_<n>` are those of the published data model and of the
storage manager. One table says which of our kinds of failure each is, and what an operator can do.
"""

from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    DuplicateError,
    ForbiddenError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

MAX_TEXT = 300
"""Characters of a parameter that a message shows; `params` keeps all."""


class XenApiError(BreezeblockError):
    """A call was answered with a failure."""

    def __init__(self, code: str, params: tuple[str, ...] = (), method: str = "", remedy: str = "") -> None:
        # The only secret that a failure carries is the session's reference.
        shown = () if code == "SESSION_INVALID" else params
        details = ", ".join(param[:MAX_TEXT] for param in shown if param)
        said = f"XenServer answered {method or 'a call'} with {code}"
        super().__init__(f"{said} ({details})." if details else f"{said}.", remedy=remedy)
        self.code = code
        self.params = params


class XenNotFoundError(XenApiError, NotFoundError):
    """The object is not there (any more)."""


class XenConflictError(XenApiError, ConflictError):
    """The object's state does not allow the call."""


class XenDuplicateError(XenApiError, DuplicateError):
    """It exists already."""


class XenUnsupportedError(XenApiError, UnsupportedError):
    """This SR or this host cannot do that."""


class XenInvalidError(XenApiError, InvalidInputError):
    """A value is not accepted."""


class XenFullError(XenApiError, NoSpaceError):
    """The SR is full."""


class XenUnavailableError(XenApiError, UnavailableError):
    """Busy or unreachable for now."""


class XenForbiddenError(XenApiError, ForbiddenError):
    """The account's role does not allow the call."""


class XenUnauthenticatedError(XenApiError, UnauthenticatedError):
    """Name, password or session are not valid."""


class SlaveError(XenUnavailableError):
    """Another host is the master; `params[0]` is its address."""


_ROLE = "Give the account the role pool-operator."
_LOG = "See /var/log/SMlog on the host that has the SR plugged."
_PLUG = "Plug the SR again: breezeblock xenserver sr repair."

_KINDS: dict[str, tuple[type[XenApiError], str]] = {
    "HANDLE_INVALID": (XenNotFoundError, ""),
    "UUID_INVALID": (XenNotFoundError, ""),
    "VDI_MISSING": (XenNotFoundError, "Scan the SR; if the disk's data is gone, restore it."),
    "HOST_IS_SLAVE": (SlaveError, ""),
    "HOST_OFFLINE": (XenUnavailableError, "Bring the host back, or declare it dead."),
    "HOST_STILL_BOOTING": (XenUnavailableError, ""),
    "OTHER_OPERATION_IN_PROGRESS": (XenUnavailableError, ""),
    "TOO_MANY_PENDING_TASKS": (XenUnavailableError, ""),
    "TOO_MANY_STORAGE_MIGRATES": (XenUnavailableError, ""),
    "SESSION_INVALID": (XenUnauthenticatedError, ""),
    "SESSION_AUTHENTICATION_FAILED": (XenUnauthenticatedError, "Check `username` and `password_file`."),
    "RBAC_PERMISSION_DENIED": (XenForbiddenError, _ROLE),
    "PERMISSION_DENIED": (XenForbiddenError, _ROLE),
    "VDI_IN_USE": (XenConflictError, "Detach the disk from its VM, or shut the VM down."),
    "OPERATION_NOT_ALLOWED": (XenConflictError, ""),
    "VDI_NOT_MANAGED": (XenConflictError, ""),
    "VDI_IS_SHARABLE": (XenConflictError, "A sharable disk has no snapshots."),
    "VDI_CBT_ENABLED": (XenConflictError, "Disable changed block tracking on the disk first."),
    "VDI_READONLY": (XenConflictError, ""),
    "VDI_INCOMPATIBLE_TYPE": (XenUnsupportedError, ""),
    "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": (XenConflictError, "Set the disk's on_boot to persist."),
    "VDI_NOT_SPARSE": (XenConflictError, ""),
    "VDI_NEEDS_VM_FOR_MIGRATE": (XenConflictError, "Attach the disk to a VM that runs, or copy it."),
    "SR_DOES_NOT_SUPPORT_MIGRATION": (XenUnsupportedError, "Detach the disk, and copy it."),
    "VDI_NO_CBT_METADATA": (XenConflictError, "Track its changes first: breezeblock xenserver track."),
    "DEVICE_ALREADY_ATTACHED": (XenDuplicateError, ""),
    "DEVICE_ALREADY_DETACHED": (XenConflictError, ""),
    "EVENT_FROM_TOKEN_PARSE_FAILURE": (XenInvalidError, ""),
    "EVENT_SUBSCRIPTION_PARSE_FAILURE": (XenInvalidError, ""),
    "VM_BAD_POWER_STATE": (XenConflictError, ""),
    "DEVICE_DETACH_REJECTED": (XenConflictError, "The guest uses the disk: unmount it there first."),
    "DEVICE_ALREADY_EXISTS": (XenDuplicateError, ""),
    "PBD_EXISTS": (XenDuplicateError, ""),
    "SR_UUID_EXISTS": (XenDuplicateError, ""),
    "SR_HAS_PBD": (XenConflictError, "Unplug the SR on every host first."),
    "SR_NO_PBDS": (XenConflictError, _PLUG),
    "SR_HAS_NO_PBDS": (XenConflictError, _PLUG),
    "SR_NOT_ATTACHED": (XenUnavailableError, _PLUG),
    "SR_NOT_EMPTY": (XenConflictError, "Delete or move its disks first."),
    "SR_INDESTRUCTIBLE": (XenConflictError, "Remove other_config:indestructible from the SR first."),
    "SR_NOT_SHARABLE": (XenConflictError, "An SR that is not shared is plugged on one host only."),
    "SR_OPERATION_NOT_SUPPORTED": (XenUnsupportedError, ""),
    "NO_COMPATIBLE_CLUSTER_HOST": (XenConflictError, "Make the hosts a cluster: xe cluster-pool-create."),
    "SR_UNKNOWN_DRIVER": (XenUnsupportedError, "This host has no storage driver of that type."),
    "UNIMPLEMENTED_IN_SM_BACKEND": (XenUnsupportedError, ""),
    "MESSAGE_METHOD_UNKNOWN": (XenUnsupportedError, "This host is too old for the call."),
    "MESSAGE_REMOVED": (XenUnsupportedError, ""),
    "NOT_IMPLEMENTED": (XenUnsupportedError, ""),
    "VALUE_NOT_SUPPORTED": (XenInvalidError, ""),
    "INVALID_DEVICE": (XenInvalidError, ""),
    "VDI_TOO_LARGE": (XenInvalidError, ""),
    "VDI_TOO_SMALL": (XenInvalidError, ""),
    "VDI_IO_ERROR": (XenUnavailableError, _LOG),
}
_BACKEND: dict[int, tuple[type[XenApiError], str]] = {
    37: (XenUnavailableError, ""),
    40: (XenUnavailableError, _LOG),
    44: (XenFullError, "Free space in the SR. A thick SR needs the whole size again for a snapshot."),
    46: (
        XenUnavailableError,
        "Scan the SR; if the disk stays unavailable, unplug its VBD and look for its VM.",
    ),
    47: (XenUnavailableError, f"{_PLUG} Do not forget the SR: that loses the disks' names."),
    73: (XenUnavailableError, "The NFS server did not let the host mount the export."),
    79: (XenInvalidError, "VHD ends at 2040 GiB."),
    101: (XenInvalidError, "Give `serverpath`; `breezeblock xenserver probe` lists the exports."),
    109: (XenConflictError, "Delete snapshots, then let the SR coalesce: the chain is at its limit of 30."),
    111: (XenUnavailableError, "The SMB server did not let the host mount the share."),
    180: (XenFullError, "The volume group is promised to more than it holds. Grow it, or delete volumes."),
    200: (XenUnavailableError, _LOG),
    202: (XenUnavailableError, _LOG),
    1200: (XenUnavailableError, _LOG),
}


def failure(code: str, params: tuple[str, ...] = (), method: str = "") -> XenApiError:
    """Return the exception for a failure's code and parameters."""
    kind, remedy = _KINDS.get(code, (XenApiError, ""))
    number = code.removeprefix("SR_BACKEND_FAILURE_")
    if number != code and number.isdigit():
        kind, remedy = _BACKEND.get(int(number), (XenApiError, _LOG))
    return kind(code, params, method, remedy)
