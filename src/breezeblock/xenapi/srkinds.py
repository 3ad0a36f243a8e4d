"""Every type of storage repository: what its device_config holds, what it can do, whether it still exists.

Data, not code: `KINDS` is the registry, `check_device_config` the one reader of its rules. Keys and
capabilities are those of the storage manager's drivers. A type that is not here is refused: what it can,
and what a deletion does to its data, is not known.
"""

import re
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec.structs import replace

from breezeblock.errors import ConfigError

GIB = 1 << 30
VHD_MAX_BYTES = 2040 * GIB
QCOW2_MAX_BYTES = 16381 * GIB
CHAIN_LIMIT = 30
SECRET_SUFFIX = "_secret"  # noqa: S105 - the end of a key

Layout = Literal["files", "lvm", "luns", "array", "other"]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key of device_config."""

    required: bool = False
    secret: bool = False
    default: str = ""
    pattern: str = r"[^\x00-\x1f]+"
    help: str = ""


class SrKind(msgspec.Struct, frozen=True, kw_only=True):
    """One type of SR."""

    type: str
    title: str
    layout: Layout
    keys: dict[str, Key]
    shared: bool
    snapshots: bool = True
    clones: bool = True
    extends: bool = True
    thin: bool = True
    zeroed: bool = True
    """A new disk reads as zeros; where it does not, we wipe it."""
    chained: bool = True
    """Snapshots stand on hidden base copies, at most `CHAIN_LIMIT` deep."""
    max_bytes: int = VHD_MAX_BYTES
    aliases: tuple[str, ...] = ()
    smapi: int = 1
    """The version of its driver's interface: 3 is probed by `SR.probe_ext`."""
    gone: str = ""
    """Since when it does not exist any more; empty: it does."""
    note: str = ""


_HOST = Key(required=True, pattern=r"[A-Za-z0-9._:\[\],-]{1,1024}", help="address or name")
_PATH = Key(required=True, pattern=r"/[^\x00-\x1f]*", help="absolute path")
_DEVICE = Key(required=True, pattern=r"/dev/[^\x00-\x1f]+", help="block devices, with commas")
_SCSI_ID = Key(required=True, pattern=r"[A-Za-z0-9_.-]{1,255}", help="as `probe` lists it")
_IQN = Key(required=True, pattern=r"\*|(iqn|eui|naa)\.[A-Za-z0-9.:_,-]+", help="target's name, or *")
_PORT = Key(default="3260", pattern=r"[0-9]{1,5}", help="port")
_TEXT = Key()
_SECRET = Key(secret=True)
_ALLOCATION = Key(default="thick", pattern="thin|thick", help="thin or thick")
_BOOL = Key(pattern="true|false")
_CHAP = {
    "chapuser": _TEXT,
    "chappassword": _SECRET,
    "incoming_chapuser": _TEXT,
    "incoming_chappassword": _SECRET,
}
_ISCSI = {"target": _HOST, "targetIQN": _IQN, "port": _PORT, **_CHAP, "multihomed": _BOOL}
_FORMATS = {"preferred-image-formats": Key(default="vhd,qcow2", pattern=r"[a-z0-9,]+", help="XCP-ng 8.3")}
_ARRAY = {
    "target": _HOST,
    "username": Key(required=True),
    "password": Key(required=True, secret=True),
    **_CHAP,
}
_ARRAY_GONE = "between XenServer 6.2 and 6.5"

_FILES = SrKind(type="", title="", layout="files", shared=True, keys={})
_LOCAL_FILES = replace(_FILES, shared=False)
_LVM = SrKind(type="", title="", layout="lvm", shared=True, thin=False, keys={})
_LUNS = SrKind(
    type="",
    title="",
    layout="luns",
    shared=True,
    thin=False,
    snapshots=False,
    clones=False,
    extends=False,
    zeroed=False,
    chained=False,
    max_bytes=1 << 60,
    keys={},
)
_ARRAYS = SrKind(type="", title="", layout="array", shared=True, chained=False, max_bytes=16 << 40, keys={})

