"""The first process inside: makes a small server out of this kernel, then runs pytest, then powers off.

Run as `guest_init.py uml|run|probe nfs|smb|nbd SCRATCH FILE...` by kernel.py; never by hand on a machine's
own name spaces, whose mounts it would change. Everything it writes is in tmpfs, except for the results in
SCRATCH.
"""

import ctypes
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

_POWER_OFF = 0x4321FEDC  # reboot(2); a small system has no program for it
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
MODULES = {
    "nfs": ("nfsd", "nfsv3", "nfsv4"),
    "smb": ("cifs",),
    "nbd": ("nbd", "xfs", "btrfs", "dm-thin-pool"),
}
DEBIANS = Path("/usr/lib/uml/modules")
OWN = Path(__file__).resolve().parents[2] / ".uml" / "lib" / "modules"
ROOT = Path("/run/nfsroot")
"""What the server takes for its root, so that NFS 3 and 4 know an export by the same path."""


def sh(*argv: str) -> None:
    # A child that is a daemon must not hold on to our output.
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")


def base_system(kind: str) -> None:
    """What an init system would have done before."""
    sh("mount", "-t", "proc", "proc", "/proc")
    sh("mount", "-t", "sysfs", "sysfs", "/sys")
    sh("mount", "-t", "tmpfs", "tmpfs", "/run")
    # Modules lie elsewhere than modprobe looks, and the kernel itself calls modprobe too.
    Path("/run/modules/lib/modules").mkdir(parents=True)
    release = platform.release()
    there = [one / release for one in (DEBIANS, OWN) if (one / release).is_dir()]
    Path("/run/modules/lib/modules", release).symlink_to(there[0])
    modprobe = Path("/run/modprobe")
    modprobe.write_text('#!/bin/sh\nexec /sbin/modprobe -d /run/modules "$@"\n')
    modprobe.chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(str(modprobe))
    sh(str(modprobe), "-a", "loop", "ext4", *MODULES[kind])
    if kind == "nfs":
        # NFS 3 locks are refused for a while after the server's start, in case somebody held some before.
        Path("/proc/sys/fs/nfs/nlm_grace_period").write_text("1")


def nothing() -> None:
    """Serve nothing: the tests start their own servers on loopback."""
    sh("ip", "link", "set", "lo", "up")
    Path("/run/tmp").mkdir()


def samba() -> None:
    """Serve SMB on loopback."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "guest"))
    import samba_server

    sh("ip", "link", "set", "lo", "up")
    Path("/run/tmp").mkdir()
    samba_server.SERVER.set_up()
    samba_server.SERVER.start()


def nfs() -> None:
    """Export one ext4 file system over NFS 3 to 4.2 on loopback, with and without root squashing."""
    sh("ip", "link", "set", "lo", "up")
    sh("mount", "-t", "tmpfs", "tmpfs", "/var/lib/nfs")
    for directory in ("/run/tmp", "/run/rpcbind", "/var/lib/nfs/sm", "/var/lib/nfs/v4recovery", str(ROOT)):
        Path(directory).mkdir(parents=True)
    for name in ("etab", "rmtab", "xtab", "state"):
        Path("/var/lib/nfs", name).touch()
    with Path("/run/disk").open("wb") as disk:
        disk.truncate(8 << 30)
    sh("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1", "/run/disk")
    sh("mount", "-o", "loop,noatime", "/run/disk", str(ROOT))
    (ROOT / "export").mkdir()
    squashed = ROOT / "squashed"
    squashed.mkdir()
    os.chown(squashed, 65534, 65534)
    sh("mount", "-t", "tmpfs", "tmpfs", "/etc/nfs.conf.d")
    Path("/etc/nfs.conf.d/test.conf").write_text(f"[exports]\nrootdir={ROOT}\n")
    sh("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    sh("rpcbind", "-w")
    options = "rw,insecure,no_subtree_check,sec=sys"
    sh("exportfs", "-o", f"{options},fsid=1,no_root_squash", "*:/export")
    sh("exportfs", "-o", f"{options},fsid=2,root_squash", "*:/squashed")
    sh("rpc.statd", "--no-notify")
    # No grace: nothing held locks before this kernel was booted.
    sh("rpc.nfsd", "-G", "10", "-L", "10", "4")
    Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")
    sh("rpc.mountd")


def probe(kind: str) -> None:
    SERVERS[kind]()
    if kind == "smb":
        import samba_server

        options = f"username={samba_server.OTHER},password={samba_server.OTHER_PASSWORD}"
        sh("mount.cifs", "//127.0.0.1/volumes", "/mnt", "-o", options)
        sh("umount", "/mnt")
        return
    for version in ("3", "4.2"):
        sh("mount", "-t", "nfs", "-o", f"vers={version}", "127.0.0.1:/export", "/mnt")
        sh("umount", "/mnt")


SERVERS = {"nfs": nfs, "smb": samba, "nbd": nothing}


def run_tests(scratch: Path, files: list[str]) -> None:
    import pytest  # after the mounts, which decide what it sees

    os.environ["TMPDIR"] = "/run/tmp"
    os.environ["BREEZEBLOCK_SCRATCH"] = str(scratch)
    directory = str(Path(files[0]).parent)
    tests = Path(__file__).resolve().parent.parent
    paths = [tests, tests / "backends", tests / "objects", tests / "uml" / "nbd_guest"]
    options = ["-q", "-s", "--color=no", "-rf", "--durations=3", "--tb=short", "-p", "no:cacheprovider"]
    options += ["-o", "python_files=guest_*.py", "-o", f"pythonpath={' '.join(map(str, paths))}"]
    places = [f"--confcutdir={directory}", "--basetemp=/run/tmp/pytest", f"--junitxml={scratch}/junit.xml"]
    status = pytest.main([*options, *places, *files])
    (scratch / "status").write_text(str(int(status)))


def main() -> None:
    task, kind, scratch, *files = sys.argv[1:]
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{PATH}"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    started = time.monotonic()
    try:
        if task == "uml":
            base_system(kind)
        else:
            sh("mount", "-t", "tmpfs", "tmpfs", "/run")
        if task == "probe":
            probe(kind)
            return
        SERVERS[kind]()
        print(
            f"{kind} ready after {time.monotonic() - started:.1f} s on Linux {platform.release()}",
            flush=True,
        )
        run_tests(Path(scratch), files)
    except BaseException:
        traceback.print_exc()
        if task != "uml":
            raise
    finally:
        sys.stdout.flush()
        if task == "uml":
            os.sync()
            ctypes.CDLL(None).reboot(_POWER_OFF)
            time.sleep(60)


if __name__ == "__main__":
    main()
