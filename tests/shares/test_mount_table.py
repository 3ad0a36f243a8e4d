import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.shares import mounts, space
from breezeblock.shares.sharelist import Share


def test_the_mount_table_is_unescaped(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(
        "22 27 0:21 / / rw,relatime - proc proc rw\n"
        "36 35 98:0 /m1 /mnt/two\\040words rw,noatime master:1 shared:2 - nfs4 nas:/a\\040b\\134c rw\n"
        "a short line\n"
        "\n"
    )
    assert mounts.table(path) == [
        mounts.Entry("/", "proc", "proc"),
        mounts.Entry("/mnt/two words", "nas:/a b\\c", "nfs4"),
    ]


def test_this_machines_own_table() -> None:
    assert mounts.source_at(Path("/proc")) == "proc"
    assert mounts.source_at(Path("/proc/not/mounted")) is None


def test_the_mount_point_is_the_one_consumers_compute() -> None:
    # The figure is what `printf %s nas:/vol | md5sum` prints.
    assert mounts.mount_point(Path("/base"), "nas:/vol").name == "8cb9740e278f8a18f436e971f83ad853"


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (("hard,nosuid", ""), "hard,nosuid"),
        (("hard,nosuid", "soft"), "nosuid,soft"),
        (("nosuid", "suid"), "suid"),
        (("vers=4,minorversion=1", "vers=3"), "vers=3"),
        (("vers=3", "nfsvers=4,minorversion=2"), "nfsvers=4,minorversion=2"),
        (("acdirmin=0", "timeo=50", "timeo=60"), "acdirmin=0,timeo=60"),
        (("", ""), ""),
    ],
)
def test_later_options_replace_earlier_ones(lists: tuple[str, ...], expected: str) -> None:
    assert mounts.merged(*lists) == expected


@given(
    st.lists(
        st.lists(st.sampled_from(["hard", "soft", "vers=3", "vers=4", "nolock", "timeo=1", "rw"])).map(
            ",".join
        )
    )
)
def test_the_last_list_is_kept_whole(lists: list[str]) -> None:
    result = mounts.merged(*lists)
    assert result.endswith(lists[-1] if lists else "")
    assert set(result.split(",")) <= set(",".join(lists).split(",")) | {""}


def test_options_that_break_mounting_are_refused() -> None:
    for option in ("bg", "ro", "remount"):
        with pytest.raises(ConfigError, match=f"mount option {option}"):
            mounts.check_usable(f"vers=3,{option}", "the share a:/b")
    mounts.check_usable("vers=3", "the share a:/b")


def test_a_mount_that_fails_says_why_and_is_shared_by_waiting_threads(tmp_path: Path) -> None:
    # 192.0.2.0/24 is nobody's (RFC 5737); no kernel help is needed for it to fail.
    mounted = mounts.Mounted(Share("192.0.2.1:/x", "vers=3"), tmp_path, attempts=1, timeout_s=2)
    errors: list[str] = []

    def use() -> None:
        with pytest.raises(UnavailableError) as caught:
            mounted.path()
        errors.append(str(caught.value))

    threads = [threading.Thread(target=use) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 5
    assert all("192.0.2.1:/x cannot be mounted at" in error for error in errors)


def test_space_is_what_the_system_says(tmp_path: Path) -> None:
    look = space.Look(tmp_path)
    found = look.space(5)
    system = os.statvfs(tmp_path)
    assert found.total_bytes == system.f_blocks * system.f_frsize
    assert 0 < found.free_bytes <= found.total_bytes
    with pytest.raises(UnavailableError, match="No such file"):
        space.Look(tmp_path / "absent").space(5)