_ALL = (
    replace(
        _FILES,
        type="nfs",
        title="NFS VHD",
        keys={
            "server": _HOST,
            "serverpath": _PATH,
            "nfsversion": Key(pattern=r"3|4|4\.0|4\.1"),
            "options": _TEXT,
            "useUDP": _BOOL,
            **_FORMATS,
        },
        note="NFS 4.1: nfsversion = 4.1. The export must allow mounting sub-directories, unless nosubdir.",
    ),
    replace(
        _LOCAL_FILES,
        type="ext",
        title="Local VHD on ext4",
        keys={"device": _DEVICE, **_FORMATS},
    ),
    replace(
        _LVM,
        type="lvm",
        title="Local VHD on LVM",
        shared=False,
        aliases=("lvhd",),
        keys={"device": _DEVICE, "allocation": _ALLOCATION, **_FORMATS},
    ),
    replace(
        _LVM,
        type="lvmoiscsi",
        title="LVHD over iSCSI",
        aliases=("lvhdoiscsi",),
        keys={
            **_ISCSI,
            "SCSIid": _SCSI_ID,
            "allocation": _ALLOCATION,
            "usediscoverynumber": _TEXT,
            **_FORMATS,
        },
    ),
    replace(
        _LVM,
        type="lvmohba",
        title="LVHD over Fibre Channel",
        aliases=("lvhdohba",),
        keys={
            "SCSIid": _SCSI_ID,
            "device": Key(pattern=_DEVICE.pattern),
            "allocation": _ALLOCATION,
            **_FORMATS,
        },
    ),
    replace(
        _LVM,
        type="lvmofcoe",
        title="LVHD over FCoE",
        gone="XenServer 2025-01",
        keys={"SCSIid": _SCSI_ID, "allocation": _ALLOCATION, "type": _TEXT},
        note="XCP-ng 8.3 still has it.",
    ),
    replace(
        _LUNS,
        type="iscsi",
        title="iSCSI LUN-per-VDI",
        keys={**_ISCSI, "force_tapdisk": _BOOL},
        note="Claims the smallest free LUN that fits; makes none. We wipe it before anybody gets it.",
    ),
    replace(
        _LUNS,
        type="hba",
        title="HBA LUN-per-VDI",
        keys={"type": Key(pattern="FC|iSCSI|SAS")},
        note="As iscsi.",
    ),
    replace(
        _LUNS,
        type="rawhba",
        title="HBA LUN-per-VDI (old)",
        gone="2021-01",
    ),
    replace(
        _ARRAYS,
        type="netapp",
        title="NetApp",
        gone=_ARRAY_GONE,
        keys={
            **_ARRAY,
            "aggregate": _TEXT,
            "FlexVols": Key(default="8", pattern=r"[1-9]|[12][0-9]|3[0-2]"),
            "allocation": _ALLOCATION,
            "asis": _BOOL,
            "port": _PORT,
            "usehttps": _BOOL,
        },
        note="A FlexVol holds 200 LUNs and 255 snapshots.",
    ),
    replace(
        _ARRAYS,
        type="equal",
        title="EqualLogic",
        gone=_ARRAY_GONE,
        keys={**_ARRAY, "storagepool": Key(required=True), "allocation": _ALLOCATION},
        note="7 sessions of the array's command line at once; no snapshot of a snapshot.",
    ),
    replace(
        _ARRAYS,
        type="cslg",
        title="StorageLink",
        gone="XenServer 6.5 (2014)",
        keys={
            **_ARRAY,
            "storageSystemId": Key(required=True),
            "storagePoolId": Key(required=True),
            "protocol": _TEXT,
        },
    ),
    replace(
        _FILES,
        type="smb",
        title="SMB VHD",
        aliases=("cifs",),
        keys={
            "server": Key(required=True, pattern=r"(\\\\|//)[^\x00-\x1f]+"),
            "username": _TEXT,
            "password": _SECRET,
        },
        note="Since 2015. No QCOW2.",
    ),
    replace(
        _LOCAL_FILES,
        type="file",
        title="Files in a directory",
        keys={"location": _PATH},
        note="A scan while the directory is not mounted makes the host forget all disks' names.",
    ),
    replace(
        _LOCAL_FILES,
        type="xfs",
        title="Local VHD on XFS",
        keys={"device": _DEVICE},
        note="XCP-ng.",
    ),
    replace(
        _LOCAL_FILES,
        type="zfs",
        title="ZFS dataset",
        keys={"location": _PATH},
        note="XCP-ng 8.2.",
    ),
    replace(
        _FILES,
        type="cephfs",
        title="CephFS",
        note="XCP-ng.",
        keys={"server": _HOST, "serverpath": _PATH, "serverport": Key(pattern=r"[0-9]+"), "options": _TEXT},
    ),
    replace(
        _FILES,
        type="glusterfs",
        title="GlusterFS",
        note="XCP-ng.",
        keys={
            "server": Key(required=True, pattern=r"[^:]+:/?.+"),
            "backupservers": _TEXT,
            "fetchattempts": _TEXT,
        },
    ),
    replace(
        _FILES,
        type="moosefs",
        title="MooseFS",
        note="XCP-ng; must be allowed in xapi.conf.",
        keys={
            "masterhost": _HOST,
            "rootpath": _PATH,
            "masterport": Key(default="9421", pattern=r"[0-9]+"),
            "mfspassword": _SECRET,
        },
    ),
    SrKind(
        type="linstor",
        title="XOSTOR",
        layout="other",
        shared=True,
        note="XCP-ng. No QCOW2.",
        keys={
            "group-name": Key(required=True),
            "redundancy": Key(required=True, pattern=r"[1-9]"),
            "provisioning": Key(default="thin", pattern="thin|thick"),
            "monitor-db-quorum": _TEXT,
        },
    ),
    SrKind(
        type="gfs2",
        title="GFS2",
        layout="other",
        shared=True,
        max_bytes=16 << 40,
        smapi=3,
        note="XenServer; needs a cluster of hosts. QCOW2.",
        keys={
            "provider": Key(required=True, pattern="iscsi|hba"),
            "ips": _TEXT,
            "iqns": _TEXT,
            "ScsiId": _TEXT,
        },
    ),
    replace(
        _LOCAL_FILES,
        type="largeblock",
        title="ext4 on 4 KiB sectors",
        keys={"device": _DEVICE},
        note="XCP-ng, since 2024-04.",
    ),
)

