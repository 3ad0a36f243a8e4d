"""A kernel that can serve and mount NFS or SMB, or attach NBD: this host's own, else user-mode Linux.

`run` gives a set of in-guest test files to pytest inside that kernel and brings back what each test
did. It is every process start in there that costs, some twenty times what it costs outside.
"""

import os
import platform
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sevenzip

HERE = Path(__file__).resolve().parent
GUEST_TESTS = HERE / "guest"
INIT = HERE / "guest_init.py"
OWN = HERE.parent.parent / ".uml"
"""Where tools/kernel.sh puts a kernel that it made."""
MODULES = (Path("/usr/lib/uml/modules"), OWN / "lib" / "modules")
COMMON = {
    "linux.uml": "user-mode-linux",
    "mkfs.ext4": "e2fsprogs",
    "modprobe": "kmod",
    "qemu-img": "qemu-utils",
    "ip": "iproute2",
}
NEEDED = {
    "nfs": {
        **COMMON,
        "mount.nfs": "nfs-common",
        "rpcbind": "rpcbind",
        "rpc.nfsd": "nfs-kernel-server",
        "exportfs": "nfs-kernel-server",
    },
    "smb": {
        **COMMON,
        "mount.cifs": "cifs-utils",
        "smbd": "samba",
        "smbclient": "smbclient",
        sevenzip.PROGRAM: "7zip",
        "strace": "strace",
    },
    "nbd": {
        **COMMON,
        "mkfs.xfs": "xfsprogs",
        "mkfs.btrfs": "btrfs-progs",
        "lvm": "lvm2",
        "dmsetup": "dmsetup",
        "thin_check": "thin-provisioning-tools",
    },
}
MODULE = {"nfs": "fs/nfsd/nfsd", "smb": "fs/smb/client/cifs", "nbd": "drivers/block/nbd"}
"""Where a kernel keeps what it needs for it."""
SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:{OWN}"


class NoKernelError(Exception):
    """Nothing on this machine can serve and mount such shares; the message says what to install."""


@dataclass(frozen=True)
class Outcome:
    """What one in-guest test did."""

    file: str
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Report:
    kernel: str
    outcomes: tuple[Outcome, ...]
    output: str


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory that a guest sees as well; its /dev, /run and what lies there are its own."""
    with TemporaryDirectory(prefix="breezeblock-kernel-", dir="/var/tmp") as directory:
        yield Path(directory)


def run(
    files: Sequence[Path], scratch: Path, say: Callable[[str], None], limit_s: float, kind: str = "nfs"
) -> Report:
    """Run the test files inside, beside a server of this kind; `say` gets each line of output as it comes.

    Raises NoKernelError, or RuntimeError when the kernel or pytest ended without results.
    """
    # The devices of a host's own kernel are no playground: NBD always has its own.
    if kind != "nbd" and os.geteuid() == 0 and _host_can(kind):
        kernel, command = f"the host kernel {platform.release()}", _on_host("run", kind, scratch, files)
    else:
        kernel, command = "user-mode Linux", _in_uml(kind, scratch, files)
    say(f"in-guest tests on {kernel}: {', '.join(file.name for file in files)}")
    output = _watch(command, scratch, say, limit_s)
    status = scratch / "status"
    junit = scratch / "junit.xml"
    if not status.exists() or not junit.exists():
        raise RuntimeError(f"The {kernel} ended without results. Its last words:\n{output[-4000:]}")
    return Report(kernel, tuple(_outcomes(junit)), output)


def _host_can(kind: str) -> bool:
    """Whether this kernel serves and mounts such shares, found out by doing it in namespaces of its own."""
    try:
        tried = subprocess.run(
            _on_host("probe", kind, Path("/nonexistent"), ()), capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def _on_host(task: str, kind: str, scratch: Path, files: Sequence[Path]) -> list[str]:
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    return [*namespaces, sys.executable, str(INIT), task, kind, str(scratch), *map(str, files)]


def _in_uml(kind: str, scratch: Path, files: Sequence[Path]) -> list[str]:
    needed = NEEDED[kind].items()
    missing = {package for program, package in needed if shutil.which(program, path=SEARCH) is None}
    if not missing and not any(any(one.glob(f"*/kernel/{MODULE[kind]}.ko*")) for one in MODULES):
        missing = {"user-mode-linux"}
    if missing:
        raise NoKernelError(
            f"This kernel cannot do {kind.upper()}, and user-mode Linux lacks parts. "
            f"Install: apt-get install {' '.join(sorted(missing))}"
        )
    script = scratch / "init"
    words = " ".join(f"'{word}'" for word in (sys.executable, INIT, "uml", kind, scratch, *files))
    script.write_text(f"#!/bin/sh\nexec {words}\n")
    script.chmod(0o755)
    return [
        str(shutil.which("linux.uml", path=SEARCH)),
        *("rootfstype=hostfs", "rw", "mem=2G", f"init={script}", f"umid=breezeblock-{os.getpid()}"),
        *("con=null", "con0=fd:0,fd:1", "quiet"),
        # What the kernel does not know, it gives to the first process as its environment.
        *(f"{key}={value}" for key, value in os.environ.items() if key.startswith("BREEZEBLOCK_CHAOS_")),
    ]


def _watch(command: Sequence[str], scratch: Path, say: Callable[[str], None], limit_s: float) -> str:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=scratch,
        start_new_session=True,
        # UML keeps its memory in a file there and its control socket below HOME. The guest's processes begin
        # as clones of its own: where glibc's rseq area was, which the host writes to, is then their memory.
        env={
            **os.environ,
            "TMPDIR": "/dev/shm",
            "HOME": str(scratch),
            "GLIBC_TUNABLES": "glibc.pthread.rseq=0",
        },
    )
    overdue = threading.Timer(limit_s, lambda: os.killpg(process.pid, 9))
    overdue.start()
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(line)
            say(line)
        process.wait()
    finally:
        alive = overdue.is_alive()
        overdue.cancel()
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    if not alive:
        raise RuntimeError(f"The guest was stopped after {limit_s:.0f} s:\n" + "\n".join(lines[-60:]))
    return "\n".join(lines)


def _outcomes(junit: Path) -> list[Outcome]:
    found = []
    for case in ET.parse(junit).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        bad = [child for child in case if child.tag in {"failure", "error", "skipped"}]
        detail = "\n".join(f"{child.get('message', '')}\n{child.text or ''}" for child in bad)
        file = case.get("classname", "").rpartition(".")[2]
        found.append(Outcome(file, case.get("name", ""), not bad, detail))
    return found
