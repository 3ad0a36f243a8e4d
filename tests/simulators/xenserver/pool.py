"""The pool: hosts, users, sessions, SRs with their engines, the garbage collector, and faults to provoke."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenserver.database import Database, Row, now
from xenserver.engines import ArrayEngine, Engine, LunEngine, LvmEngine, Node
from xenserver.failures import Failure, HostDiedError
from xenserver.fields import NULL
from xenserver.image_engine import ImageEngine
from xenserver.plugins import PLUGINS, Plugin
from xenserver.roles import ROLES

GIB = 1 << 30


@dataclass
class Fault:
    """Something that goes wrong the next times a method is called."""

    method: str
    code: str = ""
    params: list[str] = field(default_factory=list)
    times: int = 1
    after: bool = False
    """Fail when the work is done, not before."""
    die: bool = False
    """Close the connection without an answer."""
    delay_s: float = 0.0


@dataclass
class Settings:
    """What a simulator is started with."""

    users: dict[str, tuple[str, str]] = field(
        default_factory=lambda: {role: ("secret", role) for role in ROLES} | {"root": ("secret", ROLES[-1])}
    )
    """Name to password and role; besides root there is one for each role, called as that."""
    hosts: int = 2
    capacity: int = 1 << 40
    luns: list[int] = field(default_factory=lambda: [1 * GIB, 2 * GIB, 4 * GIB])
    coalesce_delay_s: float = 0.2
    session_timeout_s: float = 86400.0
    extra_features: str = ""
    lacking: list[str] = field(default_factory=list)
    """Features that no driver has."""
    round_bytes: int = 0
    """Sizes are rounded up to this; 0: as the type of SR does."""
    qcow2: bool = False
    """Whether drivers that have QCOW2 on newer hosts have it."""
    without: list[str] = field(default_factory=list)
    """Types of SR that these hosts have no driver for."""
    cluster: bool = False
    """Whether the hosts are a cluster, which some types need."""
    folder: Path | None = None


class Pool:
    """One pool of hosts with everything in it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.folder or Path(tempfile.mkdtemp(prefix="xenserver-"))
        self.db = Database()
        self.engines: dict[str, Engine] = {}
        self.storage_lock = threading.RLock()
        self.faults: list[Fault] = []
        self.calls: dict[str, int] = {}
        self.dead: set[str] = set()
        self.last_used: dict[str, float] = {}
        self.nbd: dict[str, tuple[str, int]] = {}
        """Host to where its NBD server listens; empty: no network is marked for NBD."""
        self.certificate = ""
        self.collect_at = 0.0
        self.hosts = [self._host(number) for number in range(settings.hosts)]
        self.ref = self.db.add(
            "pool",
            name_label="simulated",
            master=self.hosts[0],
            other_config={},
            tls_verification_enabled=True,
        )
        self.db.computed["VDI"] = self._vdi_computed
        self.db.computed["SR"] = self._sr_computed
        self.db.computed["VBD"] = lambda ref, row: {
            "allowed_operations": [
                "attach",
                "unpause",
                *(["unplug", "unplug_force"] if row["currently_attached"] else ["plug"]),
            ]
        }
        self.plugins = {name: plugin for name, plugin in PLUGINS.items() if name not in settings.without}
        for name, plugin in self.plugins.items():
            features = {}
            for item in f"{plugin.features} {settings.extra_features}".split():
                feature, _, version = item.partition("/")
                if feature not in settings.lacking:
                    features[feature] = int(version or 1)
            self.db.add(
                "SM",
                type=name,
                name_label=name,
                vendor="Simulated",
                features=features,
                driver_filename=f"{name}SR",
                capabilities=list(features),
                version="1.0",
                required_api_version="1.1",
                supported_image_formats=list(self.formats(plugin)),
                required_cluster_stack=["corosync"] if plugin.cluster else [],
                configuration=dict.fromkeys(plugin.needs, "required"),
            )

    def formats(self, plugin: Plugin) -> tuple[str, ...]:
        """Return what a plug-in's disks can be, the first if nothing is asked for."""
        return (*plugin.formats, "qcow2") if plugin.qcow2 and self.settings.qcow2 else plugin.formats

    def _host(self, number: int) -> str:
        host = self.db.add(
            "host",
            name_label=f"host{number + 1}",
            hostname=f"host{number + 1}",
            address=f"127.0.0.{number + 1}",
            enabled=True,
            API_version_major=2,
            API_version_minor=21,
            API_version_vendor="Simulated",
            software_version={"product_brand": "Simulated", "xapi": "26.1", "product_version": "8.3.0"},
            metrics=self.db.add("host_metrics", live=True),
        )
        dom0 = self.db.add(
            "VM",
            name_label=f"Control domain on host{number + 1}",
            is_control_domain=True,
            power_state="Running",
            resident_on=host,
            domid=0,
        )
        self.db.set("host", host, control_domain=dom0, resident_VMs=[dom0])
        return host

    @property
    def master(self) -> str:
        """Return the master's reference."""
        return str(self.db.row("pool", self.ref)["master"])

    def features(self, sr: str) -> dict[str, int]:
        """Return the features of an SR's plug-in."""
        kind = self.db.row("SR", sr)["type"]
        return dict(self.db.one("SM", type=kind)[1]["features"])

    def engine(self, sr: str) -> Engine:
        """Return the engine of an SR that is plugged somewhere."""
        row = self.db.row("SR", sr)
        if not row["PBDs"]:
            raise Failure("SR_NO_PBDS", sr)
        if not any(self.db.row("PBD", pbd)["currently_attached"] for pbd in row["PBDs"]):
            raise Failure("SR_NOT_ATTACHED", sr)
        return self.engines[row["uuid"]]

    def make_engine(self, sr_uuid: str, kind: str) -> Engine:
        """Return the storage of an SR: it outlives the SR's being forgotten."""
        if sr_uuid not in self.engines:
            folder, capacity = self.folder / sr_uuid, self.settings.capacity
            plugin = self.plugins[kind]
            makers: dict[str, Callable[[], Engine]] = {
                "image": lambda: ImageEngine(folder, capacity),
                "lvm": lambda: LvmEngine(folder, capacity),
                "array": lambda: ArrayEngine(folder, capacity),
                "lun": lambda: LunEngine(folder, self.settings.luns),
            }
            engine = self.engines[sr_uuid] = makers[plugin.engine]()
            engine.formats = self.formats(plugin)
            engine.round_bytes = self.settings.round_bytes or engine.round_bytes
        return self.engines[sr_uuid]

    def sync(self, sr: str, fresh: Node | None = None, **values: Any) -> str:
        """Bring the rows of an SR's disks in line with its engine; return the new disk's, if there is one."""
        row = self.db.row("SR", sr)
        engine = self.engines[row["uuid"]]
        known = {self.db.row("VDI", ref)["uuid"]: ref for ref in list(row["VDIs"])}
        made = NULL
        for uuid, ref in known.items():
            if uuid not in engine.nodes:
                self.db.remove("VDI", ref)
        for node in list(engine.nodes.values()):
            ref = known.get(node.uuid, "")
            if not ref:
                label = "" if isinstance(engine, LunEngine) else "base copy"
                ref = self.db.add(
                    "VDI",
                    uuid=node.uuid,
                    SR=sr,
                    location=node.uuid,
                    managed=False,
                    name_label=label,
                    type="user",
                    virtual_size=node.virtual_bytes,
                )
            if node is fresh:
                made = ref
                self.db.set("VDI", ref, **({"managed": True, "name_label": ""} | values))
            config = dict(self.db.row("VDI", ref)["sm_config"])
            config.pop("vhd-parent", None)
            if node.parent:
                config["vhd-parent"] = node.parent.uuid
            if node.format != "raw":
                config["image-format"] = node.format
            self.db.set(
                "VDI",
                ref,
                sm_config=config,
                virtual_size=node.virtual_bytes,
                physical_utilisation=engine.cost(node),
            )
        self.measure(sr)
        if engine.lazy:
            self.collect_at = time.monotonic() + self.settings.coalesce_delay_s
        return made

    def measure(self, sr: str) -> None:
        """Bring an SR's own numbers up to date."""
        row = self.db.row("SR", sr)
        engine = self.engines[row["uuid"]]
        disks = (self.db.row("VDI", ref) for ref in row["VDIs"])
        self.db.set(
            "SR",
            sr,
            physical_size=engine.capacity,
            physical_utilisation=engine.used(),
            virtual_allocation=sum(disk["virtual_size"] for disk in disks if disk["managed"]),
        )

    def collect(self) -> None:
        """Do all that the garbage collectors have left."""
        with self.storage_lock:
            for sr, row in list(self.db.all("SR")):
                switches = row["other_config"]
                engine = self.engines.get(row["uuid"])
                plugged = any(self.db.row("PBD", pbd)["currently_attached"] for pbd in row["PBDs"])
                if (
                    engine
                    and plugged
                    and switches.get("gc") != "false"
                    and switches.get("coalesce") != "false"
                ):
                    if not engine.collect(leaves=switches.get("leaf-coalesce") != "false"):
                        self._tell_of_no_space(row["uuid"])
                    self.sync(sr)
            self.collect_at = 0.0

    def _tell_of_no_space(self, sr_uuid: str) -> None:
        if not any(self.db.all("message", name="SM_GC_NO_SPACE", obj_uuid=sr_uuid)):
            values = {"name": "SM_GC_NO_SPACE", "priority": 3, "cls": "SR", "obj_uuid": sr_uuid}
            self.db.insert("message", values)

    def collect_for_ever(self) -> None:
        """Run the garbage collector when its time has come."""
        while True:
            time.sleep(0.05)
            if self.collect_at and time.monotonic() >= self.collect_at:
                self.collect()

    @contextmanager
    def working(self, cls: str, ref: str, operation: str, task: str) -> Iterator[None]:
        """Show that an object is being worked on; refuse if something else is."""
        key = task or f"OpaqueRef:call-{threading.get_ident()}"
        with self.db.lock:
            busy = self.db.row(cls, ref)["current_operations"]
            if busy and set(busy.values()) != {"copy"}:
                other, what = next(iter(busy.items()))
                raise Failure("OTHER_OPERATION_IN_PROGRESS", cls, ref, what, other)
            self.db.set(cls, ref, current_operations=busy | {key: operation})
        try:
            yield
        finally:
            with self.db.lock:
                if ref in self.db.tables[cls]:
                    left = dict(self.db.row(cls, ref)["current_operations"])
                    left.pop(key, None)
                    self.db.set(cls, ref, current_operations=left)

    def provoke(self, method: str, *, after: bool) -> None:
        """Fail as was asked for."""
        for fault in self.faults:
            if fault.method == method and fault.times and fault.after == after:
                fault.times -= 1
                time.sleep(fault.delay_s)
                if fault.die:
                    raise HostDiedError
                if fault.code:
                    raise Failure(fault.code, *fault.params)

    def _vdi_computed(self, _ref: str, row: Row) -> Row:
        return {"allowed_operations": self.allowed(row)}

    def allowed(self, row: Row) -> list[str]:
        """Return what may be done to a disk now."""
        if not row["managed"] or set(row["current_operations"].values()) - {"copy"}:
            return []
        features = self.features(row["SR"])
        needs = {
            "snapshot": "VDI_SNAPSHOT",
            "resize": "VDI_RESIZE",
            "resize_online": "VDI_RESIZE_ONLINE",
            "destroy": "VDI_DELETE",
            "revert_to": "VDI_REVERT",
            "enable_cbt": "VDI_CONFIG_CBT",
        }
        able = ["clone", "copy", "forget", "update", *(op for op, need in needs.items() if need in features)]
        if row["current_operations"]:
            return ["copy", "clone"]
        attached = any(self.db.row("VBD", vbd)["currently_attached"] for vbd in row["VBDs"])
        if attached:
            able = [op for op in able if op in {"snapshot", "clone", "resize_online", "enable_cbt"}]
        return able

    def _sr_computed(self, _ref: str, row: Row) -> Row:
        attached = any(self.db.row("PBD", pbd)["currently_attached"] for pbd in row["PBDs"])
        busy = bool(row["current_operations"])
        able = (
            []
            if busy
            else ["scan", "update", "vdi_create", "unplug", "plug"]
            if attached
            else ["destroy", "forget", "plug"]
        )
        return {"allowed_operations": able}


__all__ = ["Fault", "Pool", "Settings", "now"]
