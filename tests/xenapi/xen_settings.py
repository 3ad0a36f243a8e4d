"""Sections of a configuration, for the back end and for the command."""

from pathlib import Path
from typing import Any

from xen_storage import DEVICE_CONFIG
from xenserver import Simulator

SECRETS = {
    "netapp": ("password",),
    "equal": ("password",),
    "cslg": ("password",),
    "lvmoiscsi": ("chappassword",),
    "iscsi": ("chappassword", "incoming_chappassword"),
    "smb": ("password",),
    "moosefs": ("mfspassword",),
}


def section(simulator: Simulator, folder: Path, kind: str, label: str, **pool: Any) -> dict[str, Any]:
    (folder / "password").write_text("secret\n")
    (folder / "array").write_text("array-secret\n")
    config = {key: value for key, value in DEVICE_CONFIG[kind].items() if key != "password"}
    secrets = {key: str(folder / "array") for key in SECRETS.get(kind, ())}
    described = {"sr": label, "type": kind, "device_config": config, "secret_files": secrets} | pool
    return {
        "kind": "xenserver",
        "url": simulator.url,
        "password_file": str(folder / "password"),
        "certificate_sha256": simulator.fingerprint,
        "pools": {"gold": described},
    }


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(item)}' for key, item in value.items()) + "}"
    return f"'{value}'"


def configured(folder: Path, given: dict[str, Any]) -> str:
    path = folder / "breezeblock.toml"
    lines = [f"{key} = {toml(value)}" for key, value in given.items()]
    path.write_text("[backends.xen]\n" + "\n".join(lines) + "\n")
    return str(path)
