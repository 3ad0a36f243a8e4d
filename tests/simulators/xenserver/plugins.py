"""The storage plug-ins (class SM): type, features, engine, and what their device_config must hold."""

from dataclasses import dataclass, field

FILE = (
    "SR_PROBE SR_UPDATE VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH VDI_UPDATE VDI_CLONE VDI_SNAPSHOT "
    "VDI_RESIZE VDI_MIRROR VDI_GENERATE_CONFIG VDI_RESET_ON_BOOT/2 ATOMIC_PAUSE VDI_CONFIG_CBT VDI_ACTIVATE "
    "VDI_DEACTIVATE THIN_PROVISIONING VDI_READ_CACHING"
)
LVM = (
    "SR_PROBE SR_UPDATE SR_TRIM VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH VDI_MIRROR VDI_CLONE "
    "VDI_SNAPSHOT VDI_RESIZE ATOMIC_PAUSE VDI_RESET_ON_BOOT/2 VDI_UPDATE "
    " VDI_CONFIG_CBT VDI_ACTIVATE VDI_DEACTIVATE"
)
LUN = "SR_PROBE VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH VDI_INTRODUCE"
ARRAY = (
    "SR_PROBE SR_UPDATE VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH VDI_CLONE VDI_SNAPSHOT VDI_RESIZE "
    "THIN_PROVISIONING"
)


def less(features: str, *gone: str) -> str:
    """Return the features without some."""
    return " ".join(one for one in features.split() if one not in gone)


EXT = FILE + " SR_SUPPORTS_LOCAL_CACHING"
CLUSTER_FS = less(
    FILE, "VDI_CONFIG_CBT", "VDI_ACTIVATE", "VDI_DEACTIVATE", "THIN_PROVISIONING", "VDI_READ_CACHING"
)
ZFS = less(FILE, "SR_PROBE", "VDI_UPDATE", "VDI_RESET_ON_BOOT/2", "VDI_READ_CACHING")
LINSTOR = less(FILE, "SR_PROBE", "VDI_CONFIG_CBT", "VDI_RESET_ON_BOOT/2")
SMAPI3 = (
    "SR_PROBE SR_UPDATE VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH VDI_ACTIVATE VDI_DEACTIVATE VDI_UPDATE "
    "VDI_CLONE VDI_SNAPSHOT VDI_RESIZE THIN_PROVISIONING LARGE_VDI"
)
SHARED_BLOCK = LVM + " SR_METADATA SR_CACHING VDI_GENERATE_CONFIG"


@dataclass(frozen=True)
class Plugin:
    """One type of SR."""

    features: str
    engine: str
    needs: dict[str, int] = field(default_factory=dict)
    """device_config key to the error number of its absence, in the order the plug-in looks."""
    shared: bool = True
    content: str = "user"
    formats: tuple[str, ...] = ("vhd", "raw")
    """What its disks can be, the first if nothing is asked for."""
    qcow2: bool = False
    """Whether it has QCOW2 too on newer hosts."""
    smapi: int = 1
    """The version of its interface: 3 is probed by `SR.probe_ext`."""
    cluster: bool = False
    """Whether its hosts must be a cluster."""


RAW = ("raw",)
ISCSI = {"target": 95, "targetIQN": 96}
FILER = {"target": 115, "username": 115, "password": 115}
PLUGINS = {
    "nfs": Plugin(FILE + " SR_CACHING", "image", {"server": 102, "serverpath": 101}, qcow2=True),
    "smb": Plugin(FILE + " SR_CACHING", "image", {"server": 102}),
    "ext": Plugin(EXT, "image", {"device": 90}, shared=False, qcow2=True),
    "xfs": Plugin(EXT, "image", {"device": 90}, shared=False),
    "largeblock": Plugin(EXT, "image", {"device": 90}, shared=False),
    "file": Plugin(less(FILE, "VDI_UPDATE"), "image", {"location": 94}, shared=False),
    "zfs": Plugin(ZFS, "image", {"location": 94}, shared=False),
    "cephfs": Plugin(CLUSTER_FS, "image", {"server": 102, "serverpath": 103}),
    "glusterfs": Plugin(CLUSTER_FS, "image", {"server": 102}),
    "moosefs": Plugin(CLUSTER_FS, "image", {"masterhost": 115, "rootpath": 115}),
    "linstor": Plugin(LINSTOR, "image", {"group-name": 115, "redundancy": 115}),
    "gfs2": Plugin(SMAPI3, "image", {"provider": 115}, formats=("qcow2",), smapi=3, cluster=True),
    "lvm": Plugin(LVM, "lvm", {"device": 90}, shared=False, qcow2=True),
    "lvmoiscsi": Plugin(SHARED_BLOCK, "lvm", ISCSI | {"SCSIid": 107}, qcow2=True),
    "lvmohba": Plugin(SHARED_BLOCK, "lvm", {"SCSIid": 107}, qcow2=True),
    "lvmofcoe": Plugin(SHARED_BLOCK, "lvm", {"SCSIid": 107}),
    "iscsi": Plugin(LUN, "lun", ISCSI, formats=RAW),
    "hba": Plugin(LUN, "lun", formats=RAW),
    "rawhba": Plugin(LUN, "lun", formats=RAW),
    "netapp": Plugin(ARRAY, "array", FILER, formats=RAW),
    "equal": Plugin(ARRAY, "array", FILER | {"storagepool": 115}, formats=RAW),
    "cslg": Plugin(ARRAY, "array", FILER | {"storageSystemId": 115, "storagePoolId": 115}, formats=RAW),
}
