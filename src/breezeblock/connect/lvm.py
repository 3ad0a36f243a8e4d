"""LVM's commands on exactly one device, as if this host had no other LVM.

Nothing is read from the host's configuration (`LVM_SYSTEM_DIR` is empty) and nothing is written to it; no
other device is looked at (`--devices`). Volume groups have a system ID of their own, so that the host's LVM
neither starts nor changes them. It all works with udev and without. Source: lvm(8), lvm.conf(5),
lvmsystemid(7), lvmreport(7).
"""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    CorruptError,
    NoSpaceError,
    UnavailableError,
)

_LIMIT_S = 600.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C", "LVM_SYSTEM_DIR": "", "LVM_SUPPRESS_FD_WARNINGS": "1"}
# Nodes are made and removed by LVM itself, so there is nobody to wait for; what udev has open for a moment is
# waited for when devices are removed (retry_deactivation, on by default).
_CONFIG = """
global { system_id_source="lvmlocal" use_lvmpolld=0 event_activation=0 }
local { system_id="breezeblock" }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
backup { backup=0 archive=0 }
devices { hints="none" obtain_device_list_from_udev=0 external_device_info_source="none" scan_lvs=0 }
"""
_PACKAGES = {
    "lvm": "lvm2",
    "dmsetup": "dmsetup",
    "thin_check": "thin-provisioning-tools",
    "setpriv": "util-linux",
}


def missing() -> list[str]:
    """Return what this host lacks for thin volumes, a sentence each."""
    lacks = [
        f"The program {program} is missing (package {package})."
        for program, package in _PACKAGES.items()
        if shutil.which(program, path=_PATH) is None
    ]
    if os.geteuid() != 0:
        lacks.append("Only root can use device-mapper and NBD.")
    if not Path("/sys/module/nbd").exists():
        lacks.append("The kernel's NBD driver is not loaded (modprobe nbd nbds_max=0).")
    if not Path("/sys/module/dm_thin_pool").exists() and not _loadable("dm-thin-pool"):
        lacks.append("The kernel has no thin provisioning (module dm-thin-pool).")
    return lacks


def _loadable(module: str) -> bool:
    modprobe = shutil.which("modprobe", path=_PATH)
    return modprobe is not None and _started([modprobe, "--dry-run", "--quiet", module]).returncode == 0


def run(device: str, verb: str, *arguments: str) -> str:
    """Do something with the volume group on a device, and return what was printed.

    Raises ConfigError, ConflictError for what is in use, NoSpaceError, and UnavailableError.
    """
    return _checked(["lvm", *argv(device, verb, *arguments)])


def argv(device: str, verb: str, *arguments: str) -> list[str]:
    """Return the words of a command, but for the program."""
    return [verb, "--config", _CONFIG, "--devices", device, *arguments]


def rows(device: str, verb: str, *fields: str) -> list[dict[str, str]]:
    """Return a report of `vgs` or `lvs`: its fields as text, lengths in bytes."""
    words = ("--reportformat", "json", "--units", "b", "--nosuffix", "--options", ",".join(fields))
    return read_report(run(device, verb, *words, *(("--all",) if verb == "lvs" else ())))


def read_report(text: str) -> list[dict[str, str]]:
    """Read what LVM reports as JSON. Raises UnavailableError."""
    try:
        found = msgspec.json.decode(text, type=_Report)
    except msgspec.DecodeError as error:
        raise UnavailableError(f"LVM's report cannot be read: {error}.") from error
    return [row for section in found.report for listed in section.values() for row in listed]


class _Report(msgspec.Struct, frozen=True):
    report: list[dict[str, list[dict[str, str]]]]


def remove_stack(block: str) -> None:
    """Take away all that device-mapper has on a block device (its name in /sys/block), used or not.

    What they have under way fails. For devices whose server died: LVM itself cannot read them any more.
    """
    for name in stack(Path("/sys/block"), block):
        _checked(["dmsetup", "remove", "--force", "--noudevsync", name])
        Path("/dev/mapper", name).unlink(missing_ok=True)


def stack(blocks: Path, block: str) -> list[str]:
    """Return the device-mapper names of all that lies on a block device, what is on top first."""
    found: list[str] = []
    for holder in sorted(path.name for path in blocks.glob(f"{block}/holders/*")):
        found += [name for name in stack(blocks, holder) if name not in found]
        own = (blocks / holder / "dm" / "name").read_text().strip()
        if own not in found:
            found.append(own)
    return found


def _checked(words: list[str]) -> str:
    done = _started(words)
    if done.returncode:
        raise failure(words[0] if words[0] != "lvm" else words[1], done.stderr)
    return done.stdout


def _started(words: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        # setpriv: it dies when the thread that started it does, which waits here.
        return subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_LIMIT_S,
            env=_ENVIRONMENT,
            cwd="/",
        )
    except FileNotFoundError as error:
        raise ConfigError("setpriv is not installed.", remedy="Install util-linux.") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"{words[0]} did not end within {_LIMIT_S:.0f} s and was stopped.",
            remedy="Look at the store; the work can be repeated.",
        ) from error


def failure(verb: str, complaint: str) -> BreezeblockError:
    """Return the error that a failed command's complaint tells of."""
    lines = [line.strip() for line in complaint.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("WARNING:"))[:500]
    text, low = f"{verb} failed: {said or 'it says nothing'}.", said.lower()
    if "failed to execute" in low:
        return ConfigError(text, remedy="Install lvm2, dmsetup and thin-provisioning-tools.")
    if "in use" in low or "busy" in low:
        return ConflictError(text, remedy="Unmount it, or end what uses it; then try again.")
    if "manual repair" in low:
        return CorruptError(text, remedy="See `Thin pools` in docs/backends/rest.md for how LVM repairs one.")
    if "insufficient" in low or "not enough" in low:
        return NoSpaceError(text)
    return UnavailableError(text, remedy="`dmesg` may know more; the work can be repeated.")
