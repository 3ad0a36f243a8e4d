"""The records that are read, with the fields that are used; names as the data model has them.

Values may come as JSON or as XML-RPC's strings: `decode` takes both.
"""

from typing import Any, TypeVar

import msgspec

NULL = "OpaqueRef:NULL"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What every object has."""

    uuid: str


class Pool(Record, frozen=True, kw_only=True):
    """A pool of hosts."""

    name_label: str = ""
    master: str = NULL


class Host(Record, frozen=True, kw_only=True):
    """A host."""

    name_label: str = ""
    address: str = ""
    enabled: bool = True
    software_version: dict[str, str] = {}


class Sm(Record, frozen=True, kw_only=True):
    """A storage driver."""

    type: str
    features: dict[str, int] = {}
    driver_filename: str = ""
    supported_image_formats: list[str] = []


class Sr(Record, frozen=True, kw_only=True):
    """A storage repository. Sizes are bytes, -1 while unknown."""

    name_label: str = ""
    name_description: str = ""
    type: str
    content_type: str = ""
    shared: bool = False
    physical_size: int = -1
    physical_utilisation: int = -1
    virtual_allocation: int = -1
    allowed_operations: list[str] = []
    other_config: dict[str, str] = {}
    PBDs: list[str] = []


class Pbd(Record, frozen=True, kw_only=True):
    """A host's connection to an SR."""

    host: str
    SR: str
    device_config: dict[str, str] = {}
    currently_attached: bool = False


class Vdi(Record, frozen=True, kw_only=True):
    """A disk. `virtual_size` and `physical_utilisation` are bytes."""

    name_label: str = ""
    SR: str
    VBDs: list[str] = []
    virtual_size: int = 0
    physical_utilisation: int = 0
    managed: bool = True
    missing: bool = False
    is_a_snapshot: bool = False
    snapshot_of: str = NULL
    snapshot_time: str = ""
    type: str = "user"
    read_only: bool = False
    sharable: bool = False
    cbt_enabled: bool = False
    allowed_operations: list[str] = []
    current_operations: dict[str, str] = {}
    other_config: dict[str, str] = {}
    sm_config: dict[str, str] = {}


class Vbd(Record, frozen=True, kw_only=True):
    """A disk in a VM."""

    VM: str
    VDI: str
    device: str = ""
    userdevice: str = ""
    mode: str = "RW"
    currently_attached: bool = False
    other_config: dict[str, str] = {}


class NbdExport(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a disk can be read by NBD over TLS."""

    exportname: str
    """Holds the session's reference, a secret."""
    address: str
    port: int
    cert: str
    """The server's certificate, as PEM."""
    subject: str


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a driver of the newer interface found."""

    configuration: dict[str, str] = {}
    extra_info: dict[str, str] = {}
    sr: list[dict[str, Any]] | dict[str, Any] | None = None
    """What is there already; an option, which some hosts write as a list of none or one."""

    def shown(self) -> dict[str, str]:
        """Return it as an older driver's XML would have it: tag to text."""
        there = self.sr if isinstance(self.sr, list) else [self.sr or {}]
        uuids = [("UUID", one) for held in there for one in _option(held.get("uuid"))]
        return self.configuration | self.extra_info | dict(uuids)


def _option(value: object) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one]


class Vm(Record, frozen=True, kw_only=True):
    """A virtual machine."""

    name_label: str = ""
    power_state: str = "Halted"
    VBDs: list[str] = []


class Task(Record, frozen=True, kw_only=True):
    """Work that goes on."""

    status: str = "pending"
    progress: float = 0.0
    result: str = ""
    error_info: list[str] = []


class Event(msgspec.Struct, frozen=True, kw_only=True, rename={"cls": "class"}):
    """One change."""

    cls: str
    operation: str
    ref: str
    snapshot: dict[str, Any] = {}


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What `event.from` gives."""

    events: list[Event]
    token: str
    valid_ref_counts: dict[str, int] = {}


T = TypeVar("T")


def decode(value: object, kind: type[T]) -> T:
    """Turn what the wire gave into a record; fields that are not used are left out."""
    return msgspec.convert(value, kind, strict=False)
