"""How the files of a volume are called: as Cinder's remote-file drivers call them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from breezeblock.errors import InvalidInputError

Kind = Literal["volume", "overlay", "info", "intent"]
_BESIDE: tuple[Kind, ...] = ("info", "intent")
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_IS_UUID = re.compile(_UUID + r"\Z")
_IMAGE = re.compile(rf"volume-({_UUID})(?:\.({_UUID}))?\Z")


@dataclass(frozen=True, slots=True)
class Naming:
    """The names that one back end gives, and the mode that its new files get.

    With no extension (NFS): `volume-<id>`, `volume-<id>.<snapshot id>`, `volume-<id>.info`. With one
    (SMB, where Windows trusts extensions): `volume-<id>.vhdx`, `volume-<id>.<snapshot id>.vhdx`,
    `volume-<id>.vhdx.info`.
    """

    extension: str = ""
    """Without the dot."""
    mode: int = 0o660
    extensions: tuple[str, ...] = ()
    """The formats of volumes that have theirs as the extension of all their files."""

    def of_format(self, image_format: str) -> "Naming":
        """Name a volume whose first image has this format."""
        if not self.extensions:
            return self
        return replace(self, extension=image_format if image_format in self.extensions else "")

    def like(self, name: str) -> "Naming":
        """Name what belongs to the same volume as a file of this name."""
        stem = name
        for ending in (*_BESIDE, "clones"):
            stem = stem.removesuffix(f".{ending}")
        return self.of_format(stem.rpartition(".")[2])

    def variants(self) -> tuple["Naming", ...]:
        """Return every way in which a volume may be named."""
        return tuple(self.of_format(one) for one in ("", *self.extensions)) if self.extensions else (self,)

    def volume(self, volume_id: str) -> str:
        """Name the image that the volume began with."""
        return f"volume-{checked(volume_id)}{self._suffix}"

    def overlay(self, volume_id: str, snapshot_id: str) -> str:
        """Name the image made when the snapshot was taken: it holds what was written since."""
        return f"volume-{checked(volume_id)}.{checked(snapshot_id)}{self._suffix}"

    def info(self, volume_id: str) -> str:
        """Name the file that maps snapshots to overlays."""
        return self.volume(volume_id) + ".info"

    def intent(self, volume_id: str) -> str:
        """Name the journal of an edit that touches several files; it exists only during one."""
        return self.volume(volume_id) + ".intent"

    def users(self, volume_id: str) -> str:
        """Name the directory that holds a name for each clone that rests on the volume's images."""
        return self.volume(volume_id) + ".clones"

    @property
    def _suffix(self) -> str:
        return f".{self.extension}" if self.extension else ""

    def parse(self, name: str) -> tuple[str, Kind, str | None] | None:
        """Return (volume id, kind, snapshot id) of a name that we would give, None for any other."""
        stem: str = name
        kind: Kind | None = None
        for ending in _BESIDE:
            if name.endswith(f".{ending}"):
                stem, kind = name.removesuffix(f".{ending}"), ending
        match = _IMAGE.match(stem.removesuffix(self._suffix)) if stem.endswith(self._suffix) else None
        if match is None or (kind and match[2]):
            return None
        return match[1], kind or ("overlay" if match[2] else "volume"), match[2]

    def owner(self, name: str) -> str | None:
        """Return the id of the volume, of any format, whose image may be called so; None if none may."""
        parsed = self.like(name).parse(name)
        return parsed[0] if parsed is not None and parsed[1] in {"volume", "overlay"} else None

    def is_image(self, volume_id: str, name: str) -> bool:
        """Tell whether an image of this volume may be called so."""
        parsed = self.parse(name)
        return parsed is not None and parsed[:2] in {(volume_id, "volume"), (volume_id, "overlay")}

    def of_volume(self, volume_id: str, names: Iterable[str]) -> list[tuple[str, Kind]]:
        """Pick this volume's files out of a directory's names."""
        start = f"volume-{checked(volume_id)}"
        parsed = ((name, self.parse(name)) for name in names if name.startswith(start))
        return [(name, found[1]) for name, found in parsed if found]


def is_id(text: str) -> bool:
    """Tell whether this is an RFC 4122 id in lower case."""
    return _IS_UUID.match(text) is not None


def checked(text: str) -> str:
    """Return the id, or raise InvalidInputError: only an id may become part of a file name."""
    if not is_id(text):
        raise InvalidInputError(f"{text[:80]!a} is no RFC 4122 id in lower case.")
    return text
