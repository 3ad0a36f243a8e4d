"""Our own CDMI server as a process, which is how operators run it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "pool", "an opaque word"


@contextmanager
def cdmi_server(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve a directory; give the URL."""
    command = [sys.executable, "-m", "breezeblock", "cdmi", "serve", str(directory), "--user", USER]
    environment = os.environ | {"BREEZEBLOCK_CDMI_PASSWORD": PASSWORD, "COLUMNS": "400"}
    process = subprocess.Popen(
        [*command, "--port", str(port)], stderr=subprocess.PIPE, env=environment, text=True
    )
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found, "the server says where it is"
        yield found[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(30)