KINDS: Mapping[str, SrKind] = {kind.type: kind for kind in _ALL}
_ALIASES = {alias: kind.type for kind in _ALL for alias in kind.aliases}


def find(name: str) -> SrKind:
    """Return the kind of a type by its name or an older one; ConfigError if nobody knows it."""
    kind = KINDS.get(_ALIASES.get(name, name))
    if kind is None:
        raise ConfigError(f"{name!r} is no type of SR.", remedy=f"Known: {', '.join(KINDS)}.")
    return kind


def check_device_config(kind: SrKind, config: Mapping[str, str], where: str) -> None:
    """Raise ConfigError for a key that is unknown, missing or wrong. Values of secrets are never shown."""
    for key, value in config.items():
        rule = kind.keys.get(key.removesuffix(SECRET_SUFFIX) if key.endswith(SECRET_SUFFIX) else key)
        if rule is None:
            raise ConfigError(
                f"{where}: {kind.type} has no device_config key {key!r}.",
                remedy=f"Keys: {', '.join(kind.keys)}.",
            )
        if rule.secret and not key.endswith(SECRET_SUFFIX):
            raise ConfigError(
                f"{where}: {key} is a secret and may not stand in device_config.",
                remedy="Put it into a file, and name the file in `secret_files`.",
            )
        if not rule.secret and not re.fullmatch(rule.pattern, value):
            raise ConfigError(
                f"{where}: {key} = {value!r} is not what {kind.type} takes.", remedy=rule.help or rule.pattern
            )
    for key, rule in kind.keys.items():
        if rule.required and key not in config and f"{key}{SECRET_SUFFIX}" not in config:
            raise ConfigError(f"{where}: {kind.type} needs the device_config key {key!r}.", remedy=rule.help)
