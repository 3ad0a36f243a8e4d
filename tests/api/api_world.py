"""A real server on a free port, a migrated SQLite catalog, and a project of its own for every test."""

import hashlib
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import requests
import uvicorn

from breezeblock.api import ApiSettings, create_app
from breezeblock.backends.contract import Capabilities
from breezeblock.catalog import identity, migrate, pools, rows, tables, types
from breezeblock.catalog.clock import later, now
from breezeblock.catalog.database import Database
from breezeblock.identity import Authenticator, make_authenticator
from breezeblock.service.core import GIB, Caller, Service, Settings

QUOTA = {
    "volumes": 1000,
    "snapshots": 1000,
    "gigabytes": 1_000_000,
    "per_volume_gigabytes": -1,
    "backups": 10,
    "backup_gigabytes": 1000,
    "groups": 10,
}


def still_service(url: str | Path) -> Service:
    """A service without a worker: what tests put into its catalog stays as it is."""
    database = Database(url if isinstance(url, str) else f"sqlite:///{url / 'catalog.db'}")
    migrate.upgrade(database)
    capabilities = Capabilities(
        storage_protocol="file",
        extend=True,
        snapshots=True,
        revert="any",
        clone=True,
        create_from_snapshot=True,
        options={"format": ("raw", "qcow2")},
    )
    with database.write() as connection:
        pools.report(
            connection,
            "disk",
            "pool",
            {
                "host": "here",
                "total_bytes": 1000 * GIB,
                "free_bytes": 900 * GIB,
                "up": True,
                "capabilities": msgspec.json.encode(capabilities).decode(),
                "max_over_subscription_ratio": 100.0,
            },
        )
    return Service(database, Settings(host="test", quota=QUOTA), lambda: None)


@dataclass
class Server:
    url: str

    def __call__(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=60, allow_redirects=False, **kwargs)


@contextmanager
def serving(
    service: Service, authenticator: Authenticator | None = None, settings: ApiSettings | None = None
) -> Iterator[Server]:
    """Run the application on a free port until the block ends."""
    authenticator = authenticator or make_authenticator(service.database, "builtin")
    app = create_app(service, authenticator, settings=settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", log_level="warning", http="httptools", access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@dataclass
class Client:
    """One user's view of the API."""

    server: Server
    token: str
    project_id: str
    user_id: str
    version: str = "3.71"
    with_project: bool = True
    session: requests.Session = field(default_factory=requests.Session)

    def at(self, version: str) -> "Client":
        return Client(
            self.server, self.token, self.project_id, self.user_id, version, self.with_project, self.session
        )

    def url(self, path: str) -> str:
        prefix = f"/v3/{self.project_id}" if self.with_project else "/v3"
        return f"{self.server.url}{prefix}{path}"

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {
            "X-Auth-Token": self.token,
            "OpenStack-API-Version": f"volume {self.version}",
            **kwargs.pop("headers", {}),
        }
        url = path if path.startswith("http") else self.url(path)
        return self.session.request(method, url, headers=headers, timeout=60, **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.call("GET", path, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        return self.call("POST", path, json=body, **kwargs)

    def put(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        return self.call("PUT", path, json=body, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> requests.Response:
        return self.call("DELETE", path, **kwargs)

    @property
    def caller(self) -> Caller:
        return Caller(project_id=self.project_id, user_id=self.user_id)


class World:
    """Makes rows without waiting for scrypt or a worker."""

    def __init__(self, database: Database, server: Server) -> None:
        self.database = database
        self.server = server
        self.project_id = self.project()

    def project(self) -> str:
        project_id = uuid.uuid4().hex
        with self.database.write() as connection:
            identity.insert_project(connection, project_id, f"project-{project_id}")
        return project_id

    def client(self, *roles: str, project_id: str | None = None) -> Client:
        project_id = project_id or self.project_id
        user_id, token = uuid.uuid4().hex, secrets.token_urlsafe(32)
        with self.database.write() as connection:
            identity.insert_user(connection, user_id, f"user-{user_id}", "scrypt$none", project_id)
            identity.set_roles(connection, user_id, project_id, roles)
            identity.insert_token(
                connection,
                hashlib.sha256(token.encode()).hexdigest(),
                user_id=user_id,
                project_id=project_id,
                issued_at=now(),
                expires_at=later(3600),
            )
        return Client(self.server, token, project_id, user_id)

    def volume(self, **values: Any) -> str:
        volume_id = str(uuid.uuid4())
        with self.database.write() as connection:
            default = types.find(connection, "__DEFAULT__")
            assert default is not None
            row = {
                "id": volume_id,
                "project_id": self.project_id,
                "user_id": "u" * 32,
                "name": "a volume",
                "virtual_bytes": GIB,
                "status": "available",
                "backend": "disk",
                "pool": "pool",
                "volume_type_id": default.id,
                "availability_zone": "nova",
                "created_at": now(),
                **values,
            }
            rows.insert(connection, tables.volumes, **row)
        return volume_id

    def snapshot(self, volume_id: str, **values: Any) -> str:
        snapshot_id = str(uuid.uuid4())
        row = {
            "id": snapshot_id,
            "volume_id": volume_id,
            "project_id": self.project_id,
            "user_id": "u" * 32,
            "name": "a snapshot",
            "virtual_bytes": GIB,
            "status": "available",
            "progress": "100%",
            "created_at": now(),
            **values,
        }
        with self.database.write() as connection:
            rows.insert(connection, tables.snapshots, **row)
        return snapshot_id

    def attachment(self, volume_id: str, **values: Any) -> str:
        attachment_id = str(uuid.uuid4())
        row = {
            "id": attachment_id,
            "volume_id": volume_id,
            "project_id": self.project_id,
            "instance_id": str(uuid.uuid4()),
            "host_name": "compute1",
            "mountpoint": "/dev/vdb",
            "status": "attached",
            "attach_mode": "rw",
            "connector": "{}",
            "connection_info": (
                '{"driver_volume_type":"nfs","data":{"export":"h:/e","name":"volume-1","format":"raw"}}'
            ),
            "created_at": now(),
            "attached_at": now(),
            **values,
        }
        with self.database.write() as connection:
            rows.insert(connection, tables.attachments, **row)
        return attachment_id

    def message(self, **values: Any) -> str:
        message_id = str(uuid.uuid4())
        row = {
            "id": message_id,
            "project_id": self.project_id,
            "request_id": f"req-{uuid.uuid4()}",
            "event_id": "VOLUME_000002",
            "user_message": "create volume: the pool is full",
            "message_level": "ERROR",
            "resource_type": "VOLUME",
            "resource_uuid": str(uuid.uuid4()),
            "created_at": now(),
            "expires_at": later(3600),
            **values,
        }
        with self.database.write() as connection:
            rows.insert(connection, tables.messages, **row)
        return message_id

    def set(self, table: str, row_id: str, **values: Any) -> None:
        with self.database.write() as connection:
            assert rows.update(connection, tables.metadata.tables[table], row_id, **values)

    def set_heartbeat(self, host: str, at: str) -> None:
        table = tables.services
        with self.database.write() as connection:
            connection.execute(table.update().where(table.c.host == host).values(heartbeat_at=at))
