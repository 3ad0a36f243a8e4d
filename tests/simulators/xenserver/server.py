"""The HTTP side of one host."""

import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from xenserver import control, transfer, wire
from xenserver.calls import Caller, _session, dispatch, permit
from xenserver.failures import Failure, HostDiedError
from xenserver.pool import Pool
from xenserver.pool_calls import end_task
from xenserver.roles import TRANSFERS

MAX_RPC = 300 << 20
CONTENT_TYPES = {
    "raw": "application/octet-stream",
    "vhd": "application/vhd",
    "qcow2": "application/x-qemu-disk",
}


class Handler(BaseHTTPRequestHandler):
    """Requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: "HostServer"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def parse_request(self) -> bool:
        """Let go of connections to a host that is dead."""
        alive = super().parse_request()
        if self.server.host in self.server.pool.dead:
            self.close_connection = True
            return False
        return alive

    def do_POST(self) -> None:
        """Answer a call, in the protocol that its path names."""
        path = urlsplit(self.path).path
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MAX_RPC))
        try:
            if path == "/_sim":
                self.reply(200, "application/json", control.answer(self.server.pool, json.loads(body)))
            elif path in {"/jsonrpc", "/json"}:
                if not self.server.json_rpc:
                    self.reply(404, "text/html", b"<html>not found</html>", close=True)
                    return
                method, params, number, two = wire.read_json(body)
                value, failure = self.run(method, params)
                self.reply(200, "application/json", wire.json_reply(value, failure, number, two=two))
            else:
                method, params = wire.read_xml(body)
                value, failure = self.run(method, params)
                bare = method == "system.listMethods"
                self.reply(200, "text/xml", wire.xml_reply(value, failure, bare=bare))
        except HostDiedError:
            self.close_connection = True
        except (ValueError, KeyError, TypeError) as error:
            self.reply(500, "text/html", f"<html>{type(error).__name__}: {error}</html>".encode(), close=True)

    def run(self, method: str, params: list[Any]) -> tuple[Any, Failure | None]:
        """Dispatch; return a value or a failure."""
        try:
            return dispatch(self.server.pool, self.server.host, method, params), None
        except Failure as failure:
            return None, failure

    def do_GET(self) -> None:
        """Export a disk."""
        query = dict(parse_qsl(urlsplit(self.path).query))
        if urlsplit(self.path).path != "/export_raw_vdi":
            self.reply(404, "text/html", b"<html>not found</html>", close=True)
            return
        self.transfer(query, self.export)

    def do_PUT(self) -> None:
        """Import onto a disk."""
        query = dict(parse_qsl(urlsplit(self.path).query))
        if urlsplit(self.path).path != "/import_raw_vdi" or "Transfer-Encoding" in self.headers:
            self.reply(404, "text/html", b"<html>not found</html>", close=True)
            return
        self.transfer(query, self.take)

    def transfer(self, query: dict[str, str], work: Any) -> None:
        """Run a transfer under its task: 200 is said before the work, and only the task knows the end."""
        pool = self.server.pool
        caller = Caller(pool, self.server.host, task=query.get("task_id", ""))
        self.close_connection = True
        try:
            session = _session(pool, [query.get("session_id", "")], "")
            permit(pool, session, urlsplit(self.path).path, TRANSFERS)
            pool.provoke("transfer", after=False)
            work(caller, query)
            end_task(caller, {"status": "success", "result": ""})
        except Failure as failure:
            end_task(caller, {"status": "failure", "error_info": [failure.code, *failure.params]})
            if not self.headers_sent:
                self.reply(
                    404 if failure.code == "UNKNOWN_FORMAT" else 500,
                    "text/html",
                    b"<html>failed</html>",
                    close=True,
                )
        except (HostDiedError, OSError):
            end_task(caller, {"status": "failure", "error_info": ["VDI_IO_ERROR", "the connection broke"]})

    headers_sent = False

    def export(self, caller: Caller, query: dict[str, str]) -> None:
        """Send a disk."""
        row = transfer.find(caller, query["vdi"])
        where = self.elsewhere(row["SR"])
        if where:
            self.redirect(where)
            return
        engine = caller.pool.engine(row["SR"])
        form = query.get("format", "raw")
        if form == "raw":
            length, stream = row["virtual_size"], transfer.export_raw(engine, row["uuid"])
        elif form == "vhd":
            base = transfer.find(caller, query["base"])["uuid"] if "base" in query else ""
            length, stream = transfer.export_vhd(engine, row["uuid"], base)
        elif form == "qcow2" and caller.pool.settings.qcow2:
            length, stream = transfer.export_qcow2(engine, row["uuid"])
        else:
            raise Failure("UNKNOWN_FORMAT", form)
        self.headers_sent = True
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPES[form])
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Disposition", f'attachment; filename="{row["uuid"]}.{form}"')
        self.send_header("task-id", caller.task)
        self.send_header("Connection", "close")
        self.end_headers()
        for data in stream:
            caller.pool.provoke("exporting", after=False)
            self.wfile.write(data)

    def take(self, caller: Caller, query: dict[str, str]) -> None:
        """Receive onto a disk."""
        row = transfer.find(caller, query["vdi"])
        where = self.elsewhere(row["SR"])
        if where:
            self.redirect(where)
            return
        form = query.get("format", "raw")
        takers = {"raw": transfer.import_raw, "vhd": transfer.import_vhd}
        if caller.pool.settings.qcow2:
            takers["qcow2"] = transfer.import_qcow2
        if form not in takers:
            raise Failure("UNKNOWN_FORMAT", form)
        if "Content-Length" not in self.headers:
            raise Failure("INTERNAL_ERROR", "no Content-Length")
        length = int(self.headers["Content-Length"])
        self.headers_sent = True
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()
        engine = caller.pool.engine(row["SR"])
        if length:
            takers[form](caller, engine, row["uuid"], self.rfile, length)  # type: ignore[arg-type]
        caller.pool.sync(row["SR"])

    def elsewhere(self, sr: str) -> str:
        """Return the address of a host with the SR plugged, unless this one has it."""
        pool = self.server.pool
        plugged = [row["host"] for _ref, row in pool.db.all("PBD", SR=sr, currently_attached=True)]
        if self.server.host in plugged or not plugged:
            return ""
        return str(pool.db.row("host", plugged[0])["address"])

    def redirect(self, address: str) -> None:
        """Send the client to another host."""
        self.headers_sent = True
        port = self.server.server_address[1]
        self.send_response(302)
        self.send_header("Location", f"{self.server.scheme}://{address}:{port}{self.path}")
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def reply(self, status: int, kind: str, body: bytes, *, close: bool = False) -> None:
        """Send a whole answer."""
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Access-Control-Allow-Origin", "*")
        if close:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class HostServer(ThreadingHTTPServer):
    """One host of the pool."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, pool: Pool, host: str, port: int, tls: ssl.SSLContext | None, *, json_rpc: bool = True
    ) -> None:
        self.pool, self.host, self.tls, self.json_rpc = pool, host, tls, json_rpc
        self.scheme = "https" if tls else "http"
        super().__init__((pool.db.row("host", host)["address"], port), Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread."""
        if self.tls:
            request = self.tls.wrap_socket(request, server_side=True)
        try:
            Handler(request, client_address, self)
        finally:
            if self.tls:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""

    def start(self) -> None:
        """Serve on a thread of its own."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
