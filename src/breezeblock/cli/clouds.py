"""Where the service is and who asks: clouds.yaml, or the OS_* variables of the environment.

The same sources in the same order as the other OpenStack clients have them, so that one file serves
`breezeblock`, `openstack` and scripts. Only what this command needs is read; unknown keys are left alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.errors import ConfigError

DEFAULT_CLOUD = "breezeblock"


class Cloud(msgspec.Struct, frozen=True, kw_only=True):
    """One way to reach a service. `repr` would show the password: never log one."""

    name: str
    auth_type: str = "password"
    auth_url: str = ""
    endpoint: str = ""
    """The Block Storage address; empty: taken from the identity service's catalogue."""
    username: str = ""
    password: str = ""
    project_name: str = ""
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    token: str = ""
    region_name: str = ""
    interface: str = "public"
    cacert: str = ""
    verify: bool = True


def find(name: str | None, environ: Mapping[str, str], directory: Path) -> Cloud:
    """Return the cloud that `name`, else the environment, else the nearest clouds.yaml means.

    Raises ConfigError that lists where it looked, or which clouds there are.
    """
    name = name or environ.get("OS_CLOUD") or None
    if name is None and (environ.get("OS_AUTH_URL") or environ.get("OS_ENDPOINT")):
        return _from_environment(environ)
    places = _places(environ, directory)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(
            f"none of {', '.join(map(str, places))} exists, and OS_AUTH_URL is not set",
            remedy="Set OS_CLIENT_CONFIG_FILE=DIR/clouds.yaml (quickstart writes one), or OS_* variables.",
        )
    return _from_file(path, name or DEFAULT_CLOUD, environ)


def _places(environ: Mapping[str, str], directory: Path) -> list[Path]:
    if given := environ.get("OS_CLIENT_CONFIG_FILE"):
        return [Path(given)]
    home = Path(environ.get("HOME", "/"))
    base = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [
        directory / "clouds.yaml",
        directory / "data" / "clouds.yaml",
        base / "openstack" / "clouds.yaml",
        Path("/etc/openstack/clouds.yaml"),
    ]


def _from_environment(environ: Mapping[str, str]) -> Cloud:
    names = [field for field in Cloud.__struct_fields__ if field not in {"name", "verify"}]
    values = {field: environ[f"OS_{field.upper()}"] for field in names if environ.get(f"OS_{field.upper()}")}
    insecure = environ.get("OS_INSECURE", "").lower() in {"1", "true", "yes"}
    return _checked(Cloud(name="the OS_* variables", verify=not insecure, **values))


def read(path: Path) -> dict[str, Any]:
    """Return the clouds of a clouds.yaml by name. Raises ConfigError when it cannot be read."""
    try:
        document = msgspec.yaml.decode(path.read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or "not YAML"  # a parser's message may quote a password
        raise ConfigError(f"{path} cannot be read: {reason}", remedy="Correct the file.") from None
    clouds = document.get("clouds") if isinstance(document, dict) else None
    if not isinstance(clouds, dict):
        raise ConfigError(f"{path} has no section `clouds`", remedy="Correct the file.")
    return clouds


def _from_file(path: Path, name: str, environ: Mapping[str, str]) -> Cloud:
    clouds = read(path)
    entry = clouds.get(name)
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{path} has no cloud {name!r}",
            remedy=f"Choose one with --cloud: {', '.join(sorted(map(str, clouds))) or 'there is none'}.",
        )
    auth = entry.get("auth")
    flat = {**entry, **(auth if isinstance(auth, dict) else {})}
    flat["endpoint"] = (
        flat.get("block_storage_endpoint_override")
        or flat.get("volume_endpoint_override")
        or flat.get("endpoint", "")
    )
    values: dict[str, Any] = {
        field: str(flat[field])
        for field in Cloud.__struct_fields__
        if field not in {"name", "verify"} and flat.get(field) is not None
    }
    if "password" not in values and environ.get("OS_PASSWORD"):
        values["password"] = environ["OS_PASSWORD"]
    return _checked(Cloud(name=f"{name} ({path})", verify=flat.get("verify") is not False, **values))


def _checked(cloud: Cloud) -> Cloud:
    kind = cloud.auth_type.removeprefix("v3")
    needs = {
        "password": ("auth_url", "username", "password", "project_name"),
        "token": ("auth_url", "token"),
        "admin_token": ("endpoint", "token"),
        "http_basic": ("endpoint", "username", "password"),
        "none": ("endpoint",),
    }
    if kind not in needs:
        raise ConfigError(
            f"{cloud.name}: auth_type {cloud.auth_type!r} is not known",
            remedy=f"Use one of {', '.join(sorted(needs))}.",
        )
    missing = [field for field in needs[kind] if not getattr(cloud, field)]
    if missing:
        raise ConfigError(
            f"{cloud.name}: {', '.join(missing)} not set",
            remedy=f"auth_type {kind} needs {', '.join(needs[kind])}.",
        )
    return msgspec.structs.replace(cloud, auth_type=kind)
