"""Which requests are refused before a device sees them, and with which error."""

from breezeblock.objects.nbd import wire
from breezeblock.objects.nbd.device import Device
from breezeblock.objects.nbd.wire import Command, Error, Flag

# What each command does not allow, by its number; the specification wants it refused. Plain numbers: the
# complement of an IntFlag has no bits that it does not know.
_FORBIDDEN = tuple(
    ~int(allowed)
    for allowed in (
        Flag.DF,
        Flag.FUA,
        0,
        0,
        Flag.FUA,
        0,
        Flag.FUA | Flag.NO_HOLE | Flag.FAST_ZERO,
        Flag.REQ_ONE,
    )
)
_CHANGES = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_READ, _WRITE = int(Command.READ), int(Command.WRITE)


def refusal(device: Device, kind: int, flags: int, offset: int, length: int) -> tuple[Error, str] | None:
    """Return the error and the reason, None for what may be done; the usual request passes the first test."""
    if (
        not flags & _FORBIDDEN[kind]
        and 0 < length <= device.length - offset
        and not (offset | length) & (device.minimum_bytes - 1)
        and (kind > _WRITE or length <= wire.MAX_PAYLOAD_BYTES)
        and (kind == _READ or not device.read_only)
    ):
        return None
    if device.read_only and kind in _CHANGES:
        return Error.EPERM, "the export is read-only"
    if length > 0 and offset + length > device.length:
        beyond = Error.ENOSPC if kind in {Command.WRITE, Command.WRITE_ZEROES} else Error.EINVAL
        return beyond, f"{offset}+{length} is beyond the end at {device.length}"
    if kind <= _WRITE and length > wire.MAX_PAYLOAD_BYTES:
        return Error.EINVAL, f"{length} bytes are more than {wire.MAX_PAYLOAD_BYTES} at once"
    if not length or flags & _FORBIDDEN[kind] or (offset | length) & (device.minimum_bytes - 1):
        return Error.EINVAL, f"flags {flags:#x}, offset {offset}, length {length}"
    return None
