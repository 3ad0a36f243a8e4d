"""What can be done with images: every verb takes paths, and can be run again after a stop at any point."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.errors import CorruptError, InvalidInputError, UnsupportedError
from breezeblock.images import formats, locks, stack, transfer
from breezeblock.images.file import File, opened
from breezeblock.images.layer import Layer, Options
from breezeblock.images.stack import Stack, opened_stack
from breezeblock.images.transfer import Range

_CHUNK_BYTES = 8 << 20


def quiet() -> Attempt:
    """Return an attempt that nobody watches or cancels."""
    return Attempt("image", secrets.token_hex(8))


def create(
    path: Path,
    image_format: str,
    virtual_bytes: int,
    options: Options | None = None,
    attempt: Attempt | None = None,
    *,
    durable: bool = True,
) -> None:
    """Make an image of zeros. Raises FileExistsError if the name is taken.

    `durable`: it is on storage when this returns. Without, as with `qemu-img create`, that takes until
    the kernel writes it by itself or somebody calls fsync: a power failure before may leave the name with
    a file that is empty or in part there.
    """
    with _published(path, attempt or quiet(), durable=durable) as file:
        formats.named(image_format).create(file, virtual_bytes, options or Options())


def create_child(
    path: Path,
    parent: Path,
    image_format: str | None = None,
    parent_format: str | None = None,
    options: Options | None = None,
    attempt: Attempt | None = None,
    *,
    durable: bool = True,
) -> None:
    """Make an image that reads as `parent`, and keeps what is written to it.

    Both lie in the same directory. `image_format` None = the parent's, or qcow2 above raw. `durable` is as
    in `create`.
    """
    name = _beside(path, parent)
    with opened_stack(parent, parent_format) as below:
        stack.require_room(below)
        kind = image_format or (below.top.format if below.top.format != "raw" else "qcow2")
        with _published(path, attempt or quiet(), durable=durable) as file:
            formats.named(kind).create_child(file, below.top, name, options or Options())


def _beside(path: Path, parent: Path) -> str:
    """Return the parent's name for a child at `path`. Raises InvalidInputError."""
    if path.parts[:-1] != parent.parts[:-1] and not path.parent.samefile(parent.parent):
        raise InvalidInputError(f"{path} and its parent {parent} must be in the same directory.")
    return stack.check_name(parent.name)


@contextmanager
def _published(path: Path, attempt: Attempt, *, over: bool = False, durable: bool = True) -> Iterator[File]:
    """Give a new file to write; at the end make it durable, then known by its name."""
    temp = path.with_name(attempt.temp_name)
    fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
    try:
        try:
            yield File(fd, path.name, hidden=True)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        if over:
            temp.rename(path)
        else:
            os.link(temp, path)
            temp.unlink()
        if durable:
            _sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path, offset: int, length: int, image_format: str | None = None) -> Iterator[bytes]:
    """Yield a range of the disk in pieces of at most 8 MiB."""
    with opened_stack(path, image_format) as chain:
        for start in range(offset, offset + length, _CHUNK_BYTES):
            yield stack.read(chain, start, min(_CHUNK_BYTES, offset + length - start))


def write(path: Path, offset: int, data: Iterable[bytes], image_format: str | None = None) -> int:
    """Write a stream of bytes into an image that nobody uses; return how many.

    After a stop every sector holds what it held or what was to be written, and the file is intact.
    """
    done = 0
    with opened_stack(path, image_format, write=1) as chain, locks.for_writing(chain.top.file):
        batch = transfer.Batch(chain.top)
        for piece in _whole_units(data, offset, chain.top.sector_bytes):
            _write(chain, batch, offset + done, piece)
            done += len(piece)
        batch.commit()
    return done


def _whole_units(data: Iterable[bytes], offset: int, unit: int) -> Iterator[bytes]:
    """Cut a stream anew, so that all pieces but the last end where a unit does."""
    rest = b""
    for piece in data:
        rest += piece
        cut = (offset + len(rest)) // unit * unit - offset
        if cut > 0:
            yield rest[:cut]
            rest, offset = rest[cut:], offset + cut
    if rest:
        yield rest


