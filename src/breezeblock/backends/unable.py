"""The optional verbs that only back ends of files have, refused, for the others to inherit."""

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Adopted, Found, Mend, Placement, Snapshot, Volume
from breezeblock.errors import UnsupportedError


class Unable:
    """Declares none of `adopt`, `images` and `repair`."""

    name: str

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Not offered."""
        raise UnsupportedError(f"Back end {self.name} knows no images.")

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Not offered."""
        raise UnsupportedError(f"Back end {self.name} knows no images.")

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Not offered: nobody else writes here."""
        raise UnsupportedError(f"Back end {self.name} does not take over what others wrote.")

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Not offered."""
        return self.examine(volume, reference)

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Not offered."""
        raise UnsupportedError(f"Back end {self.name} does not leave volumes to others.")

    def mends(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Mend]:
        """Have nothing to mend."""
        return []

    def mend(self, volume: Volume, snapshots: tuple[Snapshot, ...], mend: Mend, attempt: Attempt) -> None:
        """Do nothing, as there is none."""

    def quarantine(self, found: Found) -> str:
        """Not offered."""
        raise UnsupportedError(f"Back end {self.name} does not repair.")
