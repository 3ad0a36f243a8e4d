"""The password in every byte that the service writes and every program that it starts: only where it must be.

strace is the judge. It tells each write with the file that it goes to, and each program with its arguments
and its environment, of the service and of all that it starts.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from samba_server import PASSWORD, ROOT, SERVER, USER

from breezeblock import vault
from breezeblock.shares import mounts

WRITES = "write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg"
TYPED = "typed-into-the-list"


def test_the_password_is_only_where_it_must_be(tmp_path: Path) -> None:
    state = tmp_path / "state"
    vault.at(state).set("server", PASSWORD)
    SERVER.share("listed")
    shares = tmp_path / "shares"
    shares.write_text(
        f"//127.0.0.1/volumes -o username={USER},secret=server,seal\n"
        f"//127.0.0.1/listed -o username={USER},password={TYPED}\n"
    )
    shares.chmod(0o600)
    config = tmp_path / "breezeblock.toml"
    config.write_text(f"""
[service]
state_dir = "{state}"
[database]
url = "sqlite:///{state}/catalog.db"
[auth]
mode = "none"
[logging]
level = "debug"
[backends.filer]
kind = "smb"
shares_file = "{shares}"
mount_attempts = 1
""")
    trace, log = tmp_path / "trace", tmp_path / "log"
    strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-s",
        "1000000",
        "-e",
        f"trace=execve,{WRITES}",
        "-v",
        "-o",
        str(trace),
    ]
    serve = [sys.executable, "-m", "breezeblock", "serve", "--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen([*strace, *serve], stdout=output, stderr=output, env=dict(os.environ))
    try:
        pools = until_up(process, log)
        assert pools["//127.0.0.1/volumes"]
        assert not pools["//127.0.0.1/listed"], "its password is wrong: that is told, but not what it is"
        ask("/types", {"volume_type": {"name": "any"}})
        made = ask("/volumes", {"volume": {"size": 1, "name": "a", "volume_type": "any"}})["volume"]
        until_status(made["id"])
        attachment = {"attachment": {"volume_uuid": made["id"], "connector": {"host": "h"}}}
        told = ask("/attachments", attachment, version="3.27")["attachment"]["connection_info"]
        assert told["driver_volume_type"] == "smbfs"
        assert told["options"] == f"-o username={USER},seal,nobrl"
    finally:
        process.send_signal(signal.SIGTERM)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        process.wait(60)
    judge(trace.read_text(errors="replace"), tmp_path, shares)
    for entry in mounts.table():
        if entry.mount_point.startswith(str(tmp_path)):
            subprocess.run(["umount", "-l", entry.mount_point], check=True)


def judge(text: str, directory: Path, shares: Path) -> None:
    quoted = [json.dumps(one)[1:-1] for one in (PASSWORD, TYPED)]
    lines = [line for line in text.splitlines() if any(one in line for one in quoted)]
    assert "mount.cifs" in text
    assert "memfd:credentials" in text
    assert lines, "the password must reach mount.cifs somehow"
    wrong = [line[:300] for line in lines if "memfd:credentials" not in line and not by_socket(line)]
    assert not wrong, "\n".join(wrong)
    for path in directory.rglob("*"):
        if path.is_file() and path not in {shares, directory / "trace"} and "/mnt/" not in str(path):
            content = path.read_bytes()
            assert PASSWORD.encode() not in content, path
            assert TYPED.encode() not in content, path
    started = len(re.findall(r"execve\(", text))
    print(f"\n{len(text.splitlines())} writes and {started} programs looked at, {len(lines)} hold a password")


def by_socket(line: str) -> bool:
    """A helper process is told its own share over a nameless pair of sockets, which lies nowhere."""
    return re.search(r"(sendto|sendmsg|write)\(\d+<(UNIX|socket):", line) is not None and TYPED in line


def until_up(process: "subprocess.Popen[bytes]", log: Path) -> dict[str, bool]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            pools = ask("/scheduler-stats/get_pools?detail=true")["pools"]
        except OSError:
            time.sleep(0.2)
            continue
        found = {
            pool["name"].partition("#")[2]: pool["capabilities"].get("backend_state") == "up"
            for pool in pools
        }
        if found.get("//127.0.0.1/volumes"):
            return found
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def until_status(volume_id: str) -> None:
    end = time.monotonic() + 120
    while (status := ask(f"/volumes/{volume_id}")["volume"]["status"]) != "available":
        assert status == "creating", status
        assert time.monotonic() < end
        time.sleep(0.2)
    assert (ROOT / "volumes" / f"volume-{volume_id}.vhdx").exists()


def ask(path: str, body: object = None, *, version: str = "3.70") -> Any:
    headers = {
        "X-Auth-Token": "admin:demo",
        "Content-Type": "application/json",
        "OpenStack-API-Version": f"volume {version}",
    }
    data = None if body is None else json.dumps(body).encode()
    connection = HTTPConnection("127.0.0.1", 8776, timeout=30)
    connection.request("GET" if data is None else "POST", f"/v3/demo{path}", data, headers)
    reply = connection.getresponse()
    answer = reply.read()
    assert reply.status < 300, (path, reply.status, answer)
    return json.loads(answer)
