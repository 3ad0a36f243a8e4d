"""What a user who may write below an allowed directory can do between the check of a path and its use."""

import os
from pathlib import Path

import pytest

from breezeblock.attempt import Attempt
from breezeblock.errors import InvalidInputError, NoSpaceError
from breezeblock.images import local
from breezeblock.images.addresses import Policy, local_path, parsed

ATTEMPT = Attempt(operation_id="o", token="t")


class World:
    """An allowed directory with one below it, a directory outside; all with a file `image`."""

    def __init__(self, root: Path) -> None:
        self.below, self.outside = root / "allowed" / "below", root / "outside"
        self.scratch = root / "scratch"
        for directory, content in ((self.below, b"mine"), (self.outside, b"secret")):
            directory.mkdir(parents=True)
            (directory / "image").write_bytes(content)
        self.scratch.write_bytes(b"the volume")
        self.policy = Policy(schemes=("file",), directories=(str(root / "allowed"),))

    def checked(self, name: str) -> Path:
        """Return a path that was allowed when it was checked."""
        return local_path(parsed(f"file://{self.below}/{name}", self.policy), self.policy)

    def swap_directory(self) -> None:
        self.below.rename(self.below.with_name("moved"))
        self.below.symlink_to(self.outside)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_directory_that_became_a_link_is_not_read_through(world: World, tmp_path: Path) -> None:
    path = world.checked("image")
    world.swap_directory()
    with pytest.raises(InvalidInputError, match="not below a directory that images may be in"):
        local.copy_in(path, tmp_path / "copy", world.policy, ATTEMPT)
    with pytest.raises(InvalidInputError, match="not below"):
        local.validator(path, world.policy)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("become", ["link", "fifo", "directory", "nothing"])
def test_a_file_that_became_something_else_is_not_read(world: World, tmp_path: Path, become: str) -> None:
    path = world.checked("image")
    path.unlink()
    if become == "link":
        path.symlink_to(world.outside / "image")
    elif become == "fifo":
        os.mkfifo(path)
    elif become == "directory":
        path.mkdir()
    with pytest.raises(InvalidInputError, match=r"cannot be read|not a regular file"):
        local.copy_in(path, tmp_path / "copy", world.policy, ATTEMPT)
    assert not (tmp_path / "copy").exists()


def test_nothing_is_written_or_removed_through_a_directory_that_became_a_link(world: World) -> None:
    path = world.checked("new")
    world.swap_directory()
    (world.outside / f".tmp-{ATTEMPT.operation_id}-x").write_bytes(b"a stranger's")
    before = sorted(world.outside.iterdir())
    with pytest.raises(InvalidInputError, match="not below"):
        local.copy_out(world.scratch, path, world.policy, ATTEMPT)
    with pytest.raises(InvalidInputError, match="not below"):
        local.sweep(path, world.policy, ATTEMPT.operation_id)
    assert sorted(world.outside.iterdir()) == before


@pytest.mark.parametrize("same", [False, True])
def test_a_link_in_the_place_of_the_target_is_left_alone(world: World, *, same: bool) -> None:
    path = world.checked("new")
    if same:  # so that who followed it would take it for what an earlier attempt wrote
        (world.outside / "image").write_bytes(world.scratch.read_bytes())
    path.symlink_to(world.outside / "image")
    before = (world.outside / "image").read_bytes()
    with pytest.raises(InvalidInputError):
        local.copy_out(world.scratch, path, world.policy, ATTEMPT)
    assert path.is_symlink()
    assert (world.outside / "image").read_bytes() == before


def test_a_directory_that_is_away_is_told(world: World) -> None:
    path = world.checked("new")
    world.below.rename(world.below.with_name("moved"))
    with pytest.raises(InvalidInputError, match="cannot be reached"):
        local.copy_out(world.scratch, path, world.policy, ATTEMPT)


def test_what_a_killed_attempt_left_is_removed_and_its_result_is_accepted(world: World) -> None:
    path = world.checked("new")
    left = path.with_name(".tmp-o-killed")
    left.write_bytes(b"half")
    for _attempt in range(2):
        local.copy_out(world.scratch, path, world.policy, ATTEMPT)
        assert path.read_bytes() == world.scratch.read_bytes()
        assert sorted(one.name for one in world.below.iterdir()) == ["image", "new"]


def test_an_image_over_the_limit_is_not_copied(world: World, tmp_path: Path) -> None:
    small = Policy(schemes=("file",), directories=world.policy.directories, max_bytes=3)
    with pytest.raises(NoSpaceError, match="4 bytes or more; the limit is 3"):
        local.copy_in(world.checked("image"), tmp_path / "copy", small, ATTEMPT)
