"""Versions: the documents that clients discover us by, and the microversion of each request.

OpenStack API-SIG, "Microversion Specification". `block-storage` is the service type's official name;
Cinder knows only `volume`.
"""

import re
from collections.abc import Mapping
from typing import Any

from breezeblock.api.errors import HttpError
from breezeblock.api.http import Version

MINIMUM: Version = (3, 0)
MAXIMUM: Version = (3, 71)
UPDATED = "2023-08-31T00:00:00Z"
HEADER = "openstack-api-version"
LEGACY_HEADER = "x-openstack-volume-api-version"
SERVICES = ("volume", "block-storage")

_VERSION = re.compile(r"([1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})", re.ASCII)


def text(version: Version) -> str:
    """Write a version as clients do."""
    return f"{version[0]}.{version[1]}"


def negotiate(headers: Mapping[str, str]) -> Version:
    """Return the version that a request asks for: 3.0 where it names none."""
    asked = None
    for item in headers.get(HEADER, "").split(","):
        service, _, wanted = item.strip().partition(" ")
        if service.lower() in SERVICES:
            asked = wanted.strip()
    if asked is None:
        asked = headers.get(LEGACY_HEADER)
        if asked is not None:
            asked = asked.strip()
            # Some clients repeat the service's name here too.
            service, _, rest = asked.partition(" ")
            asked = rest.strip() if service.lower() in SERVICES else asked
    if asked is None:
        return MINIMUM
    if asked == "latest":
        return MAXIMUM
    matched = _VERSION.fullmatch(asked)
    if matched is None:
        raise HttpError(
            400,
            f"API Version String '{_shown(asked)}' is of invalid format. It must be of format "
            "MajorNum.MinorNum.",
        )
    version = (int(matched[1]), int(matched[2]))
    if not MINIMUM <= version <= MAXIMUM:
        raise HttpError(
            406,
            f"Version {asked} is not supported by the API. Minimum is {text(MINIMUM)} and maximum is "
            f"{text(MAXIMUM)}.",
        )
    return version


def document(base: str) -> dict[str, Any]:
    """Return the document about our one version."""
    return {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": text(MAXIMUM),
                "min_version": text(MINIMUM),
                "updated": UPDATED,
                "links": [
                    {
                        "rel": "describedby",
                        "type": "text/html",
                        "href": "https://docs.openstack.org/api-ref/block-storage/v3/",
                    },
                    {"rel": "self", "href": f"{base}/v3/"},
                ],
                "media-types": [
                    {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
                ],
            }
        ]
    }


def _shown(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)[:64]
