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


PLUGINS = {
    "nfs": Plugin(FILE + " SR_CACHING", "vhd", {"server": 102, "serverpath": 101}),
    "smb": Plugin(FILE + " SR_CACHING", "vhd", {"server": 102}),
    "ext": Plugin(FILE + " SR_SUPPORTS_LOCAL_CACHING", "vhd", {"device": 90}, shared=False),
    "file": Plugin(FILE.replace(" VDI_UPDATE", ""), "vhd", {"location": 94}, shared=False),
    "lvm": Plugin(LVM, "lvm", {"device": 90}, shared=False),
    "lvmoiscsi": Plugin(SHARED_BLOCK, "lvm", {"target": 95, "targetIQN": 96, "SCSIid": 107}),
    "lvmohba": Plugin(SHARED_BLOCK, "lvm", {"SCSIid": 107}),
    "iscsi": Plugin(LUN, "lun", {"target": 95, "targetIQN": 96}),
    "hba": Plugin(LUN, "lun"),
    "netapp": Plugin(ARRAY, "array", {"target": 115, "username": 115, "password": 115}),
    "equal": Plugin(ARRAY, "array", {"target": 115, "username": 115, "password": 115, "storagepool": 115}),
}
