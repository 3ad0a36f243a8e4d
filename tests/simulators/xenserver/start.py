"""Start the simulator as a process, and talk to its back door."""

import base64
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xenserver.failures import Failure


class Simulator:
    """A running simulator."""

    def __init__(self, url: str, fingerprint: str, back_door: str) -> None:
        self.url = url
        self.fingerprint = fingerprint
        """SHA-256 of the hosts' certificate, or empty without TLS."""
        self.back_door = back_door
        parts = urlsplit(back_door)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._lock = threading.Lock()

    def do(self, name: str, **values: Any) -> Any:
        """Do something from behind (see `control`)."""
        body = json.dumps({"do": name, **values}).encode()
        with self._lock:
            try:
                self._connection.request("POST", "/_sim", body)
                answer = json.loads(self._connection.getresponse().read())
            except (OSError, http.client.HTTPException):
                self._connection.close()  # the next call makes it anew
                raise
        if "failure" in answer:
            raise Failure(*answer["failure"])
        return answer["result"]

    def read(self, vdi: str, length: int, offset: int = 0) -> bytes:
        """Return bytes of a disk, as a guest reads them."""
        return base64.b64decode(self.do("read", vdi=vdi, offset=offset, length=length))

    def write(self, vdi: str, offset: int, data: bytes) -> None:
        """Write to a disk, as a guest does."""
        self.do("write", vdi=vdi, offset=offset, data=base64.b64encode(data).decode())


@contextmanager
def simulated(*options: str) -> Iterator[Simulator]:
    """Run a simulator with the options of its command line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xenserver", "--with-parent", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "the simulator did not start"
        yield Simulator(**json.loads(line))
    finally:
        process.kill()
        process.wait()
