"""A real Samba server inside the guest: configured, started, killed and asked here."""

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HOME = Path("/run/smb")
CONFIG = HOME / "smb.conf"
ROOT = Path("/run/smbroot")
"""An ext4 file system of its own; each share is a directory of it."""
USER, PASSWORD = "root", "p,ass 'w\"rd%3"
"""Of those that exist here this user may read everything on the server's side, too."""
OTHER, OTHER_PASSWORD = "daemon", "other-password"

GLOBAL = f"""[global]
server role = standalone server
workgroup = BREEZE
disable netbios = yes
smb ports = 445
interfaces = lo
bind interfaces only = yes
server min protocol = SMB2_10
passdb backend = tdbsam
map to guest = bad user
load printers = no
log file = {HOME}/log
log level = 0
private dir = {HOME}/private
lock directory = {HOME}/lock
state directory = {HOME}/state
cache directory = {HOME}/cache
pid directory = {HOME}/pid
ncalrpc dir = {HOME}/ncalrpc
include = {HOME}/shares.conf
"""


def sh(*argv: str, said: str = "") -> str:
    done = subprocess.run(argv, input=said, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Samba:
    """One smbd, with as many shares as tests like."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def set_up(self) -> None:
        """Make the file system, the users and the configuration; needs root in name spaces of our own."""
        for name in ("private", "lock", "state", "cache", "pid", "ncalrpc"):
            (HOME / name).mkdir(parents=True)
        ROOT.mkdir()
        with Path("/run/smbdisk").open("wb") as disk:
            disk.truncate(8 << 30)
        sh("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1", "/run/smbdisk")
        sh("mount", "-o", "loop,noatime", "/run/smbdisk", str(ROOT))
        (ROOT / "lost+found").rmdir()
        (HOME / "shares.conf").touch()
        CONFIG.write_text(GLOBAL)
        self.share("volumes")
        self.user(USER, PASSWORD)
        self.user(OTHER, OTHER_PASSWORD)

    def user(self, name: str, password: str) -> None:
        sh("smbpasswd", "-c", str(CONFIG), "-s", "-a", name, said=f"{password}\n{password}\n")

    def password_age(self, seconds: int) -> None:
        """Let passwords older than that be expired; -1 for never."""
        said = str(seconds % (1 << 32))
        sh("pdbedit", "-s", str(CONFIG), "-P", "maximum password age", "-C", said)

    def share(self, name: str, path: Path | None = None, **options: str) -> Path:
        """Add a share, or change it; a running server learns it at once."""
        directory = path or ROOT / name
        directory.mkdir(exist_ok=True)
        said = {
            "path": str(directory),
            "read only": "no",
            **{k.replace("_", " "): v for k, v in options.items()},
        }
        one = HOME / f"share-{name}.conf"
        one.write_text(f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items()))
        self._reload()
        return directory

    def remove(self, name: str) -> None:
        (HOME / f"share-{name}.conf").unlink()
        self._reload(close=name)

    def _reload(self, close: str = "") -> None:
        parts = sorted(HOME.glob("share-*.conf"))
        (HOME / "shares.conf").write_text("".join(f"include = {part}\n" for part in parts))
        if self._process is not None:
            sh("smbcontrol", "-s", str(CONFIG), "all", "reload-config")
            if close:
                sh("smbcontrol", "-s", str(CONFIG), "all", "close-share", close)

    def start(self) -> None:
        assert self._process is None
        self._process = subprocess.Popen(
            ["smbd", "--foreground", "-s", str(CONFIG)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 30
        while not self.answers():
            assert self._process.poll() is None, (HOME / "log").read_text()[-2000:]
            assert time.monotonic() < end, "smbd does not come up"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it without warning, with every connection's own process."""
        assert self._process is not None
        pid = self._process.pid
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for one in (pid, *children):
            with suppress(ProcessLookupError):
                os.kill(one, 9)
        self._process.wait()
        self._process = None

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", 445), 1):
            return True
        return False

    def status(self) -> dict[str, Any]:
        """Return what the server says of its sessions."""
        found: dict[str, Any] = json.loads(sh("smbstatus", "-s", str(CONFIG), "--json"))
        return found


SERVER = Samba()
"""The one that was started before the tests."""
