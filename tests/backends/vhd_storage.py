"""The storage of back ends of VHD and VHDX files, read by 7-Zip: few others read their chains right."""

from pathlib import Path

from file_storage import FileStorage

from breezeblock import images
from breezeblock.backends.contract import Snapshot, Volume
from qemu_io import QEMU_IO
from sevenzip import seven_zip

QEMU_NAMES = {"vhd": "vpc", "vhdx": "vhdx"}


class VhdStorage(FileStorage):
    by_others = True
    """Let 7-Zip read, and qemu-io write what rests on nothing. A process each time, so not for every kill."""

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        image = self._image(volume, snapshot.id if snapshot else "active")
        layers = images.chain(image, self.extension)
        ours = b"".join(images.read(image, 0, layers[0].virtual_bytes, self.extension))
        # 7-Zip takes no odd number of sectors, and no image that is longer than its parent.
        if self.by_others and len({one.virtual_bytes for one in layers}) == 1:
            assert ours == seven_zip(image)
        if snapshot is not None:  # its image grows with the volume
            assert not any(ours[snapshot.virtual_bytes :])
            return ours[: snapshot.virtual_bytes]
        return ours

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        image = self._image(volume, "active")
        if self.by_others and images.info(image, self.extension).parent is None:
            QEMU_IO.write(image, QEMU_NAMES[self.extension], offset, data)
        else:
            images.write(image, offset, [data], self.extension)

    def _below(self, image: Path) -> str:
        return images.chain(image, self.extension)[1].name
