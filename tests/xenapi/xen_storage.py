"""A simulated pool as a contract suite's storage: seen through the simulator's back door."""

import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from xenserver import Simulator

from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.backends.xenserver import open_xenserver
from breezeblock.backends.xenserver_config import XenPool, XenServerConfig

MIB = 1 << 20
DEVICE_CONFIG = {
    "nfs": {"server": "nas", "serverpath": "/exports/vm"},
    "smb": {"server": "\\\\nas\\share"},
    "ext": {"device": "/dev/sdb"},
    "lvm": {"device": "/dev/sdb"},
    "lvmoiscsi": {"target": "san", "targetIQN": "iqn.2026-01.org.example:t0", "SCSIid": "36001405sim0"},
    "lvmohba": {"SCSIid": "36001405sim0"},
    "iscsi": {"target": "san", "targetIQN": "iqn.2026-01.org.example:t0"},
    "hba": {},
    "netapp": {"target": "filer", "username": "admin", "password": "x"},
    "equal": {"target": "array", "username": "admin", "password": "x", "storagepool": "default"},
    "cslg": {
        "target": "storagelink",
        "username": "admin",
        "password": "x",
        "storageSystemId": "s",
        "storagePoolId": "p",
    },
    "lvmofcoe": {"SCSIid": "36001405sim0"},
    "rawhba": {},
    "file": {"location": "/srv/disks"},
    "zfs": {"location": "/tank/disks"},
    "xfs": {"device": "/dev/sdb"},
    "largeblock": {"device": "/dev/nvme0n1"},
    "cephfs": {"server": "mon1,mon2", "serverpath": "/disks"},
    "glusterfs": {"server": "peer:/disks"},
    "moosefs": {"masterhost": "mfsmaster", "rootpath": "/disks"},
    "linstor": {"group-name": "linstor_group/thin", "redundancy": "2"},
    "gfs2": {"provider": "hba", "ScsiId": "36001405sim0"},
}


class Admin:
    """The pool as an administrator sees it: the standard library's XML-RPC, nothing of ours."""

    def __init__(self, simulator: Simulator) -> None:
        import ssl

        secure = simulator.url.startswith("https")
        context = ssl._create_unverified_context() if secure else None  # noqa: S323
        self._server = xmlrpc.client.ServerProxy(simulator.url, context=context)
        self._session = self._ask("session.login_with_password", "root", "secret", "1.0", "test")

    def _ask(self, method: str, *params: Any) -> Any:
        reply: Any = getattr(self._server, method)(*params)
        assert reply["Status"] == "Success", (method, reply)
        return reply["Value"]

    def ask(self, method: str, *params: Any) -> Any:
        return self._ask(method, self._session, *params)

    def make_sr(self, kind: str, label: str, *, shared: bool = True) -> str:
        host = self.ask("host.get_all")[0]
        ref = self.ask("SR.create", host, DEVICE_CONFIG[kind], "0", label, "", kind, "user", shared, {})
        return str(self.ask("SR.get_uuid", ref))


@dataclass
class XenStorage:
    simulator: Simulator
    folder: Path
    sr: str
    kind: str = "nfs"
    packages: tuple[str, ...] = ("breezeblock.backends.xenserver", "breezeblock.backends.xenserver_work")
    unit_bytes: int = 2 * MIB
    options: Mapping[str, str] = field(default_factory=dict)

    def config(self, **values: Any) -> XenServerConfig:
        password = self.folder / "password"
        password.write_text("secret\n")
        pools = {"gold": XenPool(sr=self.sr, type=self.kind)}
        given: dict[str, Any] = {"url": self.simulator.url, "password_file": str(password), "pools": pools}
        given["certificate_sha256"] = self.simulator.fingerprint
        return XenServerConfig(**(given | values))

    def open(self) -> Backend:
        backend = open_xenserver("xen", self.config(), self.folder)
        backend.start()
        return backend

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        asked = snapshot or volume
        return self.simulator.read(asked.locator, asked.virtual_bytes)

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        self.simulator.write(volume.locator, offset, data)

    def names(self) -> set[str]:
        return set(self.simulator.do("names"))

    def damage(self, volume: Volume) -> None:
        self.simulator.do("lose", vdi=volume.locator)


def with_pools(config: XenServerConfig, **pools: XenPool) -> XenServerConfig:
    return msgspec.structs.replace(config, pools=pools)
