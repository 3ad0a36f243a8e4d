"""VHD and VHDX, as `families` asks for them: what rests on something is a differencing image.

Everything is done by our own code: no other program on Linux reads or writes these chains right. A
parent is known by name and by identity, which is compared whenever a chain is opened to work on it.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from breezeblock import images
from breezeblock.attempt import Attempt
from breezeblock.chains.layers import Layer
from breezeblock.errors import CorruptError, UnavailableError
from breezeblock.images import formats, locks, raw, stack, transfer, verbs
from breezeblock.images.file import File, opened
from breezeblock.images.layer import Options
from breezeblock.images.stack import opened_stack
from breezeblock.images.transfer import Range
from breezeblock.shares import files

ABOVE = {"vhd": "vhd", "vhdx": "vhdx"}
MAX_VIRTUAL_BYTES = {"vhd": 2040 << 30, "vhdx": 64 << 40}
MAX_LAYERS = stack.MAX_DEPTH
EVEN = True
_MAX_TOLD = 5
_SEPARATOR = re.compile(r"[/\\]")


def describe(fd: int, name: str, image_format: str) -> Layer:
    """Read an image's headers; see `Family.describe`."""
    image = formats.open_layer(File(fd, name), image_format)
    recorded = image.parent
    return Layer(
        name=name,
        format=image_format,
        virtual_bytes=image.virtual_bytes,
        allocated_bytes=os.fstat(fd).st_blocks * 512,
        backing=stack.parent_name(image, recorded) if recorded else None,
        backing_format=recorded.format if recorded else None,
    )


def create(
    fd: int, path: Path, image_format: str, virtual_bytes: int, attempt: Attempt, *, thick: bool
) -> None:
    """Write a dynamic image, or a fixed one if `thick`; see `Family.create`."""
    file, kind = File(fd, path.name, hidden=True), formats.named(image_format)
    kind.create(file, virtual_bytes, Options(fixed=thick))
    if thick:
        # Where the file system cannot reserve, zeros are written, which must not go over the tables.
        file_bytes = file.size()
        file.truncate(0)
        raw.preallocate(fd, file_bytes, attempt)
        kind.create(file, virtual_bytes, Options(fixed=True))


def put_above(fd: int, directory: Path, below: Layer, virtual_bytes: int) -> None:
    """Write a differencing image without data; see `Family.put_above`."""
    file, image_format = File(fd, below.name, hidden=True), ABOVE[below.format]
    with opened(directory / below.name) as under:
        parent = formats.open_layer(under, below.format)
        formats.named(image_format).create_child(file, parent, below.name, Options())
    image = formats.open_layer(file, image_format)
    if image.virtual_bytes < virtual_bytes:
        image.grow(virtual_bytes)


def settle(directory: Path, image: Layer) -> None:
    """See that nobody writes to the image any more, and that it has no log to be replayed."""
    with opened(directory / image.name) as file:
        if files.held(file.fd):
            raise UnavailableError(
                f"{file.name} is in use: a guest or another program holds a lock on it.",
                remedy="Shut the guest down or detach the volume first.",
            )
    complete(directory, image)


def complete(directory: Path, image: Layer) -> None:
    """Replay the log of a VHDX, if a stop left one: we read through it, many other programs refuse."""
    with opened(directory / image.name) as file:
        if not formats.open_layer(file, image.format).details.get("log_to_replay"):
            return
    with opened(directory / image.name, write=True) as file, locks.for_writing(file):
        formats.open_layer(file, image.format).commit()


def is_empty(path: Path, image_format: str) -> bool:
    """Tell whether a differencing image holds nothing; see `Family.is_empty`."""
    with opened(path) as file:
        image = formats.open_layer(file, image_format)
        return next(transfer.own_ranges(image), None) is None


def require_mergeable(directory: Path, top: Layer, base: Layer) -> None:
    """Look through both images' tables and locks; see `Family.require_mergeable`."""
    with opened_stack(directory / top.name, top.format, write=2) as chain, ExitStack() as held:
        for image in chain.layers[:2]:
            held.enter_context(locks.for_writing(image.file))
            for problem in image.check():
                if not problem.repairable:
                    raise CorruptError(
                        f"{image.file.name}: {problem.text} (at byte {problem.offset}).",
                        remedy="Restore it from a copy; keep the volume detached.",
                    )
        if chain.paths[1].name != base.name:
            raise CorruptError(f"{top.name} rests on {chain.paths[1].name}, not on {base.name}.")


def merge(
    directory: Path, top: Layer, base: Layer, below_bytes: int, attempt: Attempt, *, resumed: bool
) -> None:
    """Write what a differencing image holds into its parent; see `Family.merge`."""
    del below_bytes, resumed  # an image is whole after a stop, and knows what its parent's end hides
    images.merge(directory / top.name, top.format, into=base.name, attempt=attempt)


def relink(directory: Path, child: Layer, backing: Layer, attempt: Attempt) -> None:
    """Record another parent; see `Family.relink`."""
    # A child must not be shorter than its parent, which an extension that was cut off can leave.
    grow(directory, child, backing.virtual_bytes, 0, attempt)
    images.reparent(directory / child.name, directory / backing.name, child.format, backing.format)


def grow(directory: Path, image: Layer, virtual_bytes: int, below_bytes: int, attempt: Attempt) -> None:
    """Let an image be longer; see `Family.grow`."""
    del below_bytes, attempt
    complete(directory, image)
    path = directory / image.name
    with opened_stack(path, image.format, write=1) as chain, locks.for_writing(chain.top.file):
        verbs.grow_top(chain, virtual_bytes)