def _write(chain: Stack, batch: transfer.Batch, offset: int, data: bytes) -> None:
    unit, end = chain.top.sector_bytes, offset + len(data)
    if offset < 0 or end > chain.virtual_bytes:
        raise InvalidInputError(
            f"Bytes {offset} to {end} are outside the {chain.virtual_bytes} bytes of {chain.top.file.name}."
        )
    start, stop = offset // unit * unit, min(-(-end // unit) * unit, chain.virtual_bytes)
    if (start, stop) != (offset, end):
        # What is placed but not yet published cannot be read back.
        batch.commit()
        data = stack.read(chain, start, offset - start) + data + stack.read(chain, end, stop - end)
    batch.put(start, data)


def merge(
    path: Path,
    image_format: str | None = None,
    *,
    replace_child: bool = False,
    into: str | None = None,
    attempt: Attempt | None = None,
) -> Path:
    """Write what an image holds into its parent; return the path that then has the content.

    The parent must have no other child. While it runs, and after a stop at any write, `path` reads as
    before, and running it again goes on. Afterwards parent and child read the same: children of `path`
    can be re-linked to the parent, and `path` removed.

    `replace_child`: the parent takes the child's identity and then its name, so that nothing needs
    re-linking; the parent's own name is gone afterwards. Name the parent in `into` to make a run after
    the last step do nothing.
    """
    attempt = attempt or quiet()
    if into is not None and replace_child and not (path.parent / into).exists():
        with opened_stack(path, image_format):
            return path
    if replace_child and (parent := _already_adopted(path, image_format, into)):
        return _rename_over(parent, path)
    with opened_stack(path, image_format, write=2) as chain, ExitStack() as held:
        if len(chain.layers) < 2:
            raise UnsupportedError(f"{path.name} has no parent to be merged into.")
        child, parent_layer = chain.layers[:2]
        if into is not None and chain.paths[1].name != into:
            raise InvalidInputError(f"The parent of {path.name} is {chain.paths[1].name}, not {into}.")
        _check_replaceable(child, parent_layer, replace_child=replace_child)
        for layer in (child, parent_layer):
            held.enter_context(locks.for_writing(layer.file))
        parent_layer.receive(child)
        if parent_layer.virtual_bytes < child.virtual_bytes:
            parent_layer.grow(child.virtual_bytes)
        transfer.move(chain, transfer.own_ranges(child), parent_layer, attempt)
        if replace_child:
            parent_layer.adopt(child)
    return _rename_over(chain.paths[1], path) if replace_child else chain.paths[1]


def _check_replaceable(child: Layer, parent: Layer, *, replace_child: bool) -> None:
    if replace_child and child.format != parent.format:
        raise UnsupportedError(
            f"{parent.file.name} is {parent.format} and cannot stand in the place of a {child.format} image.",
            remedy="Merge without replacing, then re-link the children.",
        )
    if replace_child and parent.virtual_bytes > child.virtual_bytes:
        raise UnsupportedError(f"{parent.file.name} is longer than {child.file.name} and cannot replace it.")


def _already_adopted(path: Path, image_format: str | None, into: str | None) -> Path | None:
    """Return the parent if a run was stopped between its taking the child's identity and its name."""
    with opened(path) as file:
        child = formats.open_layer(file, image_format or formats.guess(file))
        recorded = child.parent
        if recorded is None or not child.identity:
            return None
        parent = path.parent / stack.parent_name(child, recorded)
        if into not in {None, parent.name}:
            return None
        with suppress(FileNotFoundError, CorruptError), opened(parent) as below:
            if formats.open_layer(below, recorded.format).identity == child.identity:
                return parent
    return None


def _rename_over(parent: Path, path: Path) -> Path:
    parent.rename(path)
    _sync_directory(path.parent)
    return path


def reparent(
    path: Path, parent: Path, image_format: str | None = None, parent_format: str | None = None
) -> None:
    """Record another parent, which must read the same as the one it replaces."""
    name = _beside(path, parent)
    with (
        opened(path, write=True) as file,
        locks.for_writing(file),
        opened_stack(parent, parent_format) as below,
    ):
        stack.require_room(below)
        layer = formats.open_layer(file, image_format or formats.guess(file))
        if any(os.path.samestat(os.fstat(one.file.fd), os.fstat(file.fd)) for one in below.layers):
            raise InvalidInputError(f"{path.name} is an ancestor of {parent.name}.")
        layer.reparent(below.top, name)


