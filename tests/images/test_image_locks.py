"""QEMU's image locks, held by QEMU itself and by us."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breezeblock import images
from breezeblock.errors import UnavailableError
from breezeblock.images import locks
from breezeblock.images.file import opened

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    base, child = tmp_path / "base.qcow2", tmp_path / "child.qcow2"
    images.create(base, "qcow2", MIB)
    images.create_child(child, base)
    return child


VERBS: list[Callable[[Path], object]] = [
    lambda path: images.write(path, 0, [b"x"]),
    images.merge,
    images.flatten,
    lambda path: images.grow(path, 2 * MIB),
    lambda path: images.reparent(path, path.parent / "base.qcow2"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_an_image_that_qemu_has_open_is_not_written(image: Path, verb: Callable[[Path], object]) -> None:
    before = image.read_bytes()
    # A process of QEMU that holds the image for writing until its standard input ends.
    argv = ["qemu-io", "-f", "qcow2", str(image)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin
        assert guest.stdout
        guest.stdin.write(b"read 0 512\n")
        guest.stdin.flush()
        assert guest.stdout.readline()
        with pytest.raises(UnavailableError, match="in use"):
            verb(image)
        guest.stdin.close()
    assert image.read_bytes() == before
    verb(image)


def test_qemu_cannot_open_what_we_write(image: Path) -> None:
    argv = ["qemu-io", "-f", "qcow2", "-c", "read 0 512", str(image)]
    with opened(image, write=True) as file, locks.for_writing(file):
        run = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert 'Failed to get "write" lock' in run.stderr
        with (
            opened(image, write=True) as other,
            pytest.raises(UnavailableError),
            locks.for_writing(other),
        ):
            pass
    subprocess.run(argv, check=True, capture_output=True)