def rebuild(
    fd: int,
    path: Path,
    layers: tuple[Layer, ...],
    data: tuple[Layer, ...],
    virtual_bytes: int,
    attempt: Attempt,
) -> None:
    """Write a differencing image with the content of images further below; see `Family.rebuild`.

    Whatever an image between holds differs, all else is the same below.
    """
    directory, under = path.parent, layers[0]
    put_above(fd, directory, under, virtual_bytes)
    target = formats.open_layer(File(fd, path.name, hidden=True), ABOVE[under.format])
    with (
        opened_stack(directory / under.name, under.format) as whole,
        opened_stack(directory / data[0].name, data[0].format) as source,
    ):
        between = whole.layers[: len(layers) - len(data)]
        ranges = _union(one for image in between for one in transfer.own_ranges(image))
        transfer.move(source, ranges, target, attempt)


def _union(ranges: Iterable[Range]) -> list[Range]:
    joined: list[Range] = []
    for one in sorted(ranges):
        if joined and one.offset <= joined[-1].end:
            joined[-1] = Range(joined[-1].offset, max(joined[-1].end, one.end))
        else:
            joined.append(one)
    return joined


def flatten(fd: int, path: Path, image: Layer, attempt: Attempt) -> None:
    """Write an image without a parent and with the same identity; see `Family.flatten`."""
    file, kind = File(fd, path.name, hidden=True), formats.named(image.format)
    with (
        opened_stack(path.parent / image.name, image.format, write=1) as chain,
        locks.for_writing(chain.top.file),
    ):
        kind.create(file, chain.virtual_bytes, verbs.like(chain.top))
        flat = formats.open_layer(file, image.format)
        transfer.move(chain, [Range(0, chain.virtual_bytes)], flat, attempt, fresh=True)
        flat.adopt(chain.top)


def copy(
    fd: int,
    name: str,
    source: Path,
    source_format: str,
    target_format: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    fixed: bool = False,
) -> None:
    """Write an image of any format that reads as the chain `source` of any format, zeros beyond its end.

    Of a longer source only the beginning is taken.
    """
    file, kind = File(fd, name, hidden=True), formats.named(target_format)
    with opened_stack(source, source_format) as chain:
        kind.create(file, virtual_bytes, Options(fixed=fixed))
        target = formats.open_layer(file, target_format)
        unit = target.sector_bytes
        length = min(chain.virtual_bytes, virtual_bytes)
        whole = length // unit * unit
        transfer.move(chain, [Range(0, whole)], target, attempt, fresh=True)
        if whole < length:  # the source ends inside a unit of the target
            rest = stack.read(chain, whole, length - whole)
            last = transfer.Batch(target)
            last.put(whole, rest.ljust(min(unit, virtual_bytes - whole), b"\0"))
            last.commit()


def describe_foreign(fd: int, name: str, image_format: str) -> tuple[Layer, str | None]:
    """Describe an image that Windows may have written; return the path by which it knows its parent, too.

    Windows may record a path of its own, and in capitals. Only the last part of it is taken, as the name of
    a file beside the image, and only if `require_parent` then knows that file by its identity.
    """
    image = formats.open_layer(File(fd, name), image_format)
    recorded = image.parent
    told = next(iter(recorded.paths), "") if recorded else None
    found = Layer(
        name=name,
        format=image_format,
        virtual_bytes=image.virtual_bytes,
        allocated_bytes=os.fstat(fd).st_blocks * 512,
        backing=_SEPARATOR.split(told)[-1].lower() if told is not None else None,
        backing_format=recorded.format if recorded else None,
    )
    is_ours = told is not None and told.removeprefix(".\\") == found.backing
    return found, found.backing if is_ours else told


def require_parent(directory: Path, child: Layer, parent: Layer) -> None:
    """Raise CorruptError unless the child was made for this very parent."""
    with opened(directory / child.name) as upper, opened(directory / parent.name) as lower:
        below = formats.open_layer(lower, parent.format)
        formats.open_layer(upper, child.format).verify_parent(below)


def link_foreign(directory: Path, child: Layer) -> None:
    """Let an image name its parent as our own do; `require_parent` has been asked."""
    complete(directory, child)
    assert child.backing is not None  # noqa: S101 - the caller has looked
    with opened(directory / child.name) as file:
        if describe_foreign(file.fd, child.name, child.format)[1] == child.backing:
            return
    images.reparent(directory / child.name, directory / child.backing, child.format, child.backing_format)


def examine(directory: Path, layers: tuple[Layer, ...]) -> Iterator[tuple[str, str, str, bool]]:
    """Look at the tables of all images, and at what they record of their parents; see `Family.examine`."""
    for found in images.check(directory / layers[0].name, layers[0].format):
        remedy = (
            f"`breezeblock doctor --repair` mends it, or `breezeblock image repair {found.name}`, "
            "when nothing uses the volume."
            if found.repairable
            else "Restore it from a copy; keep the volume detached."
        )
        yield found.name, found.text, remedy, not found.repairable


def mendable(directory: Path, image: Layer) -> str:
    """Look at an image's own tables alone; see `Family.mendable`."""
    with opened(directory / image.name) as file:
        found = list(formats.open_layer(file, image.format).check())
    if not found or not all(one.repairable for one in found):
        return ""
    told = "; ".join(one.text for one in found[:_MAX_TOLD]) + ("; ..." if found[_MAX_TOLD:] else "")
    return f"mend {image.name}: {told}"


def mend(directory: Path, image: Layer, attempt: Attempt) -> None:
    """Replay the log, write second copies anew, cut off what nothing refers to; see `Family.mend`."""
    del attempt  # it leaves no file, and may be done again from any point
    images.repair(directory / image.name, image.format)
