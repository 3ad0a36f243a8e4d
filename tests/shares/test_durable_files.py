import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from breezeblock.errors import BreezeblockError, CorruptError, NoSpaceError, UnavailableError
from breezeblock.shares import files


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EFBIG, NoSpaceError),
        (errno.ENOENT, UnavailableError),
        (errno.ELOOP, CorruptError),
        (errno.ESTALE, UnavailableError),
        (errno.EIO, UnavailableError),
        (errno.ETIMEDOUT, UnavailableError),
        (errno.EACCES, UnavailableError),
    ],
)
def test_errors_name_the_subject_and_a_remedy(code: int, expected: type[BreezeblockError]) -> None:
    with pytest.raises(expected) as caught, files.storage_errors("volume x"):
        raise OSError(code, os.strerror(code), "/some/where")
    assert "volume x" in caught.value.message
    assert "/some/where" in caught.value.message
    assert caught.value.remedy


def test_replace_is_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    path, temp = tmp_path / "file", tmp_path / ".tmp-1-a"
    for content in (b"one", b"two" * 1000, b""):
        files.replace(path, content, temp, mode=0o640)
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert files.listing(tmp_path) == ["file"]


def test_a_failed_replace_leaves_the_old_content(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        files.replace(small / "file", b"old", small / ".tmp-1-a")
        with pytest.raises(NoSpaceError), files.storage_errors("the file"):
            files.replace(small / "file", b"x" * 100_000, small / ".tmp-1-b")
        assert (small / "file").read_bytes() == b"old"
        assert files.listing(small) == ["file"]
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("kind", ["symlink", "dangling symlink", "fifo", "directory", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "name"
    (tmp_path / "real").write_text("x")
    if kind == "symlink":
        path.symlink_to(tmp_path / "real")
    elif kind == "dangling symlink":
        path.symlink_to("/nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY):
        with pytest.raises(CorruptError, match="name"), files.opened(path, flags):
            pass
    with pytest.raises(CorruptError, match="name"):
        files.exists(path)
    with pytest.raises(CorruptError, match="name"):
        files.read_small(path, 10)


def test_small_reads_are_capped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.read_small(path, 4) is None
    path.write_bytes(b"1234")
    assert files.read_small(path, 4) == b"1234"
    path.write_bytes(b"12345")
    with pytest.raises(CorruptError, match="4 bytes"):
        files.read_small(path, 4)


def test_remove_and_exists(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not files.exists(path)
    path.write_text("x")
    assert files.exists(path)
    assert files.remove(path)
    assert not files.remove(path)


def test_a_new_file_is_not_made_over_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(FileExistsError), files.fresh(path):
        pass
    assert path.read_text() == "x"


def test_notes_name_what_killed_attempts_left(tmp_path: Path) -> None:
    def died(token: str) -> None:
        """What a process leaves that is killed in its work."""
        with (tmp_path / ".tmp-op-attempts").open("a") as note:
            note.write(f"{token}\n")
        (tmp_path / f".tmp-op-{token}").write_text("half")

    # Also one of the same token: a helper process that was killed, and is called again.
    for token in ("one", "two"):
        died(token)
    with files.noted(tmp_path, "op", "two"):
        assert [path.name for path in tmp_path.iterdir()] == [".tmp-op-attempts"]
        with files.noted(tmp_path, "op", "two"):
            (tmp_path / ".tmp-op-two").write_text("work")
        assert len(list(tmp_path.iterdir())) == 2, "the inner verb's end is not the outer one's"
        (tmp_path / ".tmp-op-two").unlink()
    assert list(tmp_path.iterdir()) == []

    def fails() -> None:
        with files.noted(tmp_path, "op", "three"):
            (tmp_path / ".tmp-op-three").write_text("work")
            raise OSError(errno.EIO, "no")

    with pytest.raises(OSError, match="no"):
        fails()
    assert list(tmp_path.iterdir()) == []