def grow(path: Path, virtual_bytes: int, image_format: str | None = None) -> None:
    """Raise the virtual bytes; the new ones are zeros. Never shrinks.

    Of a VHD or VHDX chain every layer grows, the lowest first: other programs read a child that is longer
    than its parent in different ways. Of a qcow2 chain only the top grows.
    """
    with opened_stack(path, image_format, write=stack.MAX_DEPTH) as chain, ExitStack() as held:
        top = chain.top
        if virtual_bytes < top.virtual_bytes:
            raise InvalidInputError(f"{path.name} has {top.virtual_bytes} bytes; shrinking is not possible.")
        layers = (top,) if top.format in {"raw", "qcow2"} else chain.layers
        for layer in layers:
            held.enter_context(locks.for_writing(layer.file))
        for depth in reversed(range(len(layers))):
            grow_top(chain.below(depth), virtual_bytes)


def grow_top(chain: Stack, virtual_bytes: int) -> None:
    """Raise the virtual bytes of the topmost layer, unless that would bring bytes of its parent to light."""
    old = chain.virtual_bytes
    if old >= virtual_bytes:
        return
    if len(chain.layers) > 1 and (hidden := min(virtual_bytes, chain.layers[1].virtual_bytes)) > old:
        parts = stack.extents(chain.below(), old, hidden - old)
        if any(any(stack.load(one)) for one in _in_pieces(parts) if not stack.is_zero(one)):
            raise UnsupportedError(
                f"{chain.top.file.name} is shorter than its parent, whose bytes would come to light.",
                remedy="Flatten the image first.",
            )
    chain.top.grow(virtual_bytes)


def _in_pieces(parts: Iterable[stack.Part]) -> Iterator[stack.Part]:
    """Yield parts of at most 8 MiB."""
    for part in parts:
        for start in range(part.extent.offset, part.extent.end, _CHUNK_BYTES):
            yield part._replace(extent=part.extent.clip(start, start + _CHUNK_BYTES))


def convert(
    source: Path,
    target: Path,
    target_format: str,
    source_format: str | None = None,
    options: Options | None = None,
    attempt: Attempt | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write what a chain reads as into a new image without a parent. Raises FileExistsError.

    `durable` is as in `create`.
    """
    attempt = attempt or quiet()
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    with opened_stack(source, source_format) as chain, _published(target, attempt, durable=durable) as file:
        _copy(chain, file, target_format, options or Options(), attempt)


def _copy(chain: Stack, file: File, target_format: str, options: Options, attempt: Attempt) -> Layer:
    formats.named(target_format).create(file, chain.virtual_bytes, options)
    layer = formats.open_layer(file, target_format)
    transfer.move(chain, [Range(0, chain.virtual_bytes)], layer, attempt, fresh=True)
    return layer


def flatten(path: Path, image_format: str | None = None, attempt: Attempt | None = None) -> None:
    """Make an image hold everything itself, under its name and with its identity; its parents stay.

    A new file takes its place in one step, so the old one stays whole until then.
    """
    attempt = attempt or quiet()
    with opened_stack(path, image_format, write=1) as chain, locks.for_writing(chain.top.file):
        if chain.top.parent is None:
            return
        with _published(path, attempt, over=True) as file:
            layer = _copy(chain, file, chain.top.format, like(chain.top), attempt)
            layer.adopt(chain.top)


def like(layer: Layer) -> Options:
    """Return the options that make an image of the same kind."""
    block, creator = layer.details.get("block_bytes"), layer.details.get("creator")
    return Options(
        block_bytes=block if isinstance(block, int) and layer.format != "qcow2" else None,
        sector_bytes=layer.sector_bytes if layer.format == "vhdx" else 512,
        creator="xen" if layer.format == "vhd" and creator == "tap" else None,
    )


def repair(path: Path, image_format: str | None = None) -> list[str]:
    """Mend what can be mended in one file without losing anything; return what was done."""
    with opened(path, write=True) as file, locks.for_writing(file):
        return formats.open_layer(file, image_format or formats.guess(file)).repair()
